"""The file handlers of live update for VFIO devices and iommufd contexts, and PCI's state of incoming and outgoing
devices.

They implement `model.handler`; LUO knows nothing of devices. How strict they are is data (`rules.py`). Preserving an
iommufd follows v2 of the posted series "iommu: Add live update state preservation" (docs/kernel.md, 12). It gives a
user nothing in the next kernel yet.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Final

from luod.emulator.model.handler import Beside, FileHandler
from luod.emulator.model.ports import Errno, HostFile, Kind
from luod.emulator.model.vfio.driver import VFIO_PCI
from luod.emulator.model.vfio.function import Carriage, Function
from luod.emulator.model.vfio.hardware.description import INTEL, Address
from luod.emulator.model.vfio.iommu.context import PageTable
from luod.emulator.model.vfio.iommu.iommufd import IommufdFile
from luod.emulator.model.vfio.record import DeviceRecord
from luod.emulator.model.vfio.rules import Finish, Rules, Trait
from luod.emulator.model.vfio.vfio_pci.cdev import VfioDeviceFile
from luod.emulator.model.vfio.vfio_pci.pci_core import VfioDevices
from luod.uapi.memfd import F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK

DEVICE_FORMAT: Final = "vfio-pci-v1"
IOMMUFD_FORMAT: Final = "iommufd-v1"
_SEALS: Final = F_SEAL_SEAL | F_SEAL_GROW | F_SEAL_SHRINK


class PciLiveUpdate:
    """The functions and bridges of this boot that are outgoing or incoming in a live update."""

    def __init__(self, rules: Rules, functions: Callable[[], Iterable[Function]], log: Callable[[str], None]) -> None:
        self._rules = rules
        self._functions = functions
        self._log = log

    def find(self, address: Address) -> Function | None:
        """Returns the function at `address`, or None."""
        return next((function for function in self._functions() if function.address == address), None)

    def _path(self, function: Function) -> list[tuple[Address, Carriage]]:
        path = function.path()
        return path if self._rules.preserves_bridges else path[:1]

    def preserve(self, function: Function) -> None:
        """Counts a function as preserved.

        Raises Errno: EINVAL for a virtual function, EBUSY when it is preserved already, EINVAL for one with an ACS
        quirk.
        """
        if function.physical is not None:
            raise Errno(errno.EINVAL)
        if function.carriage.outgoing:
            raise Errno(errno.EBUSY)
        if self._rules.refuses_acs_quirks and function.device.description.acs_quirk:
            self._log(f"pci {function.address}: Refusing to preserve device that relies on ACS quirks")
            raise Errno(errno.EINVAL)
        for address, carriage in self._path(function):
            carriage.outgoing += 1
            if carriage.outgoing == 1:
                self._log(f"pci {address}: Device will be preserved across next Live Update")

    def unpreserve(self, function: Function) -> None:
        """Removes a function from the count, even if it was preserved through another file: the two are not
        distinguished.
        """
        if not function.carriage.outgoing:
            return
        for address, carriage in self._path(function):
            carriage.outgoing -= 1
            if not carriage.outgoing:
                self._log(f"pci {address}: Device will no longer be preserved across next Live Update")

    def arrived(self, records: Iterable[DeviceRecord]) -> None:
        """Counts, at boot, the devices that the previous kernel preserved.

        A device counts once, for any number of its files.
        """
        for record in records:
            function = self.find(record.address)
            if function is None or not record.tracked or function.carriage.incoming:
                continue
            for address, carriage in self._path(function):
                carriage.incoming += 1
                if carriage.incoming == 1:
                    self._log(f"pci {address}: Device was preserved by previous kernel across Live Update")

    def finish(self, record: DeviceRecord) -> None:
        """Removes an incoming device from the count."""
        function = self.find(record.address)
        if function is None or not record.tracked or not function.carriage.incoming:
            return
        for address, carriage in self._path(function):
            carriage.incoming -= 1
            if not carriage.incoming:
                self._log(f"pci {address}: Device is finished participating in Live Update")


class DeviceHandler(FileHandler[None, DeviceRecord]):
    """Handles files of /dev/vfio/devices/vfioN, while vfio-pci has the device. PCI counts them: they have no state."""

    compatible = DEVICE_FORMAT

    def __init__(
        self,
        rules: Rules,
        pci: PciLiveUpdate,
        devices: VfioDevices,
        log: Callable[[str], None],
        *,
        page_tables_too: bool,
    ) -> None:
        """`page_tables_too`: whether a device's page table is carried with it, through its iommufd."""
        self._rules = rules
        self._pci = pci
        self._devices = devices
        self._log = log
        self._page_tables_too = page_tables_too

    def can_preserve(self, file: HostFile) -> bool:
        return isinstance(file, VfioDeviceFile) and not any(_has(file, trait) for trait in self._rules.unfit)

    def identity(self, file: HostFile) -> Hashable:
        return file.identity

    def preserve(self, file: HostFile) -> None:
        """Preserves `file` in a session without any other file."""
        self.preserve_beside(file, ())

    def preserve_beside(self, file: HostFile, others: Iterable[Beside]) -> None:
        """Preserves `file`.

        Raises Errno: what the rules refuse; PCI's errnos where the rules report them; EINVAL, ENOENT for page table and
        iommufd.
        """
        device_file = _device_file(file)
        for trait, code in self._rules.refused:
            if _has(device_file, trait):
                raise Errno(code)
        if self._page_tables_too:
            self._check_page_table(device_file, others)
        try:
            self._pci.preserve(device_file.device.function)
        except Errno:
            if self._rules.reports_pci_errors:
                raise

    @staticmethod
    def _check_page_table(file: VfioDeviceFile, others: Iterable[Beside]) -> None:
        bound = file.device.bound
        if bound is None or bound.page_table is None:
            return
        if bound.page_table.preserve_token is None:
            raise Errno(errno.EINVAL)
        contexts = [other.file.context for other in others if isinstance(other.file, IommufdFile)]
        if bound.context not in contexts:
            raise Errno(errno.ENOENT)

    def unpreserve(self, file: HostFile, state: None) -> None:
        self._pci.unpreserve(_device_file(file).device.function)

    def freeze(self, file: HostFile, state: None) -> None:
        """Resets the device, which `unfreeze` does not undo (docs/hazards.md, H22).

        Raises Errno: EINVAL for a device that is not quiet, the errno of a failed reset where the rules report it.
        """
        device = _device_file(file).device
        for obstacle, code in self._rules.obstacles:
            if device.has(obstacle):
                self._log(f"vfio-pci {device.function.address}: Freeze failed! {obstacle.value}")
                raise Errno(code)
        device.freeze()

    def carry(self, file: HostFile, state: None) -> DeviceRecord:
        device = _device_file(file).device
        bound = device.bound
        record = DeviceRecord(
            address=device.function.address,
            # Read now: another file may have removed the device since PRESERVE.
            tracked=device.function.carriage.outgoing > 0,
            reset_works=device.reset_works,
            has_page_table=self._page_tables_too and bound is not None and bound.page_table is not None,
        )
        file.close()
        return record

    def retrieve(self, record: DeviceRecord) -> HostFile:
        """Returns a new file of the device. Raises Errno(ENODEV) unless a VFIO driver is bound to it."""
        function = self._pci.find(record.address)
        device = None if function is None else self._devices.usable(function)
        if device is None:
            raise Errno(errno.ENODEV)
        device.carried = record
        return VfioDeviceFile(device, link=b"anon_inode:[vfio-device-liveupdate]")

    def can_finish(self, record: DeviceRecord, file: HostFile | None) -> bool:
        if file is None:
            return False
        if self._rules.finish is Finish.BOUND:
            return _device_file(file).device.cdev_bound
        return record.enabled

    def finish(self, record: DeviceRecord, file: HostFile | None) -> None:
        self._pci.finish(record)


