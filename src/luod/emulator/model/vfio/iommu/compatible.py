"""VFIO's container ioctls on an iommufd, for programs that were written before iommufd existed.

It follows drivers/iommu/iommufd/vfio_compat.c of Linux 7.3. The ioctls work on the compatible IOAS of the context. A
group makes it when it is put into the context, or IOMMU_VFIO_IOAS names it.
"""

from __future__ import annotations

import errno
from typing import Final

from luod.emulator.model.ports import PAGE, Errno
from luod.emulator.model.vfio import argsz
from luod.emulator.model.vfio.iommu.context import Context
from luod.emulator.model.vfio.iommu.ioas import PartOfMapping
from luod.emulator.model.vfio.iommu.memory import ADDRESS_MAXIMUM
from luod.emulator.model.vfio.iommu.vfio_info import EXTENSIONS, PAGE_SIZES, get_info
from luod.emulator.model.vfio.ports import DeviceCaller
from luod.uapi import vfio as uapi

_WHOLE_PAGES: Final = ADDRESS_MAXIMUM - PAGE + 1
"""The page sizes without a page table: every one from a page on."""
_AVAILABLE: Final = 0xFFFFFFFF
"""Mappings: iommufd has no limit of its own."""


def ioctl(context: Context, command: int, argument: int, caller: DeviceCaller) -> int:
    """Answers an ioctl that is not iommufd's own. Raises Errno(ENOTTY) for an unknown command."""
    match command:
        case uapi.VFIO_GET_API_VERSION:
            return uapi.VFIO_API_VERSION
        case uapi.VFIO_CHECK_EXTENSION:
            return _check_extension(context, argument)
        case uapi.VFIO_SET_IOMMU:
            return _set_iommu(context, argument)
        case uapi.VFIO_IOMMU_GET_INFO:
            return get_info(
                lambda: context.compatible.ranges(),
                _AVAILABLE,
                argument,
                caller,
                lambda: PAGE_SIZES if context.compatible.page_tables else _WHOLE_PAGES,
                always_sized=True,
            )
        case uapi.VFIO_IOMMU_MAP_DMA:
            return _map(context, argument, caller)
        case uapi.VFIO_IOMMU_UNMAP_DMA:
            return _unmap(context, argument, caller)
    raise Errno(errno.ENOTTY)


def _check_extension(context: Context, extension: int) -> int:
    """Returns whether the extension exists. Raises Errno(ENODEV) for one that depends on the IOAS, without an IOAS."""
    if extension == uapi.VFIO_DMA_CC_IOMMU:
        context.compatible.ranges()
        return 1
    return int(extension in EXTENSIONS)


def _set_iommu(context: Context, kind: int) -> int:
    """Sets the kind of IOMMU. Raises Errno: EINVAL, ENODEV without a group."""
    if kind not in (uapi.VFIO_TYPE1_IOMMU, uapi.VFIO_TYPE1v2_IOMMU):
        raise Errno(errno.EINVAL)
    ioas = context.compatible
    if kind == uapi.VFIO_TYPE1_IOMMU:
        ioas.disable_large_pages()
    return 0


def _map(context: Context, argument: int, caller: DeviceCaller) -> int:
    """Maps as IOMMU_IOAS_MAP does at a fixed address, with its errnos. Raises Errno: EINVAL, ENODEV."""
    _, flags, address, start, length = argsz.read(caller, argument, uapi.IOMMU_TYPE1_DMA_MAP)
    if flags & ~(uapi.VFIO_DMA_MAP_FLAG_READ | uapi.VFIO_DMA_MAP_FLAG_WRITE):
        raise Errno(errno.EINVAL)
    ioas = context.compatible
    if address + length > ADDRESS_MAXIMUM:
        raise Errno(errno.EOVERFLOW)
    start = ioas.place(start, length, address)
    writable = bool(flags & uapi.VFIO_DMA_MAP_FLAG_WRITE)
    account = context.account(caller)
    memory = caller.memory(address, length)
    readable = bool(flags & uapi.VFIO_DMA_MAP_FLAG_READ)
    ioas.map(start, length, memory, None, account, address=address, readable=readable, writable=writable)
    return 0


def _unmap(context: Context, argument: int, caller: DeviceCaller) -> int:
    """Unmaps, and writes the number of bytes into the structure, also when that fails. VFIO_TYPE1_IOMMU cuts mappings.

    Raises Errno: EINVAL, ENODEV, EOVERFLOW, and ENOENT for part of a mapping. A range without mappings is not an error.
    """
    layout = uapi.IOMMU_TYPE1_DMA_UNMAP
    size, flags, start, length = argsz.read(caller, argument, layout)
    if flags & ~uapi.VFIO_DMA_UNMAP_FLAG_ALL:
        raise Errno(errno.EINVAL)
    ioas = context.compatible
    if flags:
        if start or length:
            raise Errno(errno.EINVAL)
        done = ioas.unmap_all()
    else:
        if not ioas.large_pages:
            for place in (start + length, start):
                ioas.cut(place & ADDRESS_MAXIMUM)
        try:
            done = ioas.unmap(start, length)
        except Errno as error:
            done = error.done if isinstance(error, PartOfMapping) else 0
            argsz.write(caller, argument, layout, (size, flags, start, done), layout.size)
            raise
    argsz.write(caller, argument, layout, (size, flags, start, done), layout.size)
    return 0
