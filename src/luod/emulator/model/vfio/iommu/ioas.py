"""IO address spaces of an iommufd: the rules for mappings, with iommufd's checks and errnos.

It follows drivers/iommu/iommufd/io_pagetable.c and ioas.c of Linux 7.3. The ioctls' structures are in `iommufd.py`.
"""

from __future__ import annotations

import errno
import heapq
import itertools
from collections.abc import Iterator
from typing import Final

from luod.emulator.model.ports import PAGE, Errno
from luod.emulator.model.vfio.iommu.locked import Account
from luod.emulator.model.vfio.iommu.memory import (
    ADDRESS_MAXIMUM,
    BEYOND_APERTURE,
    MSI_WINDOW,
    AddressSpace,
    Area,
    FileBacking,
    Pages,
    Ranges,
    reserved,
    usable,
)
from luod.emulator.model.vfio.ports import MappableMemory

MOST: Final = 1 << 16
"""Mappings of one address space, and its allowed ranges (docs/divergences.md).

One call may look at all of them. No other call of the machine is answered meanwhile.
"""
_HUGE_PAGE: Final = 2 << 20
Range = tuple[int, int]
"""First and last address, both included."""
Piece = tuple[Area, int, int]
"""Mapping, offset in it, bytes."""


class PartOfMapping(Errno):
    """The range ends inside of a mapping (ENOENT). `done` bytes of mappings before it were unmapped."""

    def __init__(self, done: int) -> None:
        super().__init__(errno.ENOENT)
        self.done = done


