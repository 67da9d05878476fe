"""One boot's VFIO, PCI and iommufd: the nodes, opening them, and every call on a file that came from one.

`trap` drives no other module of this package. LUO reaches it through the handlers. There are no threads and no waits: a
call that sleeps in the kernel returns `Blocked` here.
"""

from __future__ import annotations

import errno
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from luod.emulator.model.handler import FileHandler
from luod.emulator.model.ports import Errno
from luod.emulator.model.results import Blocked, Waiting
from luod.emulator.model.session import SessionRecord
from luod.emulator.model.vfio.binding import Drivers, Steps, run
from luod.emulator.model.vfio.files import ModelFile
from luod.emulator.model.vfio.function import Function, Port
from luod.emulator.model.vfio.hardware.board import Board
from luod.emulator.model.vfio.hardware.config_space import COMMAND_MASTER
from luod.emulator.model.vfio.hardware.description import Address
from luod.emulator.model.vfio.iommu.group import RESTORED, IommuGroup
from luod.emulator.model.vfio.iommu.iommufd import IommufdFile
from luod.emulator.model.vfio.iommu.locked import LockedMemory
from luod.emulator.model.vfio.legacy.group import ContainerFile, GroupFile
from luod.emulator.model.vfio.liveupdate import DeviceHandler, IommufdHandler, PciLiveUpdate
from luod.emulator.model.vfio.ports import DeviceCaller, DeviceHost
from luod.emulator.model.vfio.record import DeviceRecord
from luod.emulator.model.vfio.rules import Rules
from luod.emulator.model.vfio.sysfs.sysfs import Sysfs
from luod.emulator.model.vfio.vfio_pci import pci_core
from luod.emulator.model.vfio.vfio_pci.cdev import VfioDeviceFile
from luod.uapi import iommufd as iommufd_uapi
from luod.uapi import vfio as uapi


@dataclass(frozen=True)
class Features:
    """The features of one kernel for devices."""

    rules: Rules
    can_map: bool
    """Whether programs can map BARs."""
    carries: bool
    """Whether the kernel can preserve devices."""
    iommufd_preservation: bool
    """Whether it can preserve an iommufd too."""


