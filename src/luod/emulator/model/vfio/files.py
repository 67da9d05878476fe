"""The open files of VFIO and iommufd as the rest of the model and `trap` see them: counted, and of some kind.

A `ModelFile` is the kernel's `struct file`: every process's fds together are one reference, each holder inside the
model (LUO, a group's device) another; the last one to go releases it. What the files do is in their own modules.
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Self

from luod.emulator.model.ports import Errno, Kind
from luod.emulator.model.results import Blocked
from luod.emulator.model.vfio.ports import DeviceCaller, Memory


@dataclass(frozen=True)
class Mapping:
    """What mmap(2) of a device file maps: `memory` from `offset` on. The memory stays the device's."""

    memory: Memory
    offset: int


class ModelFile(ABC):
    """An open file, made with one reference, which is that of whoever opened it. It is its own `HostFile`."""

    kind: Kind
    link: bytes
    """What readlink of /proc/self/fd/N gives for a file that has no path."""

    def __init__(self) -> None:
        self._references = 1

    @property
    def identity(self) -> Hashable:
        """The open file itself, not its inode: LUO compares VFIO files so (A.7)."""
        return self

    def size(self) -> int:
        return 0

    def seals(self) -> int:
        return 1

    def position(self) -> int:
        return 0

    def fill_holes(self) -> None:
        """It has none."""
        return

    @property
    def held_elsewhere(self) -> bool:
        """Whether anybody but the users' processes has the file."""
        return self._references > 1

    def reference(self) -> Self:
        """One more reference, to be given back with `close`."""
        assert self._references, "not after the release"
        self._references += 1
        return self

    def close(self) -> None:
        """One reference less; the last one releases the file."""
        assert self._references, "closed once for each reference"
        self._references -= 1
        if not self._references:
            self._release()

    def abandon(self) -> None:
        """The kernel is gone, the file open or not: let go of what it holds of processes. Nothing follows."""
        return

    @abstractmethod
    def _release(self) -> None:
        """Nobody has the file any more."""

    @abstractmethod
    def ioctl(self, command: int, argument: int, caller: DeviceCaller) -> int | Blocked:
        """Errno, or the number the call gives: 0, an fd, or what the command says."""

    def pread(self, offset: int, length: int) -> bytes:
        """Fewer bytes than asked for where the region ends."""
        raise Errno(errno.EINVAL)

    def pwrite(self, offset: int, data: bytes) -> int:
        """How many bytes were written."""
        raise Errno(errno.EINVAL)

    def mmap(self, offset: int, length: int, *, writable: bool) -> Mapping:
        raise Errno(errno.ENODEV)
