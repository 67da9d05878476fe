"""One boot's VFIO, PCI and iommufd: the nodes there are, opening them, and every call on a file that came from one.

All that `trap` drives of this package, besides what LUO does through the handlers. No threads, no waiting: what sleeps
in the kernel is `Blocked` here.
"""

from __future__ import annotations

import errno
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from luod.emulator.model.handler import FileHandler
from luod.emulator.model.ports import Errno
from luod.emulator.model.results import Blocked
from luod.emulator.model.session import SessionRecord
from luod.emulator.model.vfio.driver import Drivers
from luod.emulator.model.vfio.files import Mapping, ModelFile
from luod.emulator.model.vfio.function import Function, IommuGroup, Port
from luod.emulator.model.vfio.hardware.config_space import COMMAND_MASTER
from luod.emulator.model.vfio.hardware.description import Address
from luod.emulator.model.vfio.iommu.iommufd import IommufdFile
from luod.emulator.model.vfio.legacy.group import ContainerFile, GroupFile
from luod.emulator.model.vfio.liveupdate import DeviceHandler, DeviceRecord, IommufdHandler, PciLiveUpdate
from luod.emulator.model.vfio.ports import DeviceCaller
from luod.emulator.model.vfio.sysfs.sysfs import Sysfs
from luod.emulator.model.vfio.vfio_pci import pci_core
from luod.emulator.model.vfio.vfio_pci.cdev import VfioDeviceFile
from luod.uapi import iommufd as iommufd_uapi
from luod.uapi import vfio as uapi

if TYPE_CHECKING:
    from luod.emulator.model.vfio.bus import Bus

_RESTORED: Final = "a page table of the kernel before"
"""The owner of groups whose devices came with one."""


