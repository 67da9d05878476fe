"""The two kinds of open files that LUO gives out, and how they answer every call that is not an ioctl.

`trap` does not look into them: it keeps each beside a placeholder, and hands it to `Kernel.ioctl` and `Kernel.release`.
"""

from __future__ import annotations

import enum
import errno

from luod.emulator.model.ports import Errno
from luod.emulator.model.session import IncomingSession, OutgoingSession


class Operation(enum.Enum):
    """A system call on the file itself."""

    READ = "read"
    WRITE = "write"
    FSYNC = "fsync"
    FTRUNCATE = "ftruncate"
    LSEEK = "lseek"
    MMAP = "mmap"
    EPOLL_ADD = "epoll_ctl"
    REOPEN = "open of /proc/self/fd/N"
    POLL = "poll"


class DeviceFile:
    """One open of /dev/liveupdate. Compared by identity."""


class SessionFile:
    """The open file behind a session fd. `name` is the session's; /proc shows `link`."""

    def __init__(self, session: OutgoingSession | IncomingSession) -> None:
        self.session = session

    @property
    def name(self) -> bytes:
        """1 to 63 bytes, without NUL."""
        return self.session.name

    @property
    def link(self) -> bytes:
        """The result of readlink of /proc/self/fd/N."""
        return b"anon_inode:[luo_session] " + self.name


POLLIN_POLLOUT = 0x1 | 0x4

# luo-measured.md sections 1 and 4: the file operations of both have no read, write, fsync, mmap or poll.
_REFUSED = {
    Operation.READ: errno.EINVAL,
    Operation.WRITE: errno.EINVAL,
    Operation.FSYNC: errno.EINVAL,
    Operation.FTRUNCATE: errno.EINVAL,
    Operation.LSEEK: errno.ESPIPE,
    Operation.MMAP: errno.ENODEV,
    Operation.EPOLL_ADD: errno.EPERM,
}


def file_operation(file: DeviceFile | SessionFile, operation: Operation) -> int:
    """Returns the poll mask for POLL, and refuses every other operation with an `Errno`."""
    if operation is Operation.POLL:
        return POLLIN_POLLOUT
    if operation is Operation.REOPEN:
        # The device would be opened a second time; an anonymous inode cannot be opened.
        raise Errno(errno.EBUSY if isinstance(file, DeviceFile) else errno.ENXIO)
    raise Errno(_REFUSED[operation])
