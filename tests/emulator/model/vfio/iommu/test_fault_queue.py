"""Fault queues of an iommufd: objects with a file, on hardware that reports no page faults."""

from __future__ import annotations

from errno import EBUSY, EFAULT, EINVAL, ENODEV, ENOENT, ENOTTY, EOPNOTSUPP, ESPIPE

from luod.uapi import iommufd as uapi
from tests.emulator.model.vfio.machine import A, Vmm
from tests.emulator.model.world import READ_ONLY, SCRATCH, number


def fault_queue(vmm: Vmm, iommu: int) -> tuple[int, int]:
    """Returns the number of a new fault queue and its fd."""
    assert vmm.call(iommu, uapi.IOMMU_FAULT_QUEUE_ALLOC, uapi.FAULT_ALLOC.pack(16, 0, 0, 0)) == 0
    _, _, queue, fd = uapi.FAULT_ALLOC.unpack(vmm.read(SCRATCH, 16))
    return queue, fd


def test_a_fault_queue_is_in_use_while_its_file_is_open(vmm: Vmm, iommu: int) -> None:
    queue, fd = fault_queue(vmm, iommu)
    assert vmm.destroy(iommu, queue) == -EBUSY
    vmm.close(fd)
    assert vmm.destroy(iommu, queue) == 0
    assert vmm.destroy(iommu, queue) == -ENOENT


def test_a_page_table_with_a_fault_queue_takes_no_device(vmm: Vmm, iommu: int, ioas: int) -> None:
    cdev = number(vmm.open_cdev(A))
    device = number(vmm.bind(cdev, iommu))
    queue, fd = fault_queue(vmm, iommu)

    def alloc(faults: int) -> object:
        layout = uapi.HWPT_ALLOC
        values = uapi.IOMMU_HWPT_FAULT_ID_VALID, device, ioas, 0, 0, 0, 0, 0, faults, 0
        return vmm.call(iommu, uapi.IOMMU_HWPT_ALLOC, layout.pack(layout.size, *values))

    assert alloc(ioas) == -ENOENT
    assert alloc(queue) == 0
    vmm.close(fd)
    assert vmm.destroy(iommu, queue) == -EBUSY, "the page table has it"
    assert vmm.attach(cdev, queue + 1) == -ENODEV, "the device reports no page faults"
    assert vmm.destroy(iommu, queue + 1) == 0
    assert vmm.destroy(iommu, queue) == 0


def test_a_fault_queue_has_no_faults_and_takes_no_responses(vmm: Vmm, iommu: int) -> None:
    _, fd = fault_queue(vmm, iommu)
    assert [vmm.pread(fd, 0, 40), vmm.pread(fd, 0, 400), vmm.pread(fd, 0, 0)] == [b"", b"", b""]
    assert [vmm.pread(fd, 0, 39), vmm.pread(fd, 40, 40)] == [-ESPIPE, -ESPIPE]
    assert [vmm.pwrite(fd, 0, bytes(8)), vmm.pwrite(fd, 0, bytes(9)), vmm.pwrite(fd, 8, bytes(8))] == [
        -EINVAL,
        -ESPIPE,
        -ESPIPE,
    ]
    assert vmm.call(fd, uapi.IOMMU_DESTROY, uapi.DESTROY.pack(8, 1)) == -ENOTTY


def test_a_fault_queue_that_cannot_be_reported_does_not_exist(vmm: Vmm, iommu: int) -> None:
    argument = uapi.FAULT_ALLOC.pack(16, 0, 0, 0)
    assert vmm.call(iommu, uapi.IOMMU_FAULT_QUEUE_ALLOC, uapi.FAULT_ALLOC.pack(16, 1, 0, 0)) == -EOPNOTSUPP
    assert vmm.call(iommu, uapi.IOMMU_FAULT_QUEUE_ALLOC, argument, READ_ONLY) == -EFAULT
    assert vmm.ioas(iommu) == 1
