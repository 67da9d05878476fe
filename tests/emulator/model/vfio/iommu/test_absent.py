"""The ioctls of iommufd for hardware that the emulated machine lacks: what the kernel checks before it says so."""

from __future__ import annotations

from errno import E2BIG, EFAULT, EINVAL, ENOENT, ENOTTY, EOPNOTSUPP, EOVERFLOW

import pytest

from luod.uapi import iommufd as uapi
from tests.emulator.model.vfio.machine import RAM, Vmm
from tests.emulator.model.world import READ_ONLY, SCRATCH

BIG = (1 << 64) - 1
ABSENT = {
    uapi.IOMMU_HWPT_SET_DIRTY_TRACKING: uapi.HWPT_SET_DIRTY_TRACKING,
    uapi.IOMMU_HWPT_GET_DIRTY_BITMAP: uapi.HWPT_GET_DIRTY_BITMAP,
    uapi.IOMMU_HWPT_INVALIDATE: uapi.HWPT_INVALIDATE,
    uapi.IOMMU_VIOMMU_ALLOC: uapi.VIOMMU_ALLOC,
    uapi.IOMMU_VDEVICE_ALLOC: uapi.VDEVICE_ALLOC,
    uapi.IOMMU_VEVENTQ_ALLOC: uapi.VEVENTQ_ALLOC,
    uapi.IOMMU_HW_QUEUE_ALLOC: uapi.HW_QUEUE_ALLOC,
    uapi.IOMMU_IOAS_NOIOMMU_GET_PA: uapi.IOAS_NOIOMMU_GET_PA,
}
GONE = 99


@pytest.mark.parametrize("command", ABSENT)
def test_the_size_comes_before_what_the_hardware_lacks(vmm: Vmm, iommu: int, command: int) -> None:
    size = 24 if command == uapi.IOMMU_VIOMMU_ALLOC else ABSENT[command].size
    assert vmm.call(iommu, command, (size - 1).to_bytes(4, "little") + bytes(60)) == -EINVAL
    assert vmm.call(iommu, command, (64).to_bytes(4, "little") + bytes(59) + b"\1") == -E2BIG
    assert vmm.call(iommu, command | 1 << 30, (size).to_bytes(4, "little") + bytes(60)) == -ENOTTY


@pytest.mark.parametrize(
    ("command", "fields", "expected"),
    [
        (uapi.IOMMU_HWPT_SET_DIRTY_TRACKING, (2, GONE, 0), EOPNOTSUPP),
        (uapi.IOMMU_HWPT_SET_DIRTY_TRACKING, (1, GONE, 0), ENOENT),
        (uapi.IOMMU_HWPT_SET_DIRTY_TRACKING, (1, 1, 0), ENOENT),
        (uapi.IOMMU_HWPT_SET_DIRTY_TRACKING, (1, 3, 0), EOPNOTSUPP),
        (uapi.IOMMU_HWPT_GET_DIRTY_BITMAP, (GONE, 2, 0, 0, 4096, 4096, 0), EOPNOTSUPP),
        (uapi.IOMMU_HWPT_GET_DIRTY_BITMAP, (GONE, 1, 0, 0, 4096, 4096, 0), ENOENT),
        (uapi.IOMMU_HWPT_GET_DIRTY_BITMAP, (3, 0, 0, BIG - 4095, 8192, 4096, 0), EOVERFLOW),
        (uapi.IOMMU_HWPT_GET_DIRTY_BITMAP, (3, 0, 0, 2048, 4096, 2048, 0), EINVAL),
        (uapi.IOMMU_HWPT_GET_DIRTY_BITMAP, (3, 0, 0, 0, 4096, 0, 0), EINVAL),
        (uapi.IOMMU_HWPT_GET_DIRTY_BITMAP, (3, 0, 0, 0, 4096, 8192, 0), EINVAL),
        (uapi.IOMMU_HWPT_GET_DIRTY_BITMAP, (3, 0, 0, 0, 4096, 4096, 0), EOPNOTSUPP),
        (uapi.IOMMU_HWPT_INVALIDATE, (GONE, 0, 0, 0, 7, 1), EOPNOTSUPP),
        (uapi.IOMMU_HWPT_INVALIDATE, (GONE, 0, 0, 8, 7, 0), EINVAL),
        (uapi.IOMMU_HWPT_INVALIDATE, (GONE, RAM, 0, 8, 7, 0), ENOENT),
        (uapi.IOMMU_HWPT_INVALIDATE, (GONE, 0, 0, 0, 0, 0), ENOENT),
        (uapi.IOMMU_HWPT_INVALIDATE, (3, RAM, 0, 8, 7, 0), EINVAL),
        (uapi.IOMMU_VIOMMU_ALLOC, (0, 0, GONE, 0, 0, 0, 0, 0), EOPNOTSUPP),
        (uapi.IOMMU_VIOMMU_ALLOC, (1, 1, GONE, 0, 0, 0, 0, 0), EOPNOTSUPP),
        (uapi.IOMMU_VIOMMU_ALLOC, (0, 1, GONE, 0, 0, 0, 0, 0), ENOENT),
        (uapi.IOMMU_VIOMMU_ALLOC, (0, 1, 2, 0, 0, 0, 0, 0), EOPNOTSUPP),
        (uapi.IOMMU_VDEVICE_ALLOC, (3, 2, 0, 0), ENOENT),
        (uapi.IOMMU_VEVENTQ_ALLOC, (0, 3, 0, 1, 0, 0, 0), EOPNOTSUPP),
        (uapi.IOMMU_VEVENTQ_ALLOC, (0, 3, 1, 0, 0, 0, 0), EINVAL),
        (uapi.IOMMU_VEVENTQ_ALLOC, (0, 3, 1, 1, 0, 0, 0), ENOENT),
        (uapi.IOMMU_HW_QUEUE_ALLOC, (0, 3, 0, 0, 0, 0, 4096), EOPNOTSUPP),
        (uapi.IOMMU_HW_QUEUE_ALLOC, (0, 3, 1, 0, 0, 0, 0), EINVAL),
        (uapi.IOMMU_HW_QUEUE_ALLOC, (0, 3, 1, 0, 0, BIG, 2), EOVERFLOW),
        (uapi.IOMMU_HW_QUEUE_ALLOC, (0, 3, 1, 0, 0, 0, 4096), ENOENT),
        (uapi.IOMMU_IOAS_NOIOMMU_GET_PA, (0, GONE, 0, 0, 4096, 0), EOPNOTSUPP),
    ],
)
def test_what_comes_before_what_the_hardware_lacks(
    vmm: Vmm, iommu: int, table: int, command: int, fields: tuple[int, ...], expected: int
) -> None:
    """Object 1 is the IOAS, 2 the device, 3 the page table."""
    layout = ABSENT[command]
    assert table == 3
    assert vmm.call(iommu, command, layout.pack(layout.size, *fields)) == -expected


def test_an_invalidation_that_fails_says_that_nothing_was_done(vmm: Vmm, iommu: int) -> None:
    layout = uapi.HWPT_INVALIDATE
    assert vmm.call(iommu, uapi.IOMMU_HWPT_INVALIDATE, layout.pack(32, GONE, RAM, 0, 8, 7, 0)) == -ENOENT
    assert layout.unpack(vmm.read(SCRATCH, 32))[5] == 0
    argument = layout.pack(32, GONE, RAM, 0, 8, 7, 0)
    assert vmm.call(iommu, uapi.IOMMU_HWPT_INVALIDATE, argument, READ_ONLY) == -EFAULT
