"""RLIMIT_MEMLOCK of processes without CAP_IPC_LOCK: what containers and iommufds count, and when."""

from __future__ import annotations

from errno import ENOMEM

import pytest

from luod.uapi import iommufd, vfio
from tests.emulator.model.vfio.machine import RAM, A, B, DeviceWorld, Vmm
from tests.emulator.model.world import PAGE, number

SIZE = 8 * PAGE


@pytest.fixture
def limited(world: DeviceWorld, vmm: Vmm) -> Vmm:
    """Returns a process that may lock 8 pages."""
    return limited_process(world)


def limited_process(world: DeviceWorld, uid: int = 7) -> Vmm:
    process = Vmm(world)
    process.uid, process.memlock = uid, SIZE
    process.ram(16)
    return process


def map_dma(vmm: Vmm, container: int, start: int, length: int) -> object:
    layout = vfio.IOMMU_TYPE1_DMA_MAP
    return vmm.call(container, vfio.VFIO_IOMMU_MAP_DMA, layout.pack(layout.size, 3, RAM, start, length))


def unmap_dma(vmm: Vmm, container: int, start: int, length: int) -> object:
    layout = vfio.IOMMU_TYPE1_DMA_UNMAP
    return vmm.call(container, vfio.VFIO_IOMMU_UNMAP_DMA, layout.pack(layout.size, 0, start, length))


def space_with_page_table(vmm: Vmm, address: str = A) -> tuple[int, int]:
    device, iommu = vmm.opened(address)
    space = vmm.ioas(iommu)
    number(vmm.attach(device, space))
    return iommu, space


def test_a_container_counts_each_mapping_of_a_process(world: DeviceWorld, limited: Vmm) -> None:
    _, _, container = limited.through_group(A)
    assert map_dma(limited, container, 0, SIZE + PAGE) == -ENOMEM
    assert map_dma(limited, container, 0, SIZE - PAGE) == 0
    assert map_dma(limited, container, SIZE, 2 * PAGE) == -ENOMEM, "memory that is mapped twice counts twice"
    assert map_dma(limited, container, SIZE, PAGE) == 0
    other = limited_process(world)
    _, _, others = other.through_group(B)
    assert map_dma(other, others, 0, SIZE) == 0, "another process of the same user"
    assert unmap_dma(limited, container, 0, SIZE - PAGE) == 0
    assert map_dma(limited, container, 0, SIZE - PAGE) == 0


def test_an_iommufd_counts_all_mappings_of_a_user(world: DeviceWorld, limited: Vmm) -> None:
    iommu, space = space_with_page_table(limited)
    assert limited.map(iommu, space, RAM, SIZE + PAGE, 0) == -ENOMEM
    assert limited.map(iommu, space, RAM, SIZE, 0) == 0
    same, another = limited_process(world), limited_process(world, uid=8)
    context, other = space_with_page_table(same, B)
    assert same.map(context, other, RAM, PAGE, 0) == -ENOMEM
    another.fds[context] = same.fds[context]
    assert another.map(context, other, RAM, SIZE, 0) == 0
    assert limited.unmap(iommu, space, 0, SIZE) == SIZE
    assert same.map(context, other, RAM, SIZE, SIZE) == SIZE


def test_an_iommufd_counts_pages_once_there_is_a_page_table(limited: Vmm) -> None:
    device, iommu = limited.opened(A)
    space = limited.ioas(iommu)
    for start in (0, SIZE):
        assert limited.map(iommu, space, RAM, SIZE, start) == start
    assert limited.attach(device, space) == -ENOMEM
    assert limited.unmap(iommu, space, SIZE, SIZE) == SIZE
    number(limited.attach(device, space))
    assert limited.map(iommu, space, RAM, PAGE, SIZE) == -ENOMEM
    assert limited.detach(device) == 0
    assert limited.map(iommu, space, RAM, PAGE, SIZE) == SIZE
    assert limited.attach(device, space) == -ENOMEM


def test_parts_of_pages_count_as_pages(limited: Vmm) -> None:
    limited.memlock = PAGE
    iommu = number(limited.open("/dev/iommu"))
    space = limited.ioas(iommu)
    assert limited.map(iommu, space, RAM + PAGE // 2, PAGE, 0) == 0
    device = number(limited.open_cdev(A))
    number(limited.bind(device, iommu))
    assert limited.attach(device, space) != 0


def test_files_count_too_and_copies_do_not(limited: Vmm) -> None:
    iommu, space = space_with_page_table(limited)
    memfd = limited.memfd(bytes(SIZE))
    assert limited.map_file(iommu, space, memfd, 0, SIZE, 0) == 0
    copy = iommufd.IOAS_COPY.pack(40, 7, space, space, SIZE, SIZE, 0)
    assert limited.call(iommu, iommufd.IOMMU_IOAS_COPY, copy) == 0
    assert limited.unmap(iommu, space, 0, SIZE) == SIZE
    assert limited.map(iommu, space, RAM, PAGE, 4 * SIZE) == -ENOMEM, "the copy has the pages"
    assert limited.unmap(iommu, space, SIZE, SIZE) == SIZE
    assert limited.map(iommu, space, RAM, PAGE, 4 * SIZE) == 4 * SIZE


def test_an_iommufd_that_counts_by_process(world: DeviceWorld, limited: Vmm) -> None:
    limited.capabilities.add(24)
    mode = iommufd.OPTION.pack(24, iommufd.IOMMU_OPTION_RLIMIT_MODE, 0, 0, 0, 1)
    iommu = number(limited.open("/dev/iommu"))
    assert limited.call(iommu, iommufd.IOMMU_OPTION, mode) == 0
    device = number(limited.open_cdev(A))
    number(limited.bind(device, iommu))
    space = limited.ioas(iommu)
    number(limited.attach(device, space))
    same = limited_process(world)
    same.fds[iommu] = limited.fds[iommu]
    assert limited.map(iommu, space, RAM, SIZE, 0) == 0
    assert limited.map(iommu, space, RAM, PAGE, SIZE) == -ENOMEM
    assert same.map(iommu, space, RAM, SIZE, SIZE) == SIZE


def test_a_change_of_the_process_takes_the_locked_memory_along(world: DeviceWorld, vmm: Vmm) -> None:
    iommu, space = space_with_page_table(vmm)
    old, new = limited_process(world, 7), limited_process(world, 8)
    for process in (old, new):
        process.fds[iommu] = vmm.fds[iommu]
    change = iommufd.IOMMU_IOAS_CHANGE_PROCESS, iommufd.IOAS_CHANGE_PROCESS.pack(8, 0)
    assert old.map_file(iommu, space, old.memfd(bytes(SIZE)), 0, SIZE, 0) == 0
    new.memlock = SIZE - PAGE
    assert new.call(iommu, *change) == -ENOMEM
    assert old.map_file(iommu, space, old.memfd(bytes(SIZE)), 0, PAGE, SIZE) == -ENOMEM
    new.memlock = SIZE
    assert new.call(iommu, *change) == 0
    assert new.map_file(iommu, space, new.memfd(bytes(SIZE)), 0, PAGE, SIZE) == -ENOMEM
    assert old.map_file(iommu, space, old.memfd(bytes(SIZE)), 0, SIZE, SIZE) == 0