class Vfio:
    """One boot's side of the hardware. After `close` no operation on its files reaches the hardware."""

    def __init__(
        self,
        host: DeviceHost,
        board: Board,
        features: Features,
        command_line: str,
        sessions: Iterable[SessionRecord],
    ) -> None:
        """`sessions` came over the kexec."""
        self._host = host
        self._board = board
        self._features = features
        self._stopped = False
        self._locked = LockedMemory()
        self._files: weakref.WeakSet[ModelFile] = weakref.WeakSet()
        files = (file for session in sessions for file in session.files)
        records = [file.carried for file in files if isinstance(file.carried, DeviceRecord)]
        words = command_line.split()
        self._number_buses(words, keep=bool(records))
        self.ports: tuple[Port, ...] = ()
        self.groups: dict[int, IommuGroup] = {}
        functions = self._enumerate()
        self.devices = pci_core.VfioDevices()
        around = pci_core.Surroundings(features.rules, features.can_map, host.log, self.devices)
        names = {place.device.description.driver for place in board.places}
        self.drivers = Drivers(sorted(name for name in names if name), around)
        self._pci = PciLiveUpdate(features.rules, lambda: self.drivers.functions, host.log)
        self._claim_restored(functions, records)
        for word in words:
            if word.startswith("vfio-pci.ids="):
                self.drivers.preset(word.partition("=")[2])
        self.drivers.add(functions)
        self._pci.arrived(records)
        self.sysfs = Sysfs(self.drivers, self.devices, self.ports, self.groups.values())

    def _number_buses(self, words: list[str], *, keep: bool) -> None:
        """Renumbers the buses for pci=assign-busses, unless a device came out of a live update (docs/kernel.md, 12)."""
        options = [option for word in words if word.startswith("pci=") for option in word[4:].split(",")]
        if "assign-busses" not in options:
            return
        if keep:
            self._host.log("pci: Bus numbers are kept: devices were preserved across Live Update")
            return
        for domain in {port.domain for port in self._board.ports}:
            behind = sorted((port for port in self._board.ports if port.domain == domain), key=lambda port: port.slot)
            for bus, port in enumerate(behind, 1):
                port.bus = bus

    def _enumerate(self) -> list[Function]:
        """Returns every function of the hardware at its present address, without a driver."""
        ports = {bridge: Port(Address(bridge.domain, 0, bridge.slot, 0), bridge.bus) for bridge in self._board.ports}
        self.ports = tuple(ports.values())
        functions = []
        for place in self._board.places:
            group = self.groups.setdefault(place.group, IommuGroup(place.group))
            port = None if place.port is None else ports[place.port]
            function = Function(place.device, place.address, port, group)
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
                function.group.claim(RESTORED)

    def handlers(self) -> list[FileHandler[Any, Any]]:
        """Returns the handlers to be registered with LUO, after the one for memfds."""
        if not self._features.carries:
            return []
        carries_tables = self._features.iommufd_preservation
        found: list[FileHandler[Any, Any]] = [
            DeviceHandler(self._features.rules, self._pci, self.devices, self._host.log, page_tables_too=carries_tables)
        ]
        if carries_tables:
            found.append(IommufdHandler())
        return found

    @property
    def generation(self) -> int:
        """Changes whenever `nodes` or the contents of `sysfs` may have changed."""
        return self.drivers.generation

    @property
    def functions(self) -> list[Function]:
        """Returns the devices that are present."""
        return self.drivers.functions

    def nodes(self) -> tuple[str, ...]:
        """Returns the paths that can be opened now."""
        registered = [function for function in self.functions if self.devices.of(function) is not None]
        devices = [self.devices.usable(function) for function in registered]
        groups = sorted({function.group.number for function in registered})
        indices = sorted(device.index for device in devices if device is not None)
        return (
            iommufd_uapi.DEVICE,
            uapi.CONTAINER,
            *(f"{uapi.GROUPS}/{number}" for number in groups),
            *(f"{uapi.DEVICES}/vfio{index}" for index in indices),
        )

    def open(self, path: str) -> ModelFile:
        """Opens a path.

        The file has one reference, the opener's. Raises Errno: ENOENT, EBUSY for an unfinished device.
        """
        file = self._open(path)
        self._files.add(file)
        return file

    def _open(self, path: str) -> ModelFile:
        if path == iommufd_uapi.DEVICE:
            return IommufdFile(self._host, self._locked, can_mark=self._features.iommufd_preservation)
        if path == uapi.CONTAINER:
            return ContainerFile(self._locked)
        for function in self.functions:
            device = self.devices.usable(function)
            if device is not None and path == f"{uapi.DEVICES}/vfio{device.index}":
                if self._is_incoming(device):
                    raise Errno(errno.EBUSY)
                return VfioDeviceFile(device, link=path.encode())
            # A group has its file as long as a device of it is registered, also one whose unbind waits.
            if self.devices.of(function) is not None and path == f"{uapi.GROUPS}/{function.group.number}":
                return GroupFile(function.group, self.devices, self._is_incoming)
        raise Errno(errno.ENOENT)

    @staticmethod
    def _is_incoming(device: pci_core.VfioDevice) -> bool:
        return device.function.carriage.incoming > 0

    def ioctl(self, file: ModelFile, command: int, argument: int, caller: DeviceCaller) -> int | Blocked:
        """Returns the ioctl's result, or raises Errno. Fds are installed and memory is written before it returns."""
        return Blocked() if self._stopped else file.ioctl(command & 0xFFFFFFFF, argument, caller)

    def pread(self, file: ModelFile, offset: int, length: int) -> bytes:
        """Reads; fewer bytes than `length` at the end of a region."""
        return file.pread(offset, length)

    def pwrite(self, file: ModelFile, offset: int, data: bytes) -> int:
        """Writes, and returns how many bytes were written."""
        return file.pwrite(offset, data)

    def mmap(self, file: ModelFile, offset: int, length: int) -> None:
        """Notes that a process maps a range. `length` is in bytes, and rounded up to pages. Raises Errno."""
        file.mmap(offset, length)

    def release(self, file: ModelFile) -> None:
        """Drops the reference of the processes. During a kexec that never completes: nothing is undone."""
        if not self._stopped:
            file.close()

    def poll(self) -> bool:
        """Lets devices see stores through mappings. Returns True when more may follow: poll again soon."""
        if self._stopped:
            return False
        devices = (self.devices.of(function) for function in self.functions)
        return pci_core.poll([device for device in devices if device is not None])

    def shutdown(self) -> int | Waiting:
        """Shuts the devices down for the kexec. Afterwards no ioctl is answered, and no close has an effect.

        Waiting: an unbind that waits for files has the lock of its device, and all other calls go on. Where a session
        has such a file, the kexec waits for good (docs/hazards.md, H27): sessions are frozen by now.
        """

        def steps() -> Steps:
            yield from self.drivers.shut_down(self._end_dma)
            self._stopped = True
            return 0

        return run("every file is closed of each device whose unbind waits", steps())

    @staticmethod
    def _end_dma(function: Function) -> None:
        if not function.carriage.outgoing:
            config = function.device.config
            config.command = config.command & ~COMMAND_MASTER

    def close(self) -> None:
        """Ends this kernel: isolates the hardware, and drops what its files hold of processes."""
        self._stopped = True
        for function in self.functions:
            device = self.devices.of(function)
            if device is not None and device.interrupts is not None:
                device.interrupts.close()
                device.leave_low_power()
            function.device.isolate()
        for file in tuple(self._files):
            file.abandon()
