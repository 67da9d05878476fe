"""Files of the machine's processes as the model sees them, and memory that lives through a kexec: `HostFile`, `Host`.

A preserved file is a duplicate of the process's fd in the supervisor, so it outlives the process. After a kexec it is a
new memfd with the same contents: the old inode cannot become the file that the kernel makes.
"""

from __future__ import annotations

import _thread
import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import signal
import stat
from collections.abc import Callable
from typing import Final

from luod import linux
from luod.emulator.model.ports import PAGE, Errno, HostFile, Kind
from luod.emulator.model.results import Unfinished
from luod.linux import Fd
from luod.uapi.memfd import F_ADD_SEALS, F_GET_SEALS, F_SEAL_EXEC, F_SEAL_SEAL

TMPFS_MAGIC: Final = 0x01021994
HUGETLBFS_MAGIC: Final = 0x958458F6
_MADV_DONTFORK: Final = 10
_MADV_POPULATE_READ: Final = 22
_TMPFS: Final = ("/dev/shm", "/run", "/tmp", "/dev")
"""Where a tmpfs may be mounted that this process can write to."""
_MEMFD: Final = b"/memfd:"
_DELETED: Final = b" (deleted)"
_RESERVE: Final = 64 << 20
"""Bytes of memory that a machine leaves free."""
_TURN: Final = 16 << 20
"""Bytes that are allocated or copied before other calls are answered."""


_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_PROT_NONE: Final = 0
_MOST_PINS: Final = 32768
"""Mappings of preserved files: half of those that a process may have (vm.max_map_count)."""
_MAP_FAILED: Final = ctypes.c_void_p(-1).value


def _file_system(fd: int) -> int:
    """Returns the magic number of the file system that `fd` is on."""
    buffer = (ctypes.c_long * 32)()
    if _libc.fstatfs(fd, buffer) != 0:
        return 0
    magic: int = buffer[0]
    return magic & 0xFFFFFFFF


_unasked = 0
"""Bytes that were allocated since `available.memory` was asked last."""


def _refuse_what_would_hurt(missing: int) -> None:
    """Raises Errno where `missing` more bytes would exhaust the memory of the host, or of the container.

    A real kernel lets the OOM killer choose. The machine must not trigger that of the host, nor be killed by it. The
    available memory is asked for once for each _RESERVE bytes: that takes longer than to preserve a small file.
    """
    global _unasked
    if _unasked + missing <= _RESERVE:
        _unasked += missing
        return
    from luod.emulator.trap.process import available  # late: few machines preserve so much

    if missing > available.memory() - _RESERVE:
        raise Errno(errno.ENOMEM)
    _unasked = 0


def is_memory(file: Fd) -> bool:
    """Returns whether the file is of a tmpfs or hugetlbfs, without a request to its file system.

    The server of a FUSE file may be the very program that waits for the supervisor's answer.
    """
    try:
        fcntl.fcntl(file.fileno(), F_GET_SEALS)
    except OSError:
        return False
    return True


def close_elsewhere(file: Fd) -> None:
    """Closes a file of any file system in another thread: a close flushes, and may wait for a server of FUSE."""

    def close() -> None:
        with contextlib.suppress(OSError):  # of the flush
            file.close()

    _thread.start_new_thread(close, ())


