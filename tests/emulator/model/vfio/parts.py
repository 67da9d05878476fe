"""BARs, pinned memory and eventfds of the tests' devices, made of byte arrays.

Each is in a list of the machine while it is held, so that a test sees a leak of the model.
"""

from __future__ import annotations

import errno

from luod.emulator.model.ports import Errno
from luod.emulator.model.vfio.ports import Memory
from tests.emulator.model.world import Counter, Inode, Process


class Bytes:
    """`Memory` of a device."""

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)
        self.closed = False

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        assert not self.closed
        assert offset + length <= self.size
        return bytes(self.data[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        assert not self.closed
        assert offset + len(data) <= self.size
        self.data[offset : offset + len(data)] = data

    def close(self) -> None:
        assert not self.closed
        self.closed = True


class Pinned:
    """`Memory` of a process, which ends with the process."""

    def __init__(self, pinned: list[Memory], process: Process, address: int, length: int) -> None:
        self._pinned = pinned
        self._process = process
        self._address = address
        self.size = length
        pinned.append(self)

    def pin(self, *, writable: bool, bars_too: bool = False) -> None:
        self._process.read(self._address, self.size)
        if writable and not self._process.writable(self._address, self.size):
            raise Errno(errno.EFAULT)

    def read(self, offset: int, length: int) -> bytes:
        return self._process.read(self._address + offset, length)

    def write(self, offset: int, data: bytes) -> None:
        self._process.write(self._address + offset, data)

    def close(self) -> None:
        self._pinned.remove(self)


class PinnedFile:
    """`Memory` of a memfd."""

    def __init__(self, pinned: list[Memory], inode: Inode, start: int, length: int) -> None:
        self._pinned = pinned
        self._inode = inode
        self._start = start
        self.size = length
        pinned.append(self)

    def pin(self, *, writable: bool, bars_too: bool = False) -> None:
        if self._start + self.size > len(self._inode.data):
            raise Errno(errno.EINVAL)

    def read(self, offset: int, length: int) -> bytes:
        start = self._start + offset
        return self._inode.data[start : start + length]

    def write(self, offset: int, data: bytes) -> None:
        start = self._start + offset
        self._inode.data = self._inode.data[:start] + data + self._inode.data[start + len(data) :]

    def close(self) -> None:
        self._pinned.remove(self)


class Event:
    """`EventFd`."""

    def __init__(self, events: list[Event], counter: Counter) -> None:
        self._events = events
        self._counter = counter
        events.append(self)

    def signal(self) -> None:
        self._counter.value += 1

    def close(self) -> None:
        self._events.remove(self)
