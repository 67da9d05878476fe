"""The IOMMU of a container: VFIO_TYPE1_IOMMU and VFIO_TYPE1v2_IOMMU, MAP_DMA, UNMAP_DMA, GET_INFO.

It follows drivers/vfio/vfio_iommu_type1.c of Linux 7.3, without dirty tracking and changes of virtual addresses.
"""

from __future__ import annotations

import errno
from typing import Final

from luod.emulator.model.ports import PAGE, Errno
from luod.emulator.model.vfio import argsz
from luod.emulator.model.vfio.iommu.locked import LockedMemory
from luod.emulator.model.vfio.iommu.memory import ADDRESS_MAXIMUM, AddressSpace, Area, Pages, reserved, usable
from luod.emulator.model.vfio.iommu.vfio_info import get_info
from luod.emulator.model.vfio.ports import DeviceCaller
from luod.uapi import vfio as uapi

_MAPPINGS_MAXIMUM: Final = 65535


class Type1:
    """The mappings of one container."""

    def __init__(self, locked: LockedMemory, *, exact_unmaps: bool) -> None:
        """`exact_unmaps`: v2, which unmaps exactly the given range."""
        self.space = AddressSpace()
        self._locked = locked
        self._exact = exact_unmaps

    def close(self) -> None:
        """Drops every mapping."""
        self.space.clear()

    def ioctl(self, command: int, argument: int, caller: DeviceCaller) -> int:
        """Answers an ioctl of the container. Raises Errno(ENOTTY) for an unknown command."""
        match command:
            case uapi.VFIO_IOMMU_GET_INFO:
                return get_info(usable, _MAPPINGS_MAXIMUM - len(self.space), argument, caller)
            case uapi.VFIO_IOMMU_MAP_DMA:
                return self._map(argument, caller)
            case uapi.VFIO_IOMMU_UNMAP_DMA:
                return self._unmap(argument, caller)
        raise Errno(errno.ENOTTY)

    def _map(self, argument: int, caller: DeviceCaller) -> int:
        """Maps memory.

        Raises Errno: EINVAL, EOVERFLOW, EEXIST, ENOSPC, and for memory that cannot be pinned EFAULT, ENOMEM.
        """
        _, flags, address, start, length = argsz.read(caller, argument, uapi.IOMMU_TYPE1_DMA_MAP)
        access = uapi.VFIO_DMA_MAP_FLAG_READ | uapi.VFIO_DMA_MAP_FLAG_WRITE
        if flags & ~(access | uapi.VFIO_DMA_MAP_FLAG_VADDR) or not length:
            raise Errno(errno.EINVAL)
        if start + length - 1 > ADDRESS_MAXIMUM or address + length - 1 > ADDRESS_MAXIMUM:
            raise Errno(errno.EOVERFLOW)
        changes_address = flags & uapi.VFIO_DMA_MAP_FLAG_VADDR
        if bool(flags & access) == bool(changes_address) or (length | start | address) % PAGE:
            raise Errno(errno.EINVAL)
        there = next(self.space.overlapping(start, start + length - 1), None)
        if changes_address:
            # VFIO_DMA_UNMAP_FLAG_VADDR is refused here, so it cannot have unmapped anything.
            raise Errno(errno.ENOENT if there is None else errno.EINVAL)
        if there is not None:
            raise Errno(errno.EEXIST)
        if len(self.space) >= _MAPPINGS_MAXIMUM:
            raise Errno(errno.ENOSPC)
        if reserved(start, start + length - 1):
            raise Errno(errno.EINVAL)
        writable = bool(flags & uapi.VFIO_DMA_MAP_FLAG_WRITE)
        account = self._locked.account(caller.locker(), by_process=True)
        pages = Pages(caller.memory(address, length), None, account, address=address, writable=writable)
        try:
            pages.pin(bars_too=True)
        except Errno:
            pages.put()
            raise
        self.space.insert(Area(start, length, pages, 0, bool(flags & uapi.VFIO_DMA_MAP_FLAG_READ), writable))
        return 0

    def _unmap(self, argument: int, caller: DeviceCaller) -> int:
        """Unmaps, and writes the number of bytes into the structure.

        Raises Errno(EINVAL) for part of a mapping under v2.
        """
        layout = uapi.IOMMU_TYPE1_DMA_UNMAP
        size, flags, start, length = argsz.read(caller, argument, layout)
        everything = flags & uapi.VFIO_DMA_UNMAP_FLAG_ALL
        # Dirty tracking cannot be on, and virtual addresses cannot change: EINVAL for both.
        if flags & ~uapi.VFIO_DMA_UNMAP_FLAG_ALL or start % PAGE:
            raise Errno(errno.EINVAL)
        if everything:
            if start or length:
                raise Errno(errno.EINVAL)
            unmapped = self.space.clear()
        else:
            if not length or length % PAGE:
                raise Errno(errno.EINVAL)
            last = start + length - 1
            if last > ADDRESS_MAXIMUM:
                raise Errno(errno.EOVERFLOW)
            unmapped = self._unmap_range(start, last)
        argsz.write(caller, argument, layout, (size, flags, start, unmapped), layout.size)
        return 0

    def _unmap_range(self, start: int, last: int) -> int:
        areas = list(self.space.overlapping(start, last))
        if self._exact and areas and (areas[0].start < start or areas[-1].last > last):
            raise Errno(errno.EINVAL)
        if areas and areas[0].start < start:
            areas = []  # v1: a range that begins inside a mapping unmaps nothing
        return self.space.remove(areas)
