"""IO address spaces: a device's addresses. Mappings by address, and the memory behind them.

They are the IOMMU's page tables, for both interfaces. `type1.py` and `iommufd.py` decide which mappings are allowed,
and the errnos of the others. Addresses and lengths are in bytes.
"""

from __future__ import annotations

import bisect
import errno
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from luod.emulator.model.ports import PAGE, Errno
from luod.emulator.model.vfio.iommu.locked import Account
from luod.emulator.model.vfio.ports import MappableMemory

ADDRESS_MAXIMUM: Final = (1 << 64) - 1
APERTURE_LAST: Final = (1 << 48) - 1
"""The last address that the IOMMU translates: four levels of page tables."""
MSI_FIRST: Final = 0xFEE00000
MSI_LAST: Final = 0xFEEFFFFF
"""Writes to this range are interrupts and never reach memory, on x86."""
Ranges = tuple[tuple[int, int], ...]
"""First and last addresses, both included, in ascending order."""
MSI_WINDOW: Final = (MSI_FIRST, MSI_LAST)
BEYOND_APERTURE: Final = (APERTURE_LAST + 1, ADDRESS_MAXIMUM)
RESERVED: Final = (MSI_WINDOW, BEYOND_APERTURE)
"""Address ranges, both ends included, that no device can use."""


@dataclass(frozen=True)
class FileBacking:
    """The memfd behind a mapping, and its seals at the time of the map."""

    identity: Hashable
    seals: int


class NoMemory:
    """`MappableMemory` of a file that has no pages for DMA."""

    def __init__(self, size: int) -> None:
        self.size = size

    def pin(self, *, writable: bool, bars_too: bool = False) -> None:
        raise Errno(errno.EINVAL)

    def read(self, offset: int, length: int) -> bytes:
        raise Errno(errno.EFAULT)

    def write(self, offset: int, data: bytes) -> None:
        raise Errno(errno.EFAULT)

    def close(self) -> None:
        """Does nothing: it holds nothing."""


