"""The open files of VFIO and iommufd for the rest of the model and for `trap`: counted, and of one of several kinds.

A `ModelFile` is the kernel's `struct file`. The fds of all processes together are one reference. Each holder inside the
model (LUO, a group's device) has one more. The last `close` releases the file. The kinds are in modules of their own.
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Hashable
from select import EPOLLIN, EPOLLOUT, EPOLLRDNORM, EPOLLWRNORM
from typing import Self

from luod.emulator.model.ports import Errno, Kind
from luod.emulator.model.results import Blocked
from luod.emulator.model.vfio.ports import DeviceCaller


class ModelFile(ABC):
    """An open file. It is made with one reference, which belongs to its opener. It is its own `HostFile`."""

    kind: Kind
    link: bytes
    """The result of readlink of /proc/self/fd/N for a file without a path."""

    events = EPOLLIN | EPOLLOUT | EPOLLRDNORM | EPOLLWRNORM
    """The events of poll(2) that are always true of it. The others never are."""

    def __init__(self) -> None:
        self._references = 1

    @property
    def identity(self) -> Hashable:
        """Returns the open file itself, not its inode: the handlers of VFIO files have no get_id."""
        return self

    @property
    def name(self) -> bytes:
        return b""

    def size(self) -> int:
        return 0

    def seals(self) -> int:
        return 1

    def position(self) -> int:
        return 0

    def writable(self) -> bool:
        return True

    def pin(self) -> None:
        """Does nothing: it has no pages."""
        return

    @property
    def held_elsewhere(self) -> bool:
        """Returns whether the model itself holds the file, besides the processes."""
        return self._references > 1

    def reference(self) -> Self:
        """Takes one more reference, to be dropped with `close`."""
        assert self._references, "not after the release"
        self._references += 1
        return self

    def close(self) -> None:
        """Drops one reference. The last one releases the file."""
        assert self._references, "closed once for each reference"
        self._references -= 1
        if not self._references:
            self._release()

    def abandon(self) -> None:
        """Drops what an open or closed file holds of processes, when the kernel is gone. No call follows."""
        return

    @abstractmethod
    def _release(self) -> None:
        """Releases the file: no reference is left."""

    @abstractmethod
    def ioctl(self, command: int, argument: int, caller: DeviceCaller) -> int | Blocked:
        """Returns the ioctl's result: 0, an fd, or another number of the command. Raises Errno."""

    def pread(self, offset: int, length: int) -> bytes:
        """Returns the bytes at `offset`; fewer than `length` where the region ends."""
        raise Errno(errno.EINVAL)

    def pwrite(self, offset: int, data: bytes) -> int:
        """Returns the number of bytes that were written."""
        raise Errno(errno.EINVAL)

    def mmap(self, offset: int, length: int) -> None:
        """Notes that a process maps the range, whose memory the kernel maps without a request. Raises Errno."""
        raise Errno(errno.ENODEV)