class OpenFile:
    """`HostFile` over an fd of the supervisor. Owns the fd, unless the constructor raises OSError."""

    _pins = 0
    """How many files have a `_pin`."""

    def __init__(self, fd: Fd, *, ownerless: bool = False) -> None:
        self.ownerless = ownerless
        """Made by `take_over`, and not given to a process yet."""
        self._fd = fd
        self._status = os.fstat(fd.fileno())
        self._pin = 0
        """The address of a shared mapping that could be made writable. While there is one, F_SEAL_WRITE is EBUSY."""
        self.copy: Fd | None = None
        """A part of a copy that `take_over` makes of this file. Owned."""
        self.copied = 0
        """Bytes of that part."""

    def fileno(self) -> int:
        return self._fd.fileno()

    @property
    def kind(self) -> Kind:
        if not stat.S_ISREG(self._status.st_mode):
            return Kind.OTHER
        magic = _file_system(self.fileno())
        if magic == HUGETLBFS_MAGIC:
            return Kind.HUGETLB
        if magic == TMPFS_MAGIC:
            return Kind.TMPFS if os.fstat(self.fileno()).st_nlink else Kind.MEMFD
        return Kind.OTHER

    @property
    def identity(self) -> tuple[int, int]:
        return (self._status.st_dev, self._status.st_ino)

    @property
    def name(self) -> bytes:
        link = os.readlink(b"/proc/self/fd/%d" % self.fileno())
        return link.removeprefix(_MEMFD).removesuffix(_DELETED) if link.startswith(_MEMFD) else b""

    def size(self) -> int:
        return os.fstat(self.fileno()).st_size

    def seals(self) -> int:
        try:
            return fcntl.fcntl(self.fileno(), F_GET_SEALS)
        except OSError:
            return F_SEAL_SEAL

    def position(self) -> int:
        return os.lseek(self.fileno(), 0, os.SEEK_CUR)

    def writable(self) -> bool:
        return fcntl.fcntl(self.fileno(), fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY

    def reopen(self, flags: int) -> Fd:
        """Opens the same file again, with any access. Raises OSError."""
        return Fd(os.open(f"/proc/self/fd/{self.fileno()}", flags | os.O_CLOEXEC))

    def pin(self) -> None:
        status = os.fstat(self.fileno())
        missing = status.st_size - status.st_blocks * 512
        if status.st_size == 0:
            return
        _refuse_what_would_hurt(missing)
        try:
            with self.reopen(os.O_RDWR) as writable, self.reopen(os.O_RDONLY) as readable:
                _allocate(writable.fileno(), readable.fileno(), status.st_size)
                if not self._pin and OpenFile._pins < _MOST_PINS:
                    # A mapping of what is opened here would make the file one that is open for writing (ETXTBSY).
                    self._pin = _map(self._fd if self.writable() else writable)
                    OpenFile._pins += bool(self._pin)
        except OSError as error:
            raise Errno(error.errno or errno.ENOMEM) from None

    def open_for_writing(self) -> bool:
        """Returns whether any process has it open for writing; False where the file system has no leases, which show
        it.
        """
        try:
            with self.reopen(os.O_RDONLY) as reader:
                # A process that opens it for writing at this moment breaks the lease. SIGIO, the default, would kill.
                fcntl.fcntl(reader.fileno(), fcntl.F_SETSIG, signal.SIGURG)
                fcntl.fcntl(reader.fileno(), fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except OSError as error:
            return error.errno == errno.EAGAIN
        return False

    def give_to(self, uid: int, gid: int) -> None:
        """Sets the owner of an `ownerless` file. The numbers are of this process's user namespace."""
        self.ownerless = False
        # Without root there is one uid, which is the owner already.
        with contextlib.suppress(PermissionError):
            os.fchown(self.fileno(), uid, gid)

    def close(self) -> None:
        if self._pin:
            _libc.munmap(self._pin, mmap.PAGESIZE)
            self._pin = 0
            OpenFile._pins -= 1
        if self.copy is not None:
            self.copy.close()
        self._fd.close()


class Stand:
    """`HostFile` for a file of the model itself, a session or the device, seen through an fd of a process."""

    def __init__(self, kind: Kind, identity: tuple[int, int]) -> None:
        self._kind = kind
        self._identity = identity

    @property
    def kind(self) -> Kind:
        return self._kind

    @property
    def identity(self) -> tuple[int, int]:
        return self._identity

    @property
    def name(self) -> bytes:
        return b""

    def size(self) -> int:
        return 0

    def seals(self) -> int:
        return F_SEAL_SEAL

    def position(self) -> int:
        return 0

    def writable(self) -> bool:
        return False

    def pin(self) -> None:
        """Does nothing: it has no pages."""

    def close(self) -> None:
        """Does nothing: it holds nothing."""


def _map(file: Fd) -> int:
    """Returns the address of a mapping of the file's first page, or 0. Unlike mmap.mmap it does not keep an fd.

    Forks, such as the next boot's processes, do not have it: the file would live as long as they do.
    """
    address: int = _libc.mmap(None, mmap.PAGESIZE, _PROT_NONE, mmap.MAP_SHARED, file.fileno(), 0)
    if address == _MAP_FAILED:
        return 0
    _libc.madvise(address, mmap.PAGESIZE, _MADV_DONTFORK)
    return address


def _allocate(writable: int, readable: int, size: int) -> None:
    """Makes the holes in the first `size` bytes of a file data, as a real PRESERVE_FD does: SEEK_HOLE shows it.

    Both fds are of the file. Raises OSError, and Unfinished where holes are left after a turn.
    """
    left = _TURN
    hole = _seek(readable, 0, os.SEEK_HOLE, size)
    while hole < size:
        if not left:
            raise Unfinished
        end = min(_seek(readable, hole, os.SEEK_DATA, size), hole + left)
        os.posix_fallocate(writable, hole, end - hole)
        _touch(readable, hole, end - hole)
        left -= end - hole
        hole = _seek(readable, end, os.SEEK_HOLE, size)


def _seek(file: int, start: int, whence: int, size: int) -> int:
    """Returns the first hole, or data, of a file from `start` on; `size` where the file ends before. Raises OSError."""
    try:
        return min(os.lseek(file, start, whence), size)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return size


def _touch(file: int, start: int, length: int) -> None:
    """Makes allocated but unused pages data. `start` is a multiple of their size."""
    with (
        contextlib.suppress(ValueError),  # the file was cut off meanwhile, and its pages with it
        mmap.mmap(file, length, mmap.MAP_SHARED, mmap.PROT_READ, offset=start) as pages,
    ):
        pages.madvise(_MADV_POPULATE_READ)


class HostMemory:
    """`Host`: the memory and the log that pass from one kernel to the next."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log

    def log(self, line: str) -> None:
        self._log(line)

    def memory(self) -> int:
        return os.sysconf("SC_PHYS_PAGES") * PAGE

    def take_over(self, kept: HostFile, *, size: int, seals: int, position: int, name: bytes = b"") -> OpenFile:
        if not isinstance(kept, OpenFile):
            raise Errno(errno.ENOENT)
        try:
            if kept.copy is None:
                _refuse_what_would_hurt(size)
                kept.copy = _restored(size, seals, os.fsdecode(name))
            with kept.reopen(os.O_RDONLY) as source:
                kept.copied = _fill(kept.copy.fileno(), source.fileno(), kept.copied, size)
            if kept.copied < size:
                raise Unfinished
            _complete(kept.copy.fileno(), seals=seals, position=position)
        except OSError as error:
            raise Errno(error.errno or errno.ENOMEM) from None
        copy, kept.copy = kept.copy, None
        return OpenFile(copy, ownerless=True)

    def fill(self, target: HostFile, kept: HostFile, *, size: int) -> None:
        if not isinstance(kept, OpenFile) or not isinstance(target, OpenFile):
            raise Errno(errno.ENOENT)
        _refuse_what_would_hurt(size)
        try:
            # Opened again: the position of the caller's file stays.
            with kept.reopen(os.O_RDONLY) as source, target.reopen(os.O_RDWR) as filled:
                done = 0
                while done < size:
                    done = _fill(filled.fileno(), source.fileno(), done, size)
        except OSError as error:
            raise Errno(error.errno or errno.ENOMEM) from None


def _fill(target: int, source: int, start: int, size: int) -> int:
    """Copies bytes from `start` on, of the first `size`, for a turn. Returns where the next turn starts.

    The target's pages are allocated also where `source` has none any more. Raises OSError.
    """
    end = min(start + _TURN, size)
    if start < end:
        os.posix_fallocate(target, start, end - start)
        os.lseek(target, start, os.SEEK_SET)
    while start < end and (count := os.sendfile(target, source, start, end - start)):
        start += count
    return end


def _restored(size: int, seals: int, name: str) -> Fd:
    """Returns an empty file for a copy. Raises OSError.

    The kernel restores a memfd under any value of `vm.memfd_noexec`. Where it is 2 on the host, this is a file of a
    tmpfs, which differs for its users only in that it takes no seals.
    """
    try:
        return linux.memfd(name, size)
    except OSError as error:
        if error.errno != errno.EACCES:
            raise
    if seals & ~F_SEAL_SEAL == 0:
        for folder in _TMPFS:
            with contextlib.suppress(OSError):
                copy = Fd(os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600))
                if _file_system(copy.fileno()) == TMPFS_MAGIC:
                    os.ftruncate(copy.fileno(), size)
                    return copy
                copy.close()
    return linux.memfd(name, size, executable=False)


def _complete(copy: int, *, seals: int, position: int) -> None:
    """Gives a copy what the kernel gives a memfd that it restores: mode 0777, seals, position. Raises OSError."""
    if not fcntl.fcntl(copy, F_GET_SEALS) & F_SEAL_EXEC:
        os.fchmod(copy, 0o777)
    os.lseek(copy, position, os.SEEK_SET)
    if missing := seals & ~fcntl.fcntl(copy, F_GET_SEALS):
        fcntl.fcntl(copy, F_ADD_SEALS, missing)
