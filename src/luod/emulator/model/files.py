"""The two kinds of open files that LUO creates, and their answers to every call that is not an ioctl.

`trap` does not look into them. It keeps each beside a placeholder, and passes it to `Kernel.ioctl` and
`Kernel.release`.
"""

from __future__ import annotations

import enum
import errno

from luod.emulator.model.ports import Errno
from luod.emulator.model.session import IncomingSession, OutgoingSession


class Operation(enum.Enum):
    """A system call on the file itself, other than ioctl."""

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
    """The open file of a session. `name` is the session's; /proc shows `link`."""

    def __init__(self, session: OutgoingSession | IncomingSession) -> None:
        self.session = session

    @property
    def name(self) -> bytes:
        """Returns 1 to 63 bytes without NUL."""
        return self.session.name

    @property
    def link(self) -> bytes:
        """Returns the result of readlink of /proc/self/fd/N."""
        return b"anon_inode:[luo_session] " + self.name


POLLIN_POLLOUT = 0x1 | 0x4

# The file operations of both have no read, write, fsync, mmap or poll (docs/kernel.md, 1 and 4).
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
    """Returns the poll mask for POLL. Raises Errno for every other operation."""
    if operation is Operation.POLL:
        return POLLIN_POLLOUT
    if operation is Operation.REOPEN:
        # The device would be opened a second time. An anonymous inode cannot be opened.
        raise Errno(errno.EBUSY if isinstance(file, DeviceFile) else errno.ENXIO)
    raise Errno(_REFUSED[operation])
