"""A modelled machine with devices, made of dictionaries, and programs that use them as a VMM does.

Calls return what system calls return: a number, or a negative errno.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass, field

from luod.emulator.model.kernel import Kernel
from luod.emulator.model.ports import Errno, HostFile
from luod.emulator.model.profile import Profile
from luod.emulator.model.results import Blocked, Jump, Waiting
from luod.emulator.model.vfio.bus import Bus
from luod.emulator.model.vfio.files import ModelFile
from luod.emulator.model.vfio.hardware.description import DeviceDescription, parse_device
from luod.emulator.model.vfio.ports import EventFd, Locker, MappableMemory, Memory
from luod.emulator.model.vfio.rules import RULES
from luod.emulator.model.vfio.sysfs.sysfs import Directory, Link
from luod.emulator.model.vfio.vfio import Vfio
from luod.uapi import iommufd, vfio
from luod.uapi.kexec import LINUX_REBOOT_CMD_KEXEC
from tests.emulator.model.vfio.parts import Bytes, Event, Pinned, PinnedFile
from tests.emulator.model.world import (
    COMMAND_LINE,
    FORMATS,
    PAGE,
    SCRATCH,
    Counter,
    Description,
    Inode,
    Process,
    Reference,
    World,
    bzimage,
    number,
)

IMAGE = bzimage(*FORMATS, "vfio-pci-v1", "iommufd-v1")
RAM = 0x100000
"""Where `Vmm.ram` puts pages."""
A, B = "0000:01:00.0", "0000:02:00.0"


@dataclass
class DeviceWorld(World):
    """A machine. `pinned` and `events` are those that the model holds, `bars` the memory of all devices."""

    bus: Bus = field(init=False)
    pinned: list[Memory] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    bars: list[Bytes] = field(default_factory=list)
    installed: dict[ModelFile, Description] = field(default_factory=dict)

    @property
    def vfio(self) -> Vfio:
        assert self.kernel.vfio is not None
        return self.kernel.vfio

    def allocate(self, name: str, sizes: Sequence[int]) -> tuple[Memory, ...]:
        bars = tuple(Bytes(size) for size in sizes)
        self.bars += bars
        return bars

    def pin_file(self, file: HostFile, offset: int, length: int) -> MappableMemory:
        assert isinstance(file, Reference)
        assert isinstance(file.description.target, Inode)
        return PinnedFile(self.pinned, file.description.target, offset, length)

    def put(self, description: Description) -> None:
        super().put(description)
        target = description.target
        if description.references == 0 and isinstance(target, ModelFile):
            del self.installed[target]
            self.vfio.release(target)

    def switch_off(self) -> None:
        """Switches the machine off, and checks that everything it held is released."""
        super().switch_off()
        self.bus.close()
        assert self.pinned == []
        assert self.events == []
        assert all(bar.closed for bar in self.bars)

    def load(self, image: bytes = IMAGE, command_line: bytes = COMMAND_LINE) -> Vmm:
        """Loads an image. Returns the operator's process."""
        operator = Vmm(self)
        assert operator.kexec_file_load(image, command_line) == 0
        return operator

    def jump(self, *processes: Process, image: bytes = IMAGE, command_line: bytes = COMMAND_LINE) -> Vmm:
        """Returns the next kernel's first process."""
        assert self.load(image, command_line).reboot(LINUX_REBOOT_CMD_KEXEC) == Jump()
        for process in processes:
            process.die()
        self.installed.clear()
        self.kernel = self.kernel.jump()
        return Vmm(self)

    def bar(self, address: str, index: int = 0) -> Bytes:
        """Returns a BAR as the hardware has it."""
        place = next(place for place in self.bus.places if str(place.address) == address)
        bar = place.device.bars[index]
        assert isinstance(bar, Bytes)
        return bar

    def logged(self, words: str) -> int:
        return sum(words in line for line in self.lines)


