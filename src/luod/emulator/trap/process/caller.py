"""The calling thread as the model needs it (`Caller`), and the arguments of the kexec calls.

An fd is recognised by its file's (st_dev, st_ino). These are read through /proc without a request to the file system:
the supervisor serves one itself and must not wait for its own answer. Each call has a new object. Only
`trap.supervisor` uses this.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import stat
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, overload

from luod import linux
from luod.emulator.model.caller import IMAGE_FRONT, IMAGE_IN_MEMORY, KexecSegment
from luod.emulator.model.files import DeviceFile, SessionFile
from luod.emulator.model.ports import PAGE, Errno, HostFile, Kind
from luod.emulator.trap.process import process_memory
from luod.emulator.trap.process.memory_files import OpenFile, Stand, close_elsewhere, is_memory
from luod.emulator.trap.process.placeholder import Identity, Placeholders
from luod.emulator.trap.seccomp.notify import Listener, Notification
from luod.linux import Fd

_AT_STATX_DONT_SYNC: Final = 0x4000
_STATX_INO: Final = 0x100
_PIDFD_THREAD: Final = os.O_EXCL
_PIDFD_SELF: Final = (-10000, -10001)
"""PIDFD_SELF_THREAD and PIDFD_SELF_THREAD_GROUP."""
_KCMP_VM: Final = 1
_WINDOW: Final = 128
"""Bytes in one read: more than any structure of LUO has."""

# Every call of the machine uses it, so the function and its arguments are made once.
_statx = ctypes.CDLL(None, use_errno=True).statx
_statx_buffer = ctypes.create_string_buffer(256)
_AT_FDCWD: Final = ctypes.c_int(-100)
_DONT_SYNC: Final = ctypes.c_int(_AT_STATX_DONT_SYNC)
_INODE: Final = ctypes.c_uint(_STATX_INO)
_NOTHING: Final = ctypes.c_uint(0)
_STATX_DEVICE: Final = struct.Struct("=32xQ96xII")
"""stx_ino, stx_dev_major, stx_dev_minor at their offsets in `struct statx`."""


def identify(path: bytes) -> Identity:
    """Returns (st_dev, st_ino) of the file at `path`, from this kernel's cache. Raises OSError.

    A FUSE file system of another user namespace, as in a plain user's machine, shows only its st_dev: (st_dev, 0).
    """
    if _statx(_AT_FDCWD, path, _DONT_SYNC, _INODE, _statx_buffer) != 0:
        ctypes.memset(_statx_buffer, 0, len(_statx_buffer))
        if _statx(_AT_FDCWD, path, _DONT_SYNC, _NOTHING, _statx_buffer) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    inode, major, minor = _STATX_DEVICE.unpack_from(_statx_buffer)
    return (os.makedev(major, minor), inode)


def status_field(tid: int, field: str) -> str:
    """Returns the value of `field`, such as "Tgid:", in the thread's /proc status.

    Raises Errno(ESRCH) or OSError when the thread is gone.
    """
    with open(f"/proc/{tid}/status", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith(field):
                return line[len(field) :].strip()
    raise Errno(errno.ESRCH)


def _process_of(tid: int) -> Fd:
    """Returns a pidfd of the thread's process, which the caller owns."""
    try:
        return Fd(os.pidfd_open(tid, _PIDFD_THREAD))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise Errno(error.errno or errno.ESRCH) from None
    # Before Linux 6.9 a pidfd can only be opened for a thread group's leader.
    try:
        return Fd(os.pidfd_open(int(status_field(tid, "Tgid:"))))
    except OSError as error:
        raise Errno(error.errno or errno.ESRCH) from None


@dataclass(frozen=True)
class Surroundings:
    """The facts that the callers of a boot share. `device` is the st_dev of the FUSE file system that is the node."""

    listener: Listener
    placeholders: Placeholders[DeviceFile | SessionFile]
    device: int | None
    """None where opening is trapped."""
    user_namespace: int
    """Inode number of the machine's user namespace. Capabilities in another one have no effect in the machine."""


