"""Ports of the modelled devices besides `model.ports`: memory that a device reaches, and eventfds.

`luod.emulator.trap` implements them over processes and memfds, the model's tests over byte arrays. Sizes and offsets
are in bytes.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

from luod.emulator.model.caller import Caller
from luod.emulator.model.ports import Host, HostFile


class Memory(Protocol):
    """Memory shared with a process: each side reads the other's writes at once. Owned until `close`."""

    @property
    def size(self) -> int: ...

    def read(self, offset: int, length: int) -> bytes:
        """Returns exactly `length` bytes, inside `size`.

        Raises Errno(EFAULT) when they are gone, as of an ended process.
        """
        ...

    def write(self, offset: int, data: bytes) -> None:
        """Writes inside `size`. Raises Errno(EFAULT) as `read`."""
        ...

    def close(self) -> None: ...


class MappableMemory(Memory, Protocol):
    """Memory for DMA: part of a file, or addresses of a process.

    At the addresses there may be memory later, or no longer. They end with the process.
    """

    def pin(self, *, writable: bool, bars_too: bool = False) -> None:
        """Checks whether DMA can reach all of the memory, and write to it if `writable`.

        Raises Errno(EFAULT) for missing or read-only memory, Errno(EINVAL) beyond a file's end.

        `bars_too` accepts a mapped BAR of a device, as type1 does and iommufd never does.
        """
        ...


@dataclass(frozen=True)
class Locker:
    """A process whose locked memory is limited. `limit` and `own`, which it locked itself, are in bytes."""

    user: Hashable
    process: Hashable
    limit: int
    own: int = 0


class EventFd(Protocol):
    """A reference to a process's eventfd, held until `close`."""

    def signal(self) -> None:
        """Adds 1 to its counter. Never blocks, never fails."""
        ...

    def close(self) -> None: ...


class DeviceHost(Host, Protocol):
    """The hardware that devices are made of."""

    def allocate(self, name: str, sizes: Sequence[int]) -> tuple[Memory, ...]:
        """Returns zeroed memory that a process can map too: the BARs of a device, in their order. `name` is for people.

        All are allocated at once, because a file of the device maps them all: BAR N at N << PCI_OFFSET_SHIFT.
        """
        ...

    def pin_file(self, file: HostFile, offset: int, length: int) -> MappableMemory:
        """Returns that part of a memfd's contents, as DMA reaches it. Its `pin` is EINVAL beyond the file's end.

        `file` stays the caller's and may be closed before the memory.
        """
        ...


class DeviceCaller(Caller, Protocol):
    """The thread that makes a call on a device.

    `file` returns the model's own files (`files.ModelFile`) themselves, with one more `reference()`. `install` makes an
    fd for one. The first fd, and each one after `Vfio.release` reported the last close, takes a `reference()`. Both are
    always the same open file.
    """

    def eventfd(self, fd: int) -> EventFd:
        """Returns the eventfd. Raises Errno(EBADF) for a closed fd, Errno(EINVAL) for another kind of file."""
        ...

    def memory(self, address: int, length: int) -> MappableMemory:
        """Returns the caller's memory as DMA reaches it."""
        ...

    def locker(self, *, exempt: bool = True) -> Locker | None:
        """Returns the limit of the memory that the caller locks; None with CAP_IPC_LOCK, if that is `exempt`."""
        ...