def power_on(
    *devices: str | DeviceDescription,
    rules: str = "v2",
    profile: Profile = Profile.MAINLINE,
    command_line: str = "liveupdate=on kho=on",
    iommufd_preservation: bool = False,
    without_handler: frozenset[int] = frozenset(),
    can_map: bool = True,
) -> DeviceWorld:
    world = DeviceWorld()
    world.bus = Bus(
        world,
        [parse_device(device) if isinstance(device, str) else device for device in devices or (A, B)],
        rules=RULES[rules],
        iommufd_preservation=iommufd_preservation,
        without_handler=without_handler,
    )
    world.bus.can_map = can_map
    world.kernel = Kernel(world, features=profile.features, command_line=command_line, bus=world.bus)
    return world


class Vmm(Process):
    """A process, and the `DeviceCaller` of its calls."""

    world: DeviceWorld
    memlock: int | None = None
    """RLIMIT_MEMLOCK in bytes; None: the process has CAP_IPC_LOCK."""

    # The port.

    def file(self, fd: int) -> HostFile:
        if fd in self.fds and isinstance(target := self.fds[fd].target, ModelFile):
            return target.reference()
        return super().file(fd)

    def install(self, file: object, cloexec: bool) -> int:
        if not isinstance(file, ModelFile):
            return super().install(file, cloexec)  # type: ignore[arg-type]  # what the port says it can be
        if not self.has_free_fd():
            raise Errno(errno.EMFILE)
        if file not in self.world.installed:
            self.world.installed[file] = Description(file.reference())
        fd = self.add(self.world.installed[file])
        self.cloexec[fd] = cloexec
        return fd

    def adopt(self, file: HostFile) -> None:
        if not isinstance(file, ModelFile):
            super().adopt(file)

    def eventfd(self, fd: int) -> EventFd:
        if fd not in self.fds:
            raise Errno(errno.EBADF)
        target = self.fds[fd].target
        if not isinstance(target, Counter):
            raise Errno(errno.EINVAL)
        return Event(self.world.events, target)

    def memory(self, address: int, length: int) -> MappableMemory:
        return Pinned(self.world.pinned, self, address, length)

    def locker(self, *, exempt: bool = True) -> Locker | None:
        if self.memlock is None:
            return None if exempt else Locker(self.uid, id(self), 1 << 64)
        return Locker(self.uid, id(self), self.memlock)

    # The program.

    def ram(self, pages: int, address: int = RAM) -> int:
        """Makes new pages of the process. Returns their address."""
        self.pages |= {address // PAGE + index: bytearray(PAGE) for index in range(pages)}
        return address

    def open(self, path: str) -> int:
        try:
            file = self.world.vfio.open(path)
        except Errno as failure:
            return -failure.code
        self.world.installed[file] = Description(file)
        return self.add(self.world.installed[file])

    def open_cdev(self, address: str) -> int:
        """Opens the cdev of a device, which it finds in sysfs as programs do."""
        names = self.listing(f"bus/pci/devices/{address}/vfio-dev")
        return self.open(f"/dev/vfio/devices/{names[0]}")

    def new_eventfd(self) -> int:
        return self.add(Description(Counter()))

    def count(self, fd: int) -> int:
        """Returns the counter of an eventfd, which is 0 afterwards."""
        target = self.fds[fd].target
        assert isinstance(target, Counter)
        value, target.value = target.value, 0
        return value

    def model_file(self, fd: int) -> ModelFile:
        target = self.fds[fd].target
        assert isinstance(target, ModelFile)
        return target

    def ioctl(self, fd: int, command: int, argument: int = 0) -> int | Blocked:
        target = self.fds[fd].target
        if not isinstance(target, ModelFile):
            return super().ioctl(fd, command, argument)
        return self.in_turns(lambda: self.world.vfio.ioctl(target, command, argument, self))

    def pread(self, fd: int, offset: int, length: int) -> bytes | int:
        try:
            return self.world.vfio.pread(self.model_file(fd), offset, length)
        except Errno as failure:
            return -failure.code

    def pwrite(self, fd: int, offset: int, data: bytes) -> int:
        try:
            return self.world.vfio.pwrite(self.model_file(fd), offset, data)
        except Errno as failure:
            return -failure.code

    def mmap(self, fd: int, offset: int, length: int) -> int:
        try:
            self.world.vfio.mmap(self.model_file(fd), offset, length)
            return 0
        except Errno as failure:
            return -failure.code

    # sysfs.

    def resolve(self, path: str) -> str:
        """Returns `path` with links resolved."""
        done: list[str] = []
        parts = path.split("/")
        while parts:
            part = parts.pop(0)
            if part == "..":
                done.pop()
                continue
            done.append(part)
            node = self.world.vfio.sysfs.lookup("/".join(done))
            if isinstance(node, Link):
                done.pop()
                parts = node.target.split("/") + parts
        return "/".join(done)

    def listing(self, path: str) -> tuple[str, ...]:
        node = self.world.vfio.sysfs.lookup(self.resolve(path))
        assert isinstance(node, Directory)
        return node.names

    def exists(self, path: str) -> bool:
        try:
            self.resolve(path)
        except Errno:
            return False
        return True

    def show(self, path: str) -> str:
        return self.world.vfio.sysfs.read(self.resolve(path)).decode()

    def echo(self, words: str, path: str) -> int | Blocked:
        try:
            return self.world.vfio.sysfs.write(self.resolve(path), words.encode() + b"\n")
        except Errno as failure:
            return -failure.code

    def take(self, *addresses: str) -> None:
        """Binds devices to vfio-pci, as scripts do."""
        for address in addresses or (A, B):
            device = f"bus/pci/devices/{address}"
            number(self.echo("vfio-pci", f"{device}/driver_override"))
            if self.exists(f"{device}/driver"):
                number(self.echo(address, f"{device}/driver/unbind"))
            number(self.echo(address, "bus/pci/drivers/vfio-pci/bind"))

    # VFIO and iommufd.

    def bind(self, device: int, iommu: int, flags: int = 0, token: int = 0, size: int = 24) -> int | Blocked:
        """Binds the device; returns its number in the iommufd."""
        result = self.call(
            device, vfio.VFIO_DEVICE_BIND_IOMMUFD, vfio.DEVICE_BIND_IOMMUFD.pack(size, flags, iommu, 0, token)
        )
        return result if result != 0 else self._u32(12)

    def attach(self, device: int, table: int) -> int | Blocked:
        """Attaches the device; returns the page table's number."""
        result = self.call(
            device, vfio.VFIO_DEVICE_ATTACH_IOMMUFD_PT, vfio.DEVICE_ATTACH_IOMMUFD_PT.pack(16, 0, table, 0)
        )
        return result if result != 0 else self._u32(8)

    def detach(self, device: int) -> int | Blocked:
        return self.call(device, vfio.VFIO_DEVICE_DETACH_IOMMUFD_PT, vfio.DEVICE_DETACH_IOMMUFD_PT.pack(12, 0, 0))

    def ioas(self, iommu: int) -> int:
        number(self.call(iommu, iommufd.IOMMU_IOAS_ALLOC, iommufd.IOAS_ALLOC.pack(12, 0, 0)))
        return self._u32(8)

    def map(self, iommu: int, ioas: int, address: int, length: int, iova: int | None, flags: int = 6) -> int | Blocked:
        """Maps; returns the address, which is `iova` unless that is None."""
        flags |= 0 if iova is None else iommufd.IOMMU_IOAS_MAP_FIXED_IOVA
        result = self.call(
            iommu, iommufd.IOMMU_IOAS_MAP, iommufd.IOAS_MAP.pack(40, flags, ioas, 0, address, length, iova or 0)
        )
        return result if result != 0 else self._u64(32)

    def map_file(self, iommu: int, ioas: int, fd: int, start: int, length: int, iova: int) -> int | Blocked:
        argument = iommufd.IOAS_MAP_FILE.pack(40, 7, ioas, fd, start, length, iova)
        return self.call(iommu, iommufd.IOMMU_IOAS_MAP_FILE, argument)

    def unmap(self, iommu: int, ioas: int, iova: int, length: int) -> int | Blocked:
        """Unmaps; returns the number of bytes."""
        argument = iommufd.IOAS_UNMAP.pack(24, ioas, iova, length)
        result = self.call(iommu, iommufd.IOMMU_IOAS_UNMAP, argument)
        return result if result != 0 else self._u64(16)

    def hwpt(self, iommu: int, device: int, ioas: int) -> int | Blocked:
        argument = iommufd.HWPT_ALLOC.pack(48, 0, device, ioas, 0, 0, 0, 0, 0, 0, 0)
        result = self.call(iommu, iommufd.IOMMU_HWPT_ALLOC, argument)
        return result if result != 0 else self._u32(16)

    def destroy(self, iommu: int, thing: int) -> int | Blocked:
        return self.call(iommu, iommufd.IOMMU_DESTROY, iommufd.DESTROY.pack(8, thing))

    def get_info(self, device: int) -> int | Blocked:
        return self.call(device, vfio.VFIO_DEVICE_GET_INFO, vfio.DEVICE_INFO.pack(24, 0, 0, 0, 0, 0))

    def set_irqs(
        self, device: int, index: int, flags: int, start: int, count: int, data: bytes = b"", size: int | None = None
    ) -> int | Blocked:
        argument = vfio.IRQ_SET.pack(20 + len(data) if size is None else size, flags, index, start, count) + data
        return self.call(device, vfio.VFIO_DEVICE_SET_IRQS, argument)

    def msix(self, device: int, *fds: int, start: int = 0) -> int | Blocked:
        """Sets the eventfds of the vectors from `start` on. Without eventfds, disables MSI-X."""
        kind = vfio.VFIO_IRQ_SET_DATA_EVENTFD if fds else vfio.VFIO_IRQ_SET_DATA_NONE
        data = b"".join(fd.to_bytes(4, "little", signed=True) for fd in fds)
        flags = kind | vfio.VFIO_IRQ_SET_ACTION_TRIGGER
        return self.set_irqs(device, vfio.VFIO_PCI_MSIX_IRQ_INDEX, flags, start, len(fds), data)

    def get_device(self, group: int, name: str) -> int | Blocked:
        return self.call(group, vfio.VFIO_GROUP_GET_DEVICE_FD, name.encode() + b"\0")

    def set_container(self, group: int, container: int) -> int | Blocked:
        return self.call(group, vfio.VFIO_GROUP_SET_CONTAINER, container.to_bytes(4, "little", signed=True))

    def config(self, device: int, offset: int, size: int = 2) -> int:
        data = self.pread(device, vfio.VFIO_PCI_CONFIG_REGION_INDEX << 40 | offset, size)
        assert isinstance(data, bytes)
        return int.from_bytes(data, "little")

    def set_config(self, device: int, offset: int, value: int, size: int = 2) -> int:
        return self.pwrite(device, vfio.VFIO_PCI_CONFIG_REGION_INDEX << 40 | offset, value.to_bytes(size, "little"))

    def opened(self, address: str = A) -> tuple[int, int]:
        """Returns (device, iommufd): a cdev that is bound."""
        device, iommu = number(self.open_cdev(address)), number(self.open("/dev/iommu"))
        number(self.bind(device, iommu))
        return device, iommu

    def through_group(self, address: str = A) -> tuple[int, int, int]:
        """Returns (device, group, container): a device from a group."""
        name = self.resolve(f"bus/pci/devices/{address}/iommu_group").rpartition("/")[2]
        group, container = number(self.open(f"/dev/vfio/{name}")), number(self.open("/dev/vfio/vfio"))
        assert self.set_container(group, container) == 0
        assert self.ioctl(container, vfio.VFIO_SET_IOMMU, vfio.VFIO_TYPE1v2_IOMMU) == 0
        return number(self.get_device(group, address)), group, container

    def _u32(self, offset: int) -> int:
        return int.from_bytes(self.read(SCRATCH + offset, 4), "little")

    def _u64(self, offset: int) -> int:
        return int.from_bytes(self.read(SCRATCH + offset, 8), "little")


def done(result: int | Blocked) -> int | None:
    """Returns the present result of a call that had to wait, None while it still waits."""
    assert isinstance(result, Waiting)
    try:
        return result.poll()
    except Errno as failure:
        return -failure.code
