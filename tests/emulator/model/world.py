"""The world around a modelled kernel, made of dictionaries: memory pages, memfds, processes with fds.

Programs make the calls, and they return what the system calls return: a number, or a negative errno.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

from luod.emulator.model.caller import CAP_SYS_BOOT, IMAGE_FRONT
from luod.emulator.model.files import DeviceFile, SessionFile
from luod.emulator.model.kernel import Kernel
from luod.emulator.model.ports import Errno, HostFile, Kind
from luod.emulator.model.results import Blocked, Ending, Jump, Unfinished
from luod.emulator.model.vfio.files import ModelFile
from luod.uapi import kexec, liveupdate

PAGE = 4096
SCRATCH = 0x10000
"""Two writable pages every process has: where arguments go unless a test says otherwise."""
READ_ONLY = 0x20000
"""Two pages that can be read and not written."""
MEMORY = 8 << 30
"""Bytes of the machine's memory."""

MAGIC1, MAGIC2 = kexec.LINUX_REBOOT_MAGIC1, kexec.LINUX_REBOOT_MAGIC2
FORMATS = ("luo-v5", "kho-v4", "memfd-v2")


@dataclass(eq=False)
class Inode:
    """The contents of a file of the host."""

    kind: Kind = Kind.MEMFD
    data: bytes = b""
    seals: int = 1
    pretended_size: int | None = None
    filled: bool = False
    fill_error: int = 0
    owner: int | None = None
    name: bytes = b""


@dataclass(eq=False)
class Counter:
    """An eventfd."""

    value: int = 0


Target = Inode | Counter | SessionFile | DeviceFile | ModelFile


@dataclass(eq=False)
class Description:
    """An open file. `references` counts its fds and the references of the model."""

    target: Target
    position: int = 0
    references: int = 0
    writable: bool = True


class Reference:
    """The model's `HostFile`."""

    def __init__(self, world: World, description: Description) -> None:
        self.description = description
        self._world = world
        description.references += 1
        world.held.append(self)

    @property
    def kind(self) -> Kind:
        target = self.description.target
        if isinstance(target, Inode):
            return target.kind
        return Kind.SESSION if isinstance(target, SessionFile) else Kind.LIVEUPDATE

    @property
    def identity(self) -> Hashable:
        return id(self.description.target)

    @property
    def _inode(self) -> Inode:
        assert isinstance(self.description.target, Inode)
        return self.description.target

    @property
    def name(self) -> bytes:
        return self._inode.name

    def size(self) -> int:
        pretended = self._inode.pretended_size
        return len(self._inode.data) if pretended is None else pretended

    def seals(self) -> int:
        return self._inode.seals

    def position(self) -> int:
        return self.description.position

    def writable(self) -> bool:
        return self.description.writable

    def pin(self) -> None:
        if self._inode.fill_error:
            raise Errno(self._inode.fill_error)
        self._inode.filled = True

    def close(self) -> None:
        self._world.held.remove(self)  # ValueError when closed twice
        self._world.put(self.description)


@dataclass
class World:
    """A machine over all its boots. `held` are the files that the model has not closed."""

    kernel: Kernel = field(init=False)
    held: list[Reference] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    take_over_error: int = 0

    def switch_off(self) -> None:
        """Switches the machine off, and checks that every file it held is released."""
        self.kernel.close()
        assert self.held == []

    def take_over(self, kept: HostFile, *, size: int, seals: int, position: int, name: bytes = b"") -> HostFile:
        assert isinstance(kept, Reference)
        assert isinstance(kept.description.target, Inode)
        if self.take_over_error:
            raise Errno(self.take_over_error)
        data = kept.description.target.data[:size].ljust(size, b"\0")
        return Reference(self, Description(Inode(Kind.MEMFD, data, seals, name=name), position))

    def fill(self, target: HostFile, kept: HostFile, *, size: int) -> None:
        assert isinstance(target, Reference)
        assert isinstance(kept, Reference)
        if self.take_over_error:
            raise Errno(self.take_over_error)
        source = kept.description.target
        filled = target.description.target
        assert isinstance(source, Inode)
        assert isinstance(filled, Inode)
        filled.data = source.data[:size].ljust(size, b"\0")

    def memory(self) -> int:
        return MEMORY

    def log(self, line: str) -> None:
        self.lines.append(line)

    def put(self, description: Description) -> None:
        description.references -= 1
        if description.references == 0 and isinstance(description.target, SessionFile | DeviceFile):
            self.kernel.release(description.target)