def _device_file(file: HostFile) -> VfioDeviceFile:
    assert isinstance(file, VfioDeviceFile), "no other was accepted"
    return file


def _has(file: VfioDeviceFile, trait: Trait) -> bool:
    function = file.device.function
    description = function.device.description
    match trait:
        case Trait.GROUP:
            return file.group is not None
        case Trait.UNBOUND:
            # A property of the device, not of this file: a second, unbound file of a bound device passes, as on 7.3.4
            # with the series (vfio_pci_liveupdate_can_preserve).
            return not file.device.cdev_bound
        case Trait.VARIANT_DRIVER:
            return function.driver is None or function.driver.name != VFIO_PCI
        case Trait.INTEL_DISPLAY:
            return description.vendor == INTEL and description.display
        case Trait.VIRTUAL_FUNCTION:
            return function.physical is not None


@dataclass(frozen=True)
class IommufdRecord:
    """The tokens of the page tables. No call uses them yet."""

    tokens: tuple[int, ...]

    def drop(self) -> None:
        """Frees nothing: the mapped memory belongs to the memfds."""


class IommufdHandler(FileHandler[tuple[PageTable, ...], IommufdRecord]):
    """Handles contexts of /dev/iommu: the page tables that are marked to be preserved, and their mappings."""

    compatible = IOMMUFD_FORMAT

    def can_preserve(self, file: HostFile) -> bool:
        return file.kind is Kind.IOMMUFD

    def identity(self, file: HostFile) -> Hashable:
        return file.identity

    def preserve(self, file: HostFile) -> tuple[PageTable, ...]:
        """Preserves `file` in a session without any other file."""
        return self.preserve_beside(file, ())

    def preserve_beside(self, file: HostFile, others: Iterable[Beside]) -> tuple[PageTable, ...]:
        """Preserves `file`.

        Raises Errno: EINVAL unless only sealed memfds are mapped, ENOENT unless they are preserved in the same session.
        """
        assert isinstance(file, IommufdFile), "no other was accepted"
        tables = tuple(file.context.marked())
        preserved = {other.identity for other in others}
        for table in tables:
            for area in table.ioas.space:
                backing = area.pages.file
                if backing is None or backing.seals & _SEALS != _SEALS:
                    raise Errno(errno.EINVAL)
                if backing.identity not in preserved:
                    raise Errno(errno.ENOENT)
        for table in tables:
            table.ioas.frozen_by += 1
        return tables

    def unpreserve(self, file: HostFile, state: tuple[PageTable, ...]) -> None:
        for table in state:
            table.ioas.frozen_by -= 1

    def carry(self, file: HostFile, state: tuple[PageTable, ...]) -> IommufdRecord:
        file.close()
        return IommufdRecord(tuple(table.preserve_token or 0 for table in state))

    def retrieve(self, record: IommufdRecord) -> HostFile:
        """Raises Errno(EOPNOTSUPP): the posted series cannot return a context."""
        raise Errno(errno.EOPNOTSUPP)

    def can_finish(self, record: IommufdRecord, file: HostFile | None) -> bool:
        return False