class Pages:
    """Memory that several mappings may share. Made with one reference; the last one closes it."""

    def __init__(
        self, memory: MappableMemory, file: FileBacking | None, account: Account, *, address: int, writable: bool
    ) -> None:
        """`address`: where the memory begins, in its process or file. Pinned pages count in `account`."""
        self.memory = memory
        self.file = file
        self.address = address
        self.writable = writable
        self.account = account
        self.locked = 0
        """The bytes that count in `account`."""
        self._references = 1

    def pin(self, *, bars_too: bool = False) -> None:
        """Raises Errno: EFAULT for memory that is not there, ENOMEM for more than the process may lock."""
        if self.locked:
            return
        self.memory.pin(writable=self.writable, bars_too=bars_too)
        length = -(-(self.address % PAGE + self.memory.size) // PAGE) * PAGE
        self.account.add(length)
        self.locked = length

    def unpin(self) -> None:
        """Ends what `pin` did, if it was pinned."""
        if self.locked:
            self.account.remove(self.locked)
            self.locked = 0

    def give_to(self, account: Account) -> None:
        """Replaces the account by one in which they count already."""
        self.account.remove(self.locked)
        self.account = account

    def reference(self) -> Pages:
        self._references += 1
        return self

    def put(self) -> None:
        self._references -= 1
        if not self._references:
            self.unpin()
            self.memory.close()


@dataclass(frozen=True)
class Area:
    """One mapping: `length` bytes from `start` on are those of `pages` from `offset` on."""

    start: int
    length: int
    pages: Pages
    offset: int
    readable: bool
    writable: bool

    @property
    def last(self) -> int:
        return self.start + self.length - 1

    @property
    def page_offset(self) -> int:
        """Returns where in a page of memory the mapping begins, in bytes."""
        return (self.pages.address + self.offset) % PAGE


class Taken:
    """The addresses that have a mapping, as ranges. Neighbours are one range, so a full space has few."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []

    def add(self, first: int, last: int) -> None:
        """Adds a range of which no address is taken."""
        at = bisect.bisect(self._firsts, first)
        joins_before = at > 0 and self._lasts[at - 1] == first - 1
        joins_after = at < len(self._firsts) and self._firsts[at] == last + 1
        if joins_before and joins_after:
            del self._firsts[at], self._lasts[at - 1]
        elif joins_before:
            self._lasts[at - 1] = last
        elif joins_after:
            self._firsts[at] = first
        else:
            self._firsts.insert(at, first)
            self._lasts.insert(at, last)

    def remove(self, first: int, last: int) -> None:
        """Removes a range of which every address is taken."""
        at = bisect.bisect(self._firsts, first) - 1
        before, after = self._firsts[at] < first, self._lasts[at] > last
        if before and after:
            self._firsts.insert(at + 1, last + 1)
            self._lasts.insert(at, first - 1)
        elif before:
            self._lasts[at] = first - 1
        elif after:
            self._firsts[at] = last + 1
        else:
            del self._firsts[at], self._lasts[at]

    def clear(self) -> None:
        self._firsts.clear()
        self._lasts.clear()

    def beyond(self, start: int) -> Iterator[tuple[int, int]]:
        """Iterates over the ranges with an address from `start` on."""
        first = bisect.bisect_left(self._lasts, start)
        return ((self._firsts[at], self._lasts[at]) for at in range(first, len(self._firsts)))


class AddressSpace:
    """The mappings of one page table, which never overlap. Owns a reference to the pages of each."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._areas: dict[int, Area] = {}
        self.taken = Taken()
        """Its addresses. Only this class changes them."""

    def __iter__(self) -> Iterator[Area]:
        """Iterates over the mappings in the order of their addresses."""
        return (self._areas[start] for start in self._starts)

    def __len__(self) -> int:
        return len(self._starts)

    def overlapping(self, start: int, last: int) -> Iterator[Area]:
        """Iterates over the mappings with a byte in start..last, in order."""
        position = max(bisect.bisect_right(self._starts, start) - 1, 0)
        while position < len(self._starts):
            area = self._areas[self._starts[position]]
            if area.start > last:
                return
            if area.last >= start:
                yield area
            position += 1

    def insert(self, area: Area) -> None:
        """Inserts a mapping into a free range. Takes over the reference to its pages."""
        self._place(area)
        self.taken.add(area.start, area.last)

    def _place(self, area: Area) -> None:
        bisect.insort(self._starts, area.start)
        self._areas[area.start] = area

    def remove(self, areas: Sequence[Area]) -> int:
        """Drops mappings that follow one another, with no other between them. Returns the number of bytes."""
        if areas:
            first = bisect.bisect_left(self._starts, areas[0].start)
            del self._starts[first : first + len(areas)]
        for area in areas:
            del self._areas[area.start]
            self.taken.remove(area.start, area.last)
            area.pages.put()
        return sum(area.length for area in areas)

    def cut(self, address: int) -> None:
        """Makes two mappings of the one that has bytes on both sides of `address`, if there is one."""
        area = next(self.overlapping(address, address), None)
        if area is None or area.start == address:
            return
        before = address - area.start
        self._areas[area.start] = Area(area.start, before, area.pages, area.offset, area.readable, area.writable)
        pages = area.pages.reference()
        self._place(Area(address, area.length - before, pages, area.offset + before, area.readable, area.writable))

    def clear(self) -> int:
        """Drops all mappings. Returns the number of bytes that were mapped."""
        areas = tuple(self._areas.values())
        self._starts.clear()
        self._areas.clear()
        self.taken.clear()
        for area in areas:
            area.pages.put()
        return sum(area.length for area in areas)

    def pieces(self, start: int, length: int) -> Iterator[tuple[Area, int, int]]:
        """Yields (area, offset in it, bytes) for the pieces of the range. Raises Errno(EFAULT) at the first hole."""
        position, end = start, start + length
        for area in self.overlapping(start, end - 1) if length else ():
            if area.start > position:
                break
            offset = position - area.start
            size = min(area.length - offset, end - position)
            yield area, offset, size
            position += size
        if position < end:
            raise Errno(errno.EFAULT)

    def read(self, address: int, length: int) -> bytes:
        """Returns bytes, as `Dma.read`."""
        data = []
        for area, offset, size in self.pieces(address, length):
            if not area.readable:
                raise Errno(errno.EFAULT)
            data.append(area.pages.memory.read(area.offset + offset, size))
        return b"".join(data)

    def write(self, address: int, data: bytes) -> None:
        """Writes bytes, as `Dma.write`."""
        pieces = list(self.pieces(address, len(data)))
        if not all(area.writable for area, _, _ in pieces):
            raise Errno(errno.EFAULT)
        done = 0
        for area, offset, size in pieces:
            area.pages.memory.write(area.offset + offset, data[done : done + size])
            done += size


def reserved(start: int, last: int, ranges: Ranges = RESERVED) -> bool:
    """Returns whether start..last has a byte of the reserved `ranges`."""
    return any(first <= last and start <= end for first, end in ranges)


def usable(ranges: Ranges = RESERVED) -> Ranges:
    """Returns the ranges between the reserved ones, both ends included."""
    found = []
    start = 0
    for first, last in ranges:
        found.append((start, first - 1))
        start = last + 1
    if start <= ADDRESS_MAXIMUM:
        found.append((start, ADDRESS_MAXIMUM))
    return tuple(found)
