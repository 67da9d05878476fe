"""What the modelled devices need of the world beyond `model.ports`: memory that a device reaches, and eventfds.

`luod.emulator.trap` implements them over processes and memfds; the model's tests over byte arrays. Sizes and offsets
are bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from luod.emulator.model.caller import Caller
from luod.emulator.model.ports import Host, HostFile


class Memory(Protocol):
    """Bytes shared with a process: what one side writes, the other reads at once. Owned until `close`."""

    @property
    def size(self) -> int: ...

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes, inside `size`. Errno(EFAULT) when they are gone, as with a process that ended."""
        ...

    def write(self, offset: int, data: bytes) -> None:
        """Inside `size`. Errno(EFAULT) as for `read`."""
        ...

    def close(self) -> None: ...


class EventFd(Protocol):
    """A reference to a process's eventfd, held until `close`."""

    def signal(self) -> None:
        """Add 1 to its counter. Never blocks, never fails."""
        ...

    def close(self) -> None: ...


class DeviceHost(Host, Protocol):
    """The hardware, with what devices are made of."""

    def allocate(self, name: str, sizes: Sequence[int]) -> tuple[Memory, ...]:
        """Zeroed memory that a process can map too: the BARs of a device, in their order. `name` is for people.

        Asked for at once, because a file of the device maps them all: the N-th at N << PCI_OFFSET_SHIFT.
        """
        ...

    def pin_file(self, file: HostFile, offset: int, length: int) -> Memory:
        """That part of a memfd's contents, as DMA reaches it. Errno(EINVAL) when the file does not reach so far.

        `file` stays the caller's and may be closed before the memory is.
        """
        ...


class DeviceCaller(Caller, Protocol):
    """The thread that asks something of a device.

    `file` gives the model's own files (`files.ModelFile`) themselves, with one more `reference()` taken, and `install`
    makes an fd for one: the first fd, and each after `Vfio.release` was told that the last is gone, takes a
    `reference()`. Both are the same open file however often they are asked for.
    """

    def eventfd(self, fd: int) -> EventFd:
        """Errno(EBADF) not open, Errno(EINVAL) no eventfd."""
        ...

    def pin(self, address: int, length: int, *, writable: bool, bars_too: bool = False) -> Memory:
        """The caller's memory as DMA reaches it. Errno(EFAULT) where it has none, or `writable` and it is read-only.

        `bars_too`: a device's BAR that is mapped there will do, as it does for type1 and never for iommufd.
        The memory stays reachable while the caller lives.
        """
        ...