class Ioas:
    """One IOAS.

    `page_tables` counts the page tables that were made from it. While there is one, a page is the smallest unit, and
    addresses beyond the IOMMU's are reserved. `attached` counts the devices that use one of them. While there is one,
    the window of message interrupts is reserved.
    """

    def __init__(self) -> None:
        self.space = AddressSpace()
        self.page_tables = 0
        self.attached = 0
        self.frozen_by = 0
        """Preserved page tables that need it as it is."""
        self.large_pages = True
        self._allowed: tuple[Range, ...] = ()
        self._choosable = _join(())
        """The ranges from which addresses are chosen."""

    @property
    def alignment(self) -> int:
        return PAGE if self.page_tables or not self.large_pages else 1

    def ranges(self) -> tuple[Range, ...]:
        """Returns the ranges that are not reserved."""
        return usable(self._reserved)

    @property
    def _reserved(self) -> Ranges:
        return (*((MSI_WINDOW,) if self.attached else ()), *((BEYOND_APERTURE,) if self.page_tables else ()))

    def allow(self, ranges: tuple[Range, ...]) -> None:
        """Limits the addresses that are chosen. Raises Errno(EADDRINUSE) for a range with reserved addresses."""
        if any(reserved(*each, self._reserved) for each in ranges):
            raise Errno(errno.EADDRINUSE)
        self._allowed = ranges
        self._choosable = _join(ranges)

    def add_page_table(self) -> None:
        """Counts a page table.

        Raises Errno: EADDRINUSE when a mapping is where the IOMMU cannot translate, EFAULT for one without memory,
        EINVAL for one without access, ENOMEM for more memory than its process may lock.
        """
        if not self.page_tables:
            self._need_whole_pages()
            self._need_free(BEYOND_APERTURE)
            try:
                for area in self.space:
                    _enter(area)
            except Errno:
                self._unpin()
                raise
        self.page_tables += 1

    def remove_page_table(self) -> None:
        """Counts one page table less. With the last one no memory is pinned any more."""
        self.page_tables -= 1
        if not self.page_tables:
            self._unpin()

    def _unpin(self) -> None:
        for area in self.space:
            area.pages.unpin()

    def check_device(self) -> None:
        """Checks whether a device can use a page table.

        Raises Errno(EADDRINUSE) for a mapping where its interrupts are.
        """
        if not self.attached:
            self._need_free(MSI_WINDOW)

    def _need_free(self, window: Range) -> None:
        """Raises Errno(EADDRINUSE) where a mapping or an allowed range has an address of `window`."""
        ranges = (*((area.start, area.last) for area in self.space), *self._allowed)
        if any(reserved(*each, (window,)) for each in ranges):
            raise Errno(errno.EADDRINUSE)

    def disable_large_pages(self) -> None:
        """Disables large pages.

        Raises Errno: EINVAL once there is a mapping in a page table, EADDRINUSE for one of a part of a page.
        """
        if self.large_pages and self.page_tables and len(self.space):
            raise Errno(errno.EINVAL)
        if self.large_pages:
            self._need_whole_pages()
        self.large_pages = False

    def _need_whole_pages(self) -> None:
        if any((area.start | area.length | area.page_offset) % PAGE for area in self.space):
            raise Errno(errno.EADDRINUSE)

    def place(self, start: int | None, length: int, memory_address: int) -> int:
        """Returns the address for a mapping of `length` bytes; `start` None: any address.

        Raises Errno: EINVAL, EOVERFLOW, EEXIST, ENOSPC, EBUSY.
        """
        self._need_mutable()
        if not length or length % self.alignment:
            raise Errno(errno.EINVAL)
        if start is None:
            return self._find_hole(length, memory_address)
        if start % self.alignment:
            raise Errno(errno.EINVAL)
        last = start + length - 1
        if last > ADDRESS_MAXIMUM:
            raise Errno(errno.EOVERFLOW)
        if reserved(start, last, self._reserved):
            raise Errno(errno.EINVAL)
        if next(self.space.overlapping(start, last), None) is not None:
            raise Errno(errno.EEXIST)
        return start

    def _find_hole(self, length: int, memory_address: int) -> int:
        """Returns the first hole that is aligned so that huge pages stay huge."""
        if length >= ADDRESS_MAXIMUM // 2:
            raise Errno(errno.EOVERFLOW)
        alignment = 1 << (length - 1).bit_length()
        if memory_address:
            alignment = min(alignment, memory_address & -memory_address)
        alignment = min(alignment, _HUGE_PAGE)
        if alignment < self.alignment:
            raise Errno(errno.EINVAL)
        within = memory_address % PAGE
        for first, last in self._choosable:
            # As in iopt_alloc_iova, the start of the range is aligned before holes are looked for.
            position = _fit(first, last, length, alignment, within)
            if position is None:
                continue
            for start, end in itertools.chain(self._taken(position), ((last + 1, ADDRESS_MAXIMUM),)):
                found = _fit(position, min(start - 1, last), length, alignment, within)
                if found is not None:
                    return found
                if end >= last:
                    break
                position = end + 1
        raise Errno(errno.ENOSPC)

    def _taken(self, position: int) -> Iterator[Range]:
        """Iterates over the ranges with an address from `position` on that no new mapping can have, in order."""
        reserved_there = (each for each in self._reserved if each[1] >= position)
        return heapq.merge(self.space.taken.beyond(position), reserved_there)

    def map(
        self,
        start: int,
        length: int,
        memory: MappableMemory,
        file: FileBacking | None,
        account: Account,
        *,
        address: int,
        readable: bool,
        writable: bool,
    ) -> None:
        """Maps at an address that `place` returned. Owns `memory`.

        Raises Errno: EINVAL for memory that begins inside a page, EFAULT, ENOMEM. The memory is looked at once there is
        a page table. ENOMEM too for more than MOST mappings.
        """
        pages = Pages(memory, file, account, address=address, writable=writable)
        area = Area(start, length, pages, 0, readable, writable)
        try:
            self._check_memory(area)
            self._need_room(1)
        except Errno:
            pages.put()
            raise
        self.space.insert(area)

    def _check_memory(self, area: Area) -> None:
        if area.page_offset % self.alignment:
            raise Errno(errno.EINVAL)
        if self.page_tables:
            _enter(area)

    def pieces(self, start: int, length: int) -> list[Piece]:
        """Returns the parts of mappings that a copy of the range takes. Raises Errno: EINVAL, EOVERFLOW, ENOENT."""
        if not length:
            raise Errno(errno.EINVAL)
        if start + length - 1 > ADDRESS_MAXIMUM:
            raise Errno(errno.EOVERFLOW)
        try:
            return list(self.space.pieces(start, length))
        except Errno:
            raise Errno(errno.ENOENT) from None

    def copy(self, pieces: list[Piece], length: int, start: int | None, *, readable: bool, writable: bool) -> int:
        """Maps `pieces`, which have `length` bytes, once more. Returns the address.

        Raises Errno: EPERM for write access to a read-only mapping, ENOMEM for too many mappings, and those of `place`.
        """
        first, within, _ = pieces[0]
        start = self.place(start, length, first.pages.address + first.offset + within)
        if writable and not all(area.pages.writable for area, _, _ in pieces):
            raise Errno(errno.EPERM)
        self._need_room(len(pieces))
        position = start
        copies: list[Area] = []
        for area, offset, size in pieces:
            copies.append(Area(position, size, area.pages, area.offset + offset, readable, writable))
            self._check_memory(copies[-1])
            position += size
        for copy in copies:
            copy.pages.reference()
            self.space.insert(copy)
        return start

    def cut(self, start: int) -> None:
        """Makes two mappings of one with bytes on both sides of `start`.

        Raises Errno: EBUSY, EINVAL inside a page, ENOMEM for too many mappings.
        """
        self._need_mutable()
        area = next(self.space.overlapping(start, start), None)
        if area is None or area.start == start:
            return
        if start % self.alignment:
            raise Errno(errno.EINVAL)
        self._need_room(1)
        self.space.cut(start)

    def unmap(self, start: int, length: int) -> int:
        """Unmaps, and returns the number of bytes.

        Raises Errno: EINVAL, EOVERFLOW, EBUSY, and `PartOfMapping` (ENOENT).
        """
        self._need_mutable()
        if not length:
            raise Errno(errno.EINVAL)
        last = start + length - 1
        if last > ADDRESS_MAXIMUM:
            raise Errno(errno.EOVERFLOW)
        areas = list(self.space.overlapping(start, last))
        if areas and areas[0].start < start:
            raise PartOfMapping(0)
        if areas and areas[-1].last > last:
            raise PartOfMapping(self.space.remove(areas[:-1]))
        return self.space.remove(areas)

    def unmap_all(self) -> int:
        """Unmaps everything, and returns the number of bytes in 64 bits: 0 for the whole space."""
        self._need_mutable()
        return self.space.clear() & ADDRESS_MAXIMUM

    def _need_room(self, mappings: int) -> None:
        """Raises Errno(ENOMEM) where so many more mappings would be too many."""
        if len(self.space) + mappings > MOST:
            raise Errno(errno.ENOMEM)

    def _need_mutable(self) -> None:
        if self.frozen_by:
            raise Errno(errno.EBUSY)


def _enter(area: Area) -> None:
    """Pins a mapping for a page table. Raises Errno: EFAULT, ENOMEM, EINVAL without any access."""
    area.pages.pin()
    if not (area.readable or area.writable):
        raise Errno(errno.EINVAL)


def _join(allowed: tuple[Range, ...]) -> tuple[Range, ...]:
    """Returns the ranges from which addresses are chosen: neighbours joined, no first and no last page."""
    lowest, highest = PAGE, ADDRESS_MAXIMUM - PAGE
    joined: list[Range] = []
    for first, last in allowed or ((lowest, highest),):
        if joined and joined[-1][1] + 1 == first:
            joined[-1] = joined[-1][0], last
        else:
            joined.append((first, last))
    clipped = ((max(first, lowest), min(last, highest)) for first, last in joined)
    return tuple((first, last) for first, last in clipped if first <= last)


def _fit(start: int, last: int, length: int, alignment: int, within: int) -> int | None:
    """Returns the first address of start..last for `length` bytes, `within` bytes after one that is aligned, or None.

    An address that is the last one is not taken, even for one byte (__alloc_iova_check_range).
    """
    aligned = -(-start // alignment) * alignment | within
    return aligned if aligned < last and last - aligned >= length - 1 else None
