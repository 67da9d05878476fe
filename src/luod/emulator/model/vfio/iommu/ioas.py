"""IO address spaces of an iommufd: the rules for mappings, with iommufd's checks and errnos.

It follows drivers/iommu/iommufd/io_pagetable.c and ioas.c of Linux 7.3. The ioctls' structures are in `iommufd.py`.
"""

from __future__ import annotations

import errno
from typing import Final

from luod.emulator.model.ports import PAGE, Errno
from luod.emulator.model.vfio.iommu.memory import (
    ADDRESS_MAXIMUM,
    RESERVED,
    AddressSpace,
    Area,
    FileBacking,
    Pages,
    reserved,
    usable,
)
from luod.emulator.model.vfio.ports import Memory

_HUGE_PAGE: Final = 2 << 20
Range = tuple[int, int]
"""First and last address, both included."""


class Ioas:
    """`page_tables` counts those made from it: with one there are reserved ranges, and pages are the smallest unit."""

    def __init__(self) -> None:
        self.space = AddressSpace()
        self.page_tables = 0
        self.frozen_by = 0
        """Preserved page tables that need it as it is."""
        self.large_pages = True
        self._allowed: tuple[Range, ...] = ()

    @property
    def alignment(self) -> int:
        return PAGE if self.page_tables or not self.large_pages else 1

    def ranges(self) -> tuple[Range, ...]:
        """Returns the ranges that are not reserved."""
        return usable() if self.page_tables else ((0, ADDRESS_MAXIMUM),)

    def allow(self, ranges: tuple[Range, ...]) -> None:
        """Limits the addresses that are chosen. Raises Errno(EADDRINUSE) for a range with reserved addresses."""
        if self.page_tables and any(reserved(*each) for each in ranges):
            raise Errno(errno.EADDRINUSE)
        self._allowed = ranges

    def add_page_table(self) -> None:
        """Counts a page table. Raises Errno(EADDRINUSE) when a mapping is where the IOMMU cannot translate."""
        if not self.page_tables:
            if any(reserved(area.start, area.last) or (area.start | area.length) % PAGE for area in self.space):
                raise Errno(errno.EADDRINUSE)
            if any(reserved(*each) for each in self._allowed):
                raise Errno(errno.EADDRINUSE)
        self.page_tables += 1

    def disable_large_pages(self) -> None:
        """Disables large pages. Raises Errno(EINVAL) once there is a mapping in a page table."""
        if self.large_pages and self.page_tables and len(self.space):
            raise Errno(errno.EINVAL)
        self.large_pages = False

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
        if self.page_tables and reserved(start, last):
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
        taken = [(area.start, area.last) for area in self.space]
        if self.page_tables:
            taken = sorted([*taken, *RESERVED])
        for first, last in self._allowed or ((PAGE, ADDRESS_MAXIMUM - PAGE),):
            position = first
            for start, end in [*taken, (last + 1, ADDRESS_MAXIMUM)]:
                if end < position:
                    continue
                aligned = -(-position // alignment) * alignment | within
                if aligned + length - 1 < min(start, last + 1):
                    return aligned
                position = end + 1
        raise Errno(errno.ENOSPC)

    def map(
        self, start: int, length: int, memory: Memory, file: FileBacking | None, *, readable: bool, writable: bool
    ) -> None:
        """Maps at an address that `place` returned. Owns `memory`."""
        pages = Pages(memory, file, writable=writable)
        self.space.insert(Area(start, length, pages, 0, readable, writable))

    def copy_from(
        self, source: Ioas, source_start: int, length: int, start: int | None, *, readable: bool, writable: bool
    ) -> int:
        """Returns the address of the copy.

        Raises Errno: ENOENT for a hole in the source, EPERM for write access to a read-only mapping, and those of
        `place`.
        """
        if not length:
            raise Errno(errno.EINVAL)
        if source_start + length - 1 > ADDRESS_MAXIMUM:
            raise Errno(errno.EOVERFLOW)
        try:
            pieces = list(source.space.pieces(source_start, length))
        except Errno:
            raise Errno(errno.ENOENT) from None
        start = self.place(start, length, source_start)
        if writable and not all(area.pages.writable for area, _, _ in pieces):
            raise Errno(errno.EPERM)
        position = start
        for area, offset, size in pieces:
            pages = area.pages.reference()
            self.space.insert(Area(position, size, pages, area.offset + offset, readable, writable))
            position += size
        return start

    def unmap(self, start: int, length: int) -> int:
        """Unmaps, and returns the number of bytes.

        Raises Errno: EINVAL, EOVERFLOW, ENOENT for part of a mapping (mappings before it are unmapped), EBUSY.
        """
        self._need_mutable()
        if not length:
            raise Errno(errno.EINVAL)
        last = start + length - 1
        if last > ADDRESS_MAXIMUM:
            raise Errno(errno.EOVERFLOW)
        done = 0
        for area in list(self.space.overlapping(start, last)):
            if area.start < start or area.last > last:
                raise Errno(errno.ENOENT)
            self.space.remove(area)
            done += area.length
        return done

    def unmap_all(self) -> int:
        self._need_mutable()
        return self.space.clear()

    def _need_mutable(self) -> None:
        if self.frozen_by:
            raise Errno(errno.EBUSY)
