"""The calling thread as the model needs it (`Caller`): its memory, fds and capabilities.

An fd is recognised by its file's (st_dev, st_ino). Each call has a new object.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import Final

from luod import linux
from luod.emulator.model.files import DeviceFile, SessionFile
from luod.emulator.model.ports import PAGE, Errno, HostFile, Kind
from luod.emulator.trap.process import process_memory
from luod.emulator.trap.process.memory_files import OpenFile, Stand, close_elsewhere, is_memory
from luod.emulator.trap.process.placeholder import Identity, Placeholders
from luod.emulator.trap.process.procfs import fd_limit, identify, status_field
from luod.emulator.trap.seccomp.notify import Listener, Notification
from luod.linux import Fd

_PIDFD_THREAD: Final = os.O_EXCL
_PIDFD_SELF: Final = (-10000, -10001)
"""PIDFD_SELF_THREAD and PIDFD_SELF_THREAD_GROUP."""
_KCMP_VM: Final = 1
_WINDOW: Final = 128
"""Bytes in one read: more than any structure of LUO has."""


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
        # Of a killed caller, the tid may be another program's by now: after an exec, it is so at once.
        if self._notification is not None and not self._around.listener.alive(self._notification):
            raise Errno(errno.ESRCH)
        process_memory.write(self.tid, address, data)

    def writable(self, address: int, length: int) -> bool:
        return process_memory.writable(self.tid, address, length)

    def has_free_fd(self) -> bool:
        try:
            limit = fd_limit(self.tid)
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
            if not is_memory(duplicate):
                close_elsewhere(duplicate)
                return Stand(Kind.OTHER, identity)
            file = OpenFile(duplicate)
            kind = self._stands_for(file.identity)
            if kind is None:
                return file
            # Another thread has put a placeholder at the fd's number. Kept, it would never end.
            identity = file.identity
            file.close()
        elif self.only_path(fd):
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