class Thread:
    """`Caller` over a stopped thread."""

    def __init__(self, surroundings: Surroundings, tid: int, notification: Notification | None = None) -> None:
        """Without a notification, as for a call that came through FUSE, no fd can be installed."""
        self._around = surroundings
        self._notification = notification
        self._start = 0
        self._window = b""
        self.progress: dict[int, int] = {}
        self.tid = tid

    def identity(self, fd: int) -> Identity | None:
        """Returns the identity of the file that `fd` is open on; None when `fd` is not open."""
        try:
            return identify(b"/proc/%d/fd/%d" % (self.tid, fd))
        except OSError:
            return None

    def only_path(self, fd: int) -> bool:
        """Returns whether `fd` was opened with O_PATH: such an fd shows neither read nor write permission in /proc."""
        try:
            return not os.lstat(b"/proc/%d/fd/%d" % (self.tid, fd)).st_mode & 0o600
        except OSError:
            return False

    def opened_for_writing(self, fd: int) -> bool:
        """Returns whether `fd` has the access mode O_WRONLY or O_RDWR. Raises Errno when it is gone."""
        try:
            return bool(os.lstat(b"/proc/%d/fd/%d" % (self.tid, fd)).st_mode & 0o200)
        except OSError as error:
            raise Errno(error.errno or errno.ESRCH) from None

    def shares_memory_with(self, pidfd: int) -> bool:
        """Returns whether `pidfd`, or one of the constants in place of one, is of a process with the caller's memory.

        Raises Errno(ESRCH) when the caller is gone.
        """
        if pidfd in _PIDFD_SELF:
            return True
        try:
            with open(b"/proc/%d/fdinfo/%d" % (self.tid, pidfd), "rb") as lines:
                pid = next((int(line.split()[1]) for line in lines if line.startswith(b"Pid:")), 0)
        except OSError:
            return False
        if pid == int(status_field(self.tid, "Tgid:")):
            return True
        try:
            return pid > 0 and linux.syscall("kcmp", self.tid, pid, _KCMP_VM, 0, 0) == 0
        except OSError:
            return False  # ESRCH: it ended, and the host says so

    def size(self, fd: int) -> int:
        """Returns the size of a file of the host: a query to the supervisor's own would deadlock. Raises Errno."""
        try:
            return os.stat(b"/proc/%d/fd/%d" % (self.tid, fd)).st_size
        except OSError as error:
            raise Errno(error.errno or errno.ESRCH) from None

    def read(self, address: int, length: int) -> bytes:
        """Returns `length` bytes of the caller's memory.

        The model reads a structure's size and then the structure. One read of the memory serves both.
        """
        if not length:
            return b""
        start = address - self._start
        end = start + length
        if start >= 0 and end <= len(self._window):
            return self._window[start:end]
        # It does not cross the end of a page: the next page may be missing, which the next read reports.
        ahead = PAGE - address % PAGE
        if ahead > _WINDOW:
            ahead = _WINDOW
        if length > ahead:
            return process_memory.read(self.tid, address, length)
        self._window = b""
        self._window = process_memory.read(self.tid, address, ahead)
        self._start = address
        return self._window[:length]

    def write(self, address: int, data: bytes) -> None:
        self._window = b""
        process_memory.write(self.tid, address, data)

    def writable(self, address: int, length: int) -> bool:
        return process_memory.writable(self.tid, address, length)

    def has_free_fd(self) -> bool:
        try:
            limit = _fd_limit(self.tid)
            if 0 < os.stat(b"/proc/%d/fd" % self.tid).st_size < limit:
                return True
            # Before Linux 6.2 the directory's size is not the number of its entries. A limit that was lowered later
            # says nothing of the numbers above it.
            numbers = map(int, os.listdir(b"/proc/%d/fd" % self.tid))
            return sum(number < limit for number in numbers) < limit
        except OSError as error:
            raise Errno(error.errno or errno.ESRCH) from None

    def take(self, fd: int) -> Fd:
        """Returns a duplicate of the caller's fd, which the caller of this owns.

        Raises Errno: EBADF, also for O_PATH; EINVAL for a file that the supervisor itself serves: it must not ask for
        its attributes.
        """
        identity = self.identity(fd) if fd >= 0 else None
        if identity is not None and self._serves(identity):
            raise Errno(errno.EINVAL)
        return self._duplicate(fd)

    def _serves(self, identity: Identity) -> bool:
        """Returns whether the file is of LUO: a session, or the device."""
        return self._stands_for(identity) is not None

    def _duplicate(self, fd: int) -> Fd:
        with _process_of(self.tid) as process:
            try:
                duplicate = linux.pidfd_getfd(process.fileno(), fd)
            except OSError as error:
                code = error.errno or errno.EBADF
                # EMFILE is of the supervisor's own limit, not of the caller's.
                raise Errno(errno.ENFILE if code == errno.EMFILE else code) from None
        if self.only_path(fd):
            close_elsewhere(duplicate)
            raise Errno(errno.EBADF)
        return duplicate

    def file(self, fd: int) -> HostFile:
        identity = self.identity(fd) if fd >= 0 else None
        if identity is None:
            raise Errno(errno.EBADF)
        return self._file(fd, identity)

    def _file(self, fd: int, identity: Identity) -> HostFile:
        """Returns `file` of an open fd whose `identity` is known: it costs a request to /proc."""
        kind = self._stands_for(identity)
        if kind is None:
            duplicate = self._duplicate(fd)
            if is_memory(duplicate):
                return OpenFile(duplicate)
            close_elsewhere(duplicate)
            return Stand(Kind.OTHER, identity)
        if self.only_path(fd):
            raise Errno(errno.EBADF)
        return Stand(kind, identity)

    def _stands_for(self, identity: Identity) -> Kind | None:
        if identity[0] == self._around.device:
            return Kind.LIVEUPDATE
        match self._around.placeholders.find(identity):
            case SessionFile():
                return Kind.SESSION
            case DeviceFile():
                return Kind.LIVEUPDATE
        return None

    def install(self, file: SessionFile | HostFile, cloexec: bool) -> int:
        if isinstance(file, SessionFile):
            return self.install_placeholder(b"[luo_session] " + file.name, file, cloexec=cloexec)
        if not isinstance(file, OpenFile):
            raise Errno(errno.EBADF)
        return self._add_fd(file.fileno(), cloexec=cloexec)

    def install_placeholder(
        self,
        name: bytes,
        file: DeviceFile | SessionFile,
        *,
        cloexec: bool,
        send: bool = False,
        status: int = os.O_RDWR,
    ) -> int:
        """Creates a placeholder in the caller and returns its fd number.

        With `send` the number is the answer to the call. `status` are the flags of the open file.
        """
        try:
            fd, identity = self._around.placeholders.create(name, file)
        except OSError as error:
            code = error.errno or errno.ENOMEM
            raise Errno(errno.ENFILE if code == errno.EMFILE else code) from None
        try:
            if status != os.O_RDWR:
                with fd as first:
                    fd = Fd(os.open(b"/proc/self/fd/%d" % first.fileno(), status))
            with fd:
                return self._add_fd(fd.fileno(), cloexec=cloexec, send=send)
        except (Errno, OSError):
            self._around.placeholders.forget(identity)
            raise

    def _add_fd(self, fd: int, *, cloexec: bool, send: bool = False) -> int:
        if self._notification is None:
            raise Errno(errno.ENOTTY)
        return self._around.listener.add_fd(self._notification, fd, cloexec=cloexec, send=send)

    def adopt(self, file: HostFile) -> None:
        if isinstance(file, OpenFile) and file.ownerless:
            try:
                # Real, effective, saved and file system ids.
                uid, gid = (int(status_field(self.tid, field).split()[3]) for field in ("Uid:", "Gid:"))
            except OSError as error:
                raise Errno(error.errno or errno.ESRCH) from None
            file.give_to(uid, gid)

    def capable(self, capability: int) -> bool:
        try:
            if os.stat(f"/proc/{self.tid}/ns/user").st_ino != self._around.user_namespace:
                return False
        except OSError as error:
            raise Errno(error.errno or errno.ESRCH) from None
        return bool(int(status_field(self.tid, "CapEff:"), 16) >> capability & 1)