class Process:
    """A process, and the `Caller` of its calls."""

    def __init__(self, world: World, *, fd_limit: int = 1024) -> None:
        self.world = world
        self.fd_limit = fd_limit
        self.uid = 0
        self.capabilities = {CAP_SYS_BOOT}
        self.progress: dict[int, int] = {}
        self.turns = 0
        self.fds: dict[int, Description] = {}
        self.cloexec: dict[int, bool] = {}
        self.pages = {SCRATCH // PAGE + i: bytearray(PAGE) for i in (0, 1)}
        self.pages |= {READ_ONLY // PAGE + i: bytearray(PAGE) for i in (0, 1)}
        self.read_only = {READ_ONLY // PAGE, READ_ONLY // PAGE + 1}

    # The port.

    def read(self, address: int, length: int) -> bytes:
        found = bytearray()
        while len(found) < length:
            page, offset = divmod(address + len(found), PAGE)
            if page not in self.pages:
                raise Errno(errno.EFAULT)
            found += self.pages[page][offset : offset + length - len(found)]
        return bytes(found)

    def writable(self, address: int, length: int) -> bool:
        pages = range(address // PAGE, (address + length - 1) // PAGE + 1)
        return all(page in self.pages and page not in self.read_only for page in pages)

    def write(self, address: int, data: bytes) -> None:
        if not self.writable(address, len(data)):
            raise Errno(errno.EFAULT)
        self.poke(address, data)

    def poke(self, address: int, data: bytes) -> None:
        """Writes even to read-only pages, as if the program had written before they became so."""
        for index, byte in enumerate(data):
            page, offset = divmod(address + index, PAGE)
            self.pages[page][offset] = byte

    def has_free_fd(self) -> bool:
        return len(self.fds) < self.fd_limit

    def file(self, fd: int) -> HostFile:
        if fd not in self.fds:
            raise Errno(errno.EBADF)
        return Reference(self.world, self.fds[fd])

    def install(self, file: SessionFile | HostFile, cloexec: bool) -> int:
        if not self.has_free_fd():
            raise Errno(errno.EMFILE)
        if isinstance(file, SessionFile):
            fd = self.add(Description(file))
        else:
            assert isinstance(file, Reference)
            fd = self.add(file.description)
        self.cloexec[fd] = cloexec
        return fd

    def adopt(self, file: HostFile) -> None:
        if isinstance(file, Reference) and isinstance(inode := file.description.target, Inode) and inode.owner is None:
            inode.owner = self.uid

    def capable(self, capability: int) -> bool:
        return capability in self.capabilities

    # The program.

    def add(self, description: Description) -> int:
        fd = next(number for number in range(3, 1 << 20) if number not in self.fds)
        self.fds[fd] = description
        description.references += 1
        return fd

    def memfd(self, data: bytes = b"", seals: int = 1, kind: Kind = Kind.MEMFD) -> int:
        return self.add(Description(Inode(kind, data, seals)))

    def contents(self, fd: int) -> bytes:
        return self.inode(fd).data

    def dup(self, fd: int) -> int:
        return self.add(self.fds[fd])

    def reopen(self, fd: int) -> int:
        """Opens /proc/self/fd/N: the same inode, another open file."""
        return self.add(Description(self.fds[fd].target))

    def send(self, fd: int, receiver: Process) -> int:
        """Sends an fd by SCM_RIGHTS."""
        return receiver.add(self.fds[fd])

    def close(self, fd: int) -> None:
        self.world.put(self.fds.pop(fd))

    def die(self) -> None:
        for fd in tuple(self.fds):
            self.close(fd)

    def inode(self, fd: int) -> Inode:
        target = self.fds[fd].target
        assert isinstance(target, Inode)
        return target

    def open_device(self) -> int:
        try:
            return self.add(Description(self.world.kernel.open_liveupdate()))
        except Errno as failure:
            return -failure.code

    def ioctl(self, fd: int, command: int, argument: int) -> int | Blocked:
        target = self.fds[fd].target
        assert isinstance(target, DeviceFile | SessionFile)
        return self.in_turns(lambda: self.world.kernel.ioctl(target, command, argument, self))

    def in_turns(self, ioctl: Callable[[], int | Blocked]) -> int | Blocked:
        """Makes an ioctl until it is finished. Returns its result, or a negative errno. Counts `turns`."""
        self.turns = 1
        while True:
            try:
                return ioctl()
            except Unfinished:
                self.turns += 1
            except Errno as failure:
                return -failure.code

    def call(self, fd: int, command: int, argument: bytes, address: int = SCRATCH) -> int | Blocked:
        """Makes an ioctl with `argument` at `address`."""
        self.poke(address, argument)
        return self.ioctl(fd, command, address)

    def _fd_call(self, fd: int, command: int, argument: bytes, address: int) -> int | Blocked:
        result = self.call(fd, command, argument, address)
        if result != 0:
            return result
        return int.from_bytes(self.read(address + 4, 4), "little")

    def create(self, device: int, name: bytes, address: int = SCRATCH) -> int | Blocked:
        argument = liveupdate.CREATE_SESSION.pack(72, -1, name)
        return self._fd_call(device, liveupdate.LIVEUPDATE_IOCTL_CREATE_SESSION, argument, address)

    def retrieve_session(self, device: int, name: bytes, address: int = SCRATCH) -> int | Blocked:
        argument = liveupdate.RETRIEVE_SESSION.pack(72, -1, name)
        return self._fd_call(device, liveupdate.LIVEUPDATE_IOCTL_RETRIEVE_SESSION, argument, address)

    def preserve(self, session: int, fd: int, token: int, address: int = SCRATCH) -> int | Blocked:
        argument = liveupdate.SESSION_PRESERVE_FD.pack(16, fd, token)
        return self.call(session, liveupdate.LIVEUPDATE_SESSION_PRESERVE_FD, argument, address)

    def unpreserve(self, session: int, token: int, address: int = SCRATCH, reserved: int = 0) -> int | Blocked:
        argument = liveupdate.SESSION_UNPRESERVE_FD.pack(16, reserved, token)
        return self.call(session, liveupdate.LIVEUPDATE_SESSION_UNPRESERVE_FD, argument, address)

    def retrieve(self, session: int, token: int, address: int = SCRATCH) -> int | Blocked:
        argument = liveupdate.SESSION_RETRIEVE_FD.pack(16, -1, token)
        return self._fd_call(session, liveupdate.LIVEUPDATE_SESSION_RETRIEVE_FD, argument, address)

    def finish(self, session: int, address: int = SCRATCH, reserved: int = 0) -> int | Blocked:
        argument = liveupdate.SESSION_FINISH.pack(8, reserved)
        return self.call(session, liveupdate.LIVEUPDATE_SESSION_FINISH, argument, address)

    def get_name(self, session: int, address: int = SCRATCH, field: bytes = bytes(64)) -> int | Blocked | bytes:
        """Returns the 64 bytes of the field afterwards."""
        argument = liveupdate.SESSION_GET_NAME.pack(72, 0, field)
        result = self.call(session, liveupdate.LIVEUPDATE_SESSION_GET_NAME, argument, address)
        return self.read(address + 8, 64) if result == 0 else result

    def kexec_file_load(self, image: bytes, command_line: bytes, flags: int | None = None) -> int:
        arguments = KexecArguments(image, command_line)
        flags = kexec.KEXEC_FILE_NO_INITRAMFS if flags is None else flags
        return _errno(lambda: self.world.kernel.kexec_file_load(arguments, flags, self))

    def kexec_load(self, segments: Sequence[Segment], flags: int = 0, *, narrow: bool = False) -> int:
        return _errno(lambda: self.world.kernel.kexec_load(segments, flags, self, narrow=narrow))

    def reboot(
        self,
        command: int = kexec.LINUX_REBOOT_CMD_KEXEC,
        magic1: int = MAGIC1,
        magic2: int = MAGIC2,
        argument: int = 0,
    ) -> int | Blocked | Jump | Ending:
        try:
            return self.world.kernel.reboot(magic1, magic2, command, argument, self)
        except Errno as failure:
            return -failure.code


def _errno(call: Callable[[], int]) -> int:
    try:
        return call()
    except Errno as failure:
        return -failure.code


@dataclass
class KexecArguments:
    """`KexecFiles`."""

    image: bytes
    line: bytes
    initrd_size: int = 512

    def kernel(self, accept: Callable[[bytes, int], object]) -> bytes:
        if self.image:
            accept(self.image[:IMAGE_FRONT], len(self.image))
        return self.image

    def initrd(self) -> int:
        return self.initrd_size

    def command_line(self) -> bytes:
        return self.line


@dataclass
class Segment:
    """`KexecSegment`. `data` None: the buffer cannot be read."""

    address: int
    length: int
    data: bytes | None
    size: int | None = None
    """`bufsz`; None: the length of `data`."""

    @property
    def buffer_length(self) -> int:
        return len(self.data or b"") if self.size is None else self.size

    def read(self) -> bytes:
        if self.data is None:
            raise Errno(errno.EFAULT)
        return self.data


def bzimage(*formats: str, payload: bytes = b"") -> bytes:
    """Returns a kernel image for kexec's checks: one setup sector and the payload, which begins with `formats`."""
    payload = b"\0".join(name.encode() for name in formats) + b"\0" + payload
    setup = bytearray(1024)
    setup[0x1F1] = 1
    struct.pack_into("<H", setup, 0x1FE, 0xAA55)
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, 0x020F)
    setup[0x211] = 1
    struct.pack_into("<H", setup, 0x236, 0x3)
    struct.pack_into("<I", setup, 0x238, 2047)
    struct.pack_into("<II", setup, 0x248, 0, len(payload))
    return bytes(setup) + payload


IMAGE = bzimage(*FORMATS)
COMMAND_LINE = b"liveupdate=on kho=on\0"


def boot(kernel: Callable[[World], Kernel] = Kernel) -> World:
    """Returns the first boot."""
    world = World()
    world.kernel = kernel(world)
    return world


def jump(world: World, *processes: Process, image: bytes = IMAGE, command_line: bytes = COMMAND_LINE) -> Process:
    """Loads `image`, does a kexec, kills `processes`; returns the next kernel's first process."""
    operator = Process(world)
    assert operator.kexec_file_load(image, command_line) == 0
    assert operator.reboot() == Jump()
    return land(world, *processes)


def land(world: World, *processes: Process) -> Process:
    """Does what the machine does after `Jump`."""
    for process in processes:
        process.die()
    world.kernel = world.kernel.jump()
    return Process(world)


def number(result: int | Blocked) -> int:
    """Returns a result that is not an error and does not block."""
    assert isinstance(result, int)
    assert result >= 0
    return result
