"""Commands of /dev/iommu for abilities that this IOMMU lacks: dirty tracking, nested page tables, vIOMMUs, devices
without an IOMMU.

A kernel has the commands on every hardware. So these make the checks that come before those of the hardware, as
drivers/iommu/iommufd of Linux 7.3 does, and then refuse.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final

from luod.emulator.model.decode import Command, Request
from luod.emulator.model.ports import Errno
from luod.emulator.model.vfio.iommu.context import BoundDevice, Context, PageTable
from luod.emulator.model.vfio.iommu.memory import ADDRESS_MAXIMUM
from luod.uapi import iommufd as uapi

_VIOMMU_ALLOC_MINIMUM: Final = 24
_DEFAULT_TYPE: Final = 0
"""IOMMU_VIOMMU_TYPE_DEFAULT, and the types of the same value of event queues and hardware queues: reserved."""


def _set_dirty_tracking(request: Request, context: Context) -> int:
    _, flags, table, _ = request.values
    if flags & ~uapi.IOMMU_HWPT_DIRTY_TRACKING_ENABLE:
        return errno.EOPNOTSUPP
    context.get(table, PageTable)
    return errno.EOPNOTSUPP


def _get_dirty_bitmap(request: Request, context: Context) -> int:
    _, number, flags, reserved, start, length, page_size, _ = request.values
    if flags & ~uapi.IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR or reserved:
        return errno.EOPNOTSUPP
    table = context.get(number, PageTable)
    if start + length - 1 > ADDRESS_MAXIMUM:
        return errno.EOVERFLOW
    if not page_size or any((start | start + length) & unit - 1 for unit in (table.ioas.alignment, page_size)):
        return errno.EINVAL
    return errno.EOPNOTSUPP


def _invalidate(request: Request, context: Context) -> int:
    """Answers also where it fails: with the number of entries that were done, none."""
    _, number, address, _, length, count, reserved = request.values
    code = errno.EINVAL  # only nested page tables and vIOMMUs have caches of their own
    if reserved:
        code = errno.EOPNOTSUPP
    elif not count or (address and length):
        try:
            context.get(number, object)
        except Errno as unknown:
            code = unknown.code
    request.answer({5: 0})
    return code


def _viommu_alloc(request: Request, context: Context) -> int:
    _, flags, kind, device, *_ = request.values
    if not flags and kind != _DEFAULT_TYPE:
        context.get(device, BoundDevice)
    return errno.EOPNOTSUPP


def _vdevice_alloc(request: Request, context: Context) -> int:
    return errno.ENOENT  # the vIOMMU


def _veventq_alloc(request: Request, context: Context) -> int:
    _, flags, _, kind, depth, _, _, reserved = request.values
    if flags or reserved or kind == _DEFAULT_TYPE:
        return errno.EOPNOTSUPP
    return errno.ENOENT if depth else errno.EINVAL


def _hw_queue_alloc(request: Request, context: Context) -> int:
    _, flags, _, kind, _, _, start, length = request.values
    if flags or kind == _DEFAULT_TYPE:
        return errno.EOPNOTSUPP
    if not length:
        return errno.EINVAL
    return errno.EOVERFLOW if start + length - 1 > ADDRESS_MAXIMUM else errno.ENOENT


def _noiommu_get_pa(request: Request, context: Context) -> int:
    return errno.EOPNOTSUPP  # this kernel has no VFIO_NOIOMMU


_REFUSALS: Final[dict[Command, Callable[[Request, Context], int]]] = {
    Command(uapi.IOMMU_HWPT_SET_DIRTY_TRACKING, uapi.HWPT_SET_DIRTY_TRACKING): _set_dirty_tracking,
    Command(uapi.IOMMU_HWPT_GET_DIRTY_BITMAP, uapi.HWPT_GET_DIRTY_BITMAP): _get_dirty_bitmap,
    Command(uapi.IOMMU_HWPT_INVALIDATE, uapi.HWPT_INVALIDATE): _invalidate,
    Command(uapi.IOMMU_VIOMMU_ALLOC, uapi.VIOMMU_ALLOC, minimum=_VIOMMU_ALLOC_MINIMUM): _viommu_alloc,
    Command(uapi.IOMMU_VDEVICE_ALLOC, uapi.VDEVICE_ALLOC): _vdevice_alloc,
    Command(uapi.IOMMU_VEVENTQ_ALLOC, uapi.VEVENTQ_ALLOC): _veventq_alloc,
    Command(uapi.IOMMU_HW_QUEUE_ALLOC, uapi.HW_QUEUE_ALLOC): _hw_queue_alloc,
    Command(uapi.IOMMU_IOAS_NOIOMMU_GET_PA, uapi.IOAS_NOIOMMU_GET_PA): _noiommu_get_pa,
}
COMMANDS: Final = tuple(_REFUSALS)
_BY_NUMBER: Final = {command.number: refusal for command, refusal in _REFUSALS.items()}


def refuse(request: Request, context: Context) -> None:
    """Raises the Errno of one of `COMMANDS`, or Errno(EFAULT) for memory that cannot be written."""
    raise Errno(_BY_NUMBER[request.number](request, context))