_IMAGE_MAXIMUM: Final = 4 << 30
"""In bytes: KEXEC_FILE_SIZE_MAX of kernel/kexec_file.c."""
_ALLOCATION_MAXIMUM: Final = 4 << 20
"""In bytes: the most that kmalloc gives, for a copy of the command line."""


class KexecFiles:
    """The arguments of kexec_file_load(kernel_fd, initrd_fd, cmdline_len, cmdline, flags), read on demand."""

    def __init__(self, thread: Thread, arguments: Sequence[int]) -> None:
        self._thread = thread
        self._arguments = arguments

    def _regular(self, argument: int) -> OpenFile:
        fd = ctypes.c_int(argument & 0xFFFFFFFF).value
        if fd < 0:
            raise Errno(errno.EBADF)
        duplicate = self._thread.take(fd)
        try:
            file = OpenFile(duplicate)
        except OSError as error:  # of a file system that is not this user's, or whose server has ended
            close_elsewhere(duplicate)
            raise Errno(error.errno or errno.EIO) from None
        try:
            if fcntl.fcntl(file.fileno(), fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
                raise Errno(errno.EBADF)
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Errno(errno.EINVAL)
            if file.open_for_writing():
                raise Errno(errno.ETXTBSY)
        except Errno:
            file.close()
            raise
        return file

    def kernel(self, accept: Callable[[bytes, int], object]) -> bytes:
        file = self._regular(self._arguments[0])
        try:
            with file.reopen(os.O_RDONLY) as source, open(source.detach(), "rb") as image:
                size = os.fstat(image.fileno()).st_size
                if size > _IMAGE_MAXIMUM:
                    raise Errno(errno.EFBIG)
                if not size:
                    return b""
                front = image.read(min(size, IMAGE_FRONT))
                accept(front, size)
                if size > IMAGE_IN_MEMORY:
                    raise Errno(errno.ENOMEM)
                return front + image.read(size - len(front))
        except OSError as error:
            raise Errno(error.errno or errno.EIO) from None
        finally:
            file.close()

    def initrd(self) -> int:
        file = self._regular(self._arguments[1])
        try:
            return file.size()
        finally:
            file.close()

    def command_line(self) -> bytes:
        if self._arguments[2] > _ALLOCATION_MAXIMUM:
            raise Errno(errno.ENOMEM)
        return self._thread.read(self._arguments[3], self._arguments[2])


@dataclass(frozen=True)
class Segment:
    """One segment of kexec_load. Sizes and addresses are in bytes."""

    thread: Thread
    buffer: int
    buffer_length: int
    address: int
    length: int

    def read(self) -> bytes:
        return self.thread.read(self.buffer, self.buffer_length)


class Segments(Sequence[KexecSegment]):
    """The array of segments of kexec_load. Each is read on demand, and raises Errno(EFAULT) then."""

    def __init__(self, thread: Thread, count: int, address: int, *, narrow: bool) -> None:
        self._thread = thread
        self._layout = struct.Struct("=4I" if narrow else "=4Q")
        self._count = count
        self._address = address

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> KexecSegment: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[KexecSegment]: ...
    def __getitem__(self, index: int | slice) -> KexecSegment | Sequence[KexecSegment]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        if not 0 <= index < self._count:
            raise IndexError(index)
        raw = self._thread.read(self._address + index * self._layout.size, self._layout.size)
        return Segment(self._thread, *self._layout.unpack(raw))


def _fd_limit(tid: int) -> int:
    """Returns the soft RLIMIT_NOFILE of a thread. Raises OSError when it is gone."""
    try:
        return resource.prlimit(tid, resource.RLIMIT_NOFILE)[0]
    except PermissionError:
        # prlimit(2) needs CAP_SYS_RESOURCE for a process of another uid, which containers lack. /proc does not.
        with open(f"/proc/{tid}/limits", encoding="ascii") as lines:
            return next(int(line.split()[3]) for line in lines if line.startswith("Max open files"))