class Vfio:
    """Made by `Bus.boot`; over with `close`, after which nothing that is done to its files reaches the hardware."""

    def __init__(self, bus: Bus, command_line: str, sessions: Iterable[SessionRecord], *, carries: bool) -> None:
        """`sessions` came over the jump. `carries`: this kernel can preserve devices."""
        self._bus = bus
        self._generation = 0
        self._stopped = False
        self._files: weakref.WeakSet[ModelFile] = weakref.WeakSet()
        self._carries = carries
        files = (file for session in sessions for file in session.files)
        records = [file.carried for file in files if isinstance(file.carried, DeviceRecord)]
        words = command_line.split()
        self._number_buses(words, keep=bool(records))
        self.ports: tuple[Port, ...] = ()
        self.groups: dict[int, IommuGroup] = {}
        functions = self._enumerate()
        around = pci_core.Surroundings(bus.rules, bus.can_map, bus.host.log)
        names = {place.device.description.driver for place in bus.places}
        self.drivers = Drivers(sorted(name for name in names if name), around, self._change)
        self._pci = PciLiveUpdate(bus.rules, lambda: self.drivers.functions, bus.host.log)
        self._claim_restored(functions, records)
        for word in words:
            if word.startswith("vfio-pci.ids="):
                self.drivers.preset(word.partition("=")[2])
        self.drivers.add(functions)
        self._pci.arrived(records)
        self.sysfs = Sysfs(self)

    def _number_buses(self, words: list[str], *, keep: bool) -> None:
        """pci=assign-busses numbers them anew, unless a device came out of a live update (B.5)."""
        options = [option for word in words if word.startswith("pci=") for option in word[4:].split(",")]
        if "assign-busses" not in options:
            return
        if keep:
            self._bus.host.log("pci: Bus numbers are kept: devices were preserved across Live Update")
            return
        for domain in {port.domain for port in self._bus.ports}:
            behind = sorted((port for port in self._bus.ports if port.domain == domain), key=lambda port: port.slot)
            for bus, port in enumerate(behind, 1):
                port.bus = bus

    def _enumerate(self) -> list[Function]:
        """Every function of the hardware at its address of today, none with a driver."""
        ports = {
            hardware: Port(Address(hardware.domain, 0, hardware.slot, 0), hardware.bus) for hardware in self._bus.ports
        }
        self.ports = tuple(ports.values())
        functions = []
        for place in self._bus.places:
            group = self.groups.setdefault(place.group, IommuGroup(place.group))
            port = None if place.port is None else ports[place.port]
            function = Function(place.device, place.address, port, group)
            group.functions.append(function)
            if port is not None:
                port.functions.append(function)
            functions.append(function)
        by_description = {function.device.description.address: function for function in functions}
        for function in functions:
            physical = function.device.description.vf_of
            if physical is not None:
                function.physical = by_description[physical]
                by_description[physical].virtual.append(function)
        return functions

    @staticmethod
    def _claim_restored(functions: list[Function], records: list[DeviceRecord]) -> None:
        with_page_table = {record.address for record in records if record.has_page_table}
        for function in functions:
            if function.address in with_page_table:
                function.group.claim(_RESTORED)

    def handlers(self) -> list[FileHandler[Any, Any]]:
        """To be registered with LUO, after that of memfds."""
        if not self._carries:
            return []
        rules, log = self._bus.rules, self._bus.host.log
        carries_tables = self._bus.iommufd_preservation
        found: list[FileHandler[Any, Any]] = [DeviceHandler(rules, self._pci, log, page_tables_too=carries_tables)]
        if carries_tables:
            found.append(IommufdHandler())
        return found

    @property
    def generation(self) -> int:
        """Another number whenever `nodes` or what `sysfs` has may be different."""
        return self._generation

    def _change(self) -> None:
        self._generation += 1

    @property
    def functions(self) -> list[Function]:
        """Devices that are there now, by address."""
        return self.drivers.functions

    def nodes(self) -> tuple[str, ...]:
        """Paths that can be opened now."""
        devices = [function.usable_vfio for function in self.functions]
        groups = sorted({device.function.group.number for device in devices if device is not None})
        indices = sorted(device.index for device in devices if device is not None)
        return (
            iommufd_uapi.DEVICE,
            uapi.CONTAINER,
            *(f"{uapi.GROUPS}/{number}" for number in groups),
            *(f"{uapi.DEVICES}/vfio{index}" for index in indices),
        )

    def open(self, path: str, caller: DeviceCaller) -> ModelFile:
        """A file with one reference, the caller's. ENOENT, and EBUSY for a device that is yet to be finished."""
        file = self._open(path)
        self._files.add(file)
        return file

    def _open(self, path: str) -> ModelFile:
        if path == iommufd_uapi.DEVICE:
            return IommufdFile(self._bus.host, can_mark=self._bus.iommufd_preservation)
        if path == uapi.CONTAINER:
            return ContainerFile()
        for function in self.functions:
            device = function.usable_vfio
            if device is None:
                continue
            if path == f"{uapi.DEVICES}/vfio{device.index}":
                if self._is_incoming(device):
                    raise Errno(errno.EBUSY)
                return VfioDeviceFile(device, link=path.encode())
            if path == f"{uapi.GROUPS}/{function.group.number}":
                return GroupFile(function.group, self._is_incoming)
        raise Errno(errno.ENOENT)

    @staticmethod
    def _is_incoming(device: pci_core.VfioDevice) -> bool:
        return device.function.carriage.incoming > 0

    def ioctl(self, file: ModelFile, command: int, argument: int, caller: DeviceCaller) -> int | Blocked:
        """A number, or an Errno. Installs fds and writes memory through `caller` before it returns."""
        return Blocked() if self._stopped else file.ioctl(command & 0xFFFFFFFF, argument, caller)

    def pread(self, file: ModelFile, offset: int, length: int) -> bytes:
        """Fewer bytes than asked for at the end of a region."""
        return file.pread(offset, length)

    def pwrite(self, file: ModelFile, offset: int, data: bytes) -> int:
        """How many bytes were written."""
        return file.pwrite(offset, data)

    def mmap(self, file: ModelFile, offset: int, length: int, *, writable: bool) -> Mapping:
        """What to map. `length` is in bytes, and rounded up to pages."""
        return file.mmap(offset, length, writable=writable)

    def release(self, file: ModelFile) -> None:
        """No process has the file any more. While the machine jumps that waits for ever, so nothing is undone."""
        if not self._stopped:
            file.close()

    def poll(self) -> bool:
        """Let devices see what was stored into them through a mapping. True: more of that may come, ask again soon."""
        if self._stopped:
            return False
        return pci_core.poll([device for function in self.functions if (device := function.vfio) is not None])

    def shutdown(self) -> Blocked | None:
        """The machine jumps: nothing is answered any more. Blocked: it hangs, and never does.

        An unbind that waits holds its device's lock, which the shutdown of devices needs [observed once, F].
        """
        self._stopped = True
        if self.drivers.unbinding is not None:
            return Blocked()
        for function in self.functions:
            if not function.carriage.outgoing:
                config = function.device.config
                config.command = config.command & ~COMMAND_MASTER
        return None

    def close(self) -> None:
        """This kernel is gone: the hardware stands alone, and what its files held of processes is let go."""
        self._stopped = True
        for function in self.functions:
            if function.vfio is not None and function.vfio.interrupts is not None:
                function.vfio.interrupts.close()
            function.device.isolate()
        for file in tuple(self._files):
            file.abandon()
