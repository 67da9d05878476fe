"""VFIO's own ioctls on an iommufd, which a group takes as its container."""

from __future__ import annotations

from errno import EEXIST, EINVAL, ENODEV, ENOENT, ENOTTY, EOVERFLOW, EPERM

from luod.uapi import iommufd as uapi
from luod.uapi import vfio
from tests.emulator.model.vfio.machine import RAM, A, DeviceWorld, Vmm
from tests.emulator.model.world import SCRATCH, number

BIG = (1 << 64) - 1


def test_an_iommufd_poses_as_a_container(world: DeviceWorld, vmm: Vmm, iommu: int) -> None:
    group = number(vmm.open("/dev/vfio/1"))
    assert vmm.ioctl(iommu, vfio.VFIO_GET_API_VERSION) == 0
    assert vmm.ioctl(iommu, vfio.VFIO_SET_IOMMU, vfio.VFIO_TYPE1v2_IOMMU) == -ENODEV
    assert vmm.ioctl(iommu, vfio.VFIO_CHECK_EXTENSION, vfio.VFIO_DMA_CC_IOMMU) == -ENODEV
    assert vmm.get_device(group, A) == -EINVAL
    assert vmm.set_container(group, iommu) == 0
    assert vmm.ioctl(iommu, vfio.VFIO_SET_IOMMU, 2) == -EINVAL
    assert vmm.ioctl(iommu, vfio.VFIO_SET_IOMMU, vfio.VFIO_TYPE1v2_IOMMU) == 0
    for extension, expected in ((1, 1), (3, 1), (9, 1), (4, 1), (10, 0), (8, 0)):
        assert vmm.ioctl(iommu, vfio.VFIO_CHECK_EXTENSION, extension) == expected
    device = number(vmm.get_device(group, A))
    layout = vfio.IOMMU_TYPE1_DMA_MAP
    assert vmm.call(iommu, vfio.VFIO_IOMMU_MAP_DMA, layout.pack(32, 4, RAM, 0, 4096)) == -EINVAL
    assert vmm.call(iommu, vfio.VFIO_IOMMU_MAP_DMA, layout.pack(32, 3, RAM, 4096, 8192)) == 0
    assert vmm.call(iommu, vfio.VFIO_IOMMU_MAP_DMA, layout.pack(32, 3, RAM, 8192, 4096)) == -EEXIST
    assert vmm.call(iommu, vfio.VFIO_IOMMU_MAP_DMA, layout.pack(32, 3, BIG - 4095, 0, 8192)) == -EOVERFLOW
    vmm.set_config(device, 4, 6)
    vmm.pwrite(device, 0x18, (4096).to_bytes(8, "little") + (4).to_bytes(8, "little") + b"\x42")
    vmm.pwrite(device, 0x08, b"\3")
    assert vmm.read(RAM, 5) == b"BBBB\0"
    unmap = vfio.IOMMU_TYPE1_DMA_UNMAP
    assert vmm.call(iommu, vfio.VFIO_IOMMU_UNMAP_DMA, unmap.pack(24, 0, 4096, 4096)) == -ENOENT
    assert vmm.call(iommu, vfio.VFIO_IOMMU_UNMAP_DMA, unmap.pack(24, 2, 4096, 0)) == -EINVAL
    assert vmm.call(iommu, vfio.VFIO_IOMMU_UNMAP_DMA, unmap.pack(24, 2, 0, 0)) == 0
    assert unmap.unpack(vmm.read(SCRATCH, 24))[3] == 8192
    assert vmm.call(iommu, vfio.VFIO_IOMMU_UNMAP_DMA, unmap.pack(24, 0, 4096, 4096)) == 0
    assert vmm.ioctl(iommu, vfio.VFIO_IOMMU_DIRTY_PAGES, SCRATCH) == -ENOTTY
    vmm.close(group)
    assert vmm.get_info(device) == 0
    vmm.close(device)
    assert world.vfio.functions[0].device.dma is None


def test_a_device_does_not_keep_its_group_open_where_an_iommufd_is_the_container(vmm: Vmm, iommu: int) -> None:
    group = number(vmm.open("/dev/vfio/1"))
    vmm.set_container(group, iommu)
    device = number(vmm.get_device(group, A))
    vmm.close(group)
    assert vmm.get_info(device) == 0
    cdev = number(vmm.open_cdev(A))
    assert vmm.bind(cdev, iommu) == -EINVAL, "the device is in use"
    again = number(vmm.open("/dev/vfio/1"))
    assert vmm.get_device(again, A) == -EINVAL, "the group has no container"
    assert vmm.set_container(again, number(vmm.open("/dev/vfio/vfio"))) == -EPERM
    assert vmm.set_container(again, iommu) == 0
    second = number(vmm.get_device(again, A))
    vmm.close(device)
    assert vmm.get_info(second) == 0
    vmm.close(second)
    vmm.close(again)
    assert number(vmm.bind(cdev, iommu))


def test_a_container_that_is_an_iommufd_cuts_mappings_as_type_1(vmm: Vmm, iommu: int) -> None:
    group = number(vmm.open("/dev/vfio/1"))
    vmm.set_container(group, iommu)
    vmm.ioctl(iommu, vfio.VFIO_SET_IOMMU, vfio.VFIO_TYPE1_IOMMU)
    assert vmm.call(iommu, vfio.VFIO_IOMMU_MAP_DMA, vfio.IOMMU_TYPE1_DMA_MAP.pack(32, 3, RAM, 0x10000, 0x8000)) == 0
    device = number(vmm.get_device(group, A))
    vmm.poke(RAM, bytes(range(8)) * 4096)

    assert unmap_dma(vmm, iommu, 0x12000, 0x2000) == (0, 0x2000)
    assert unmap_dma(vmm, iommu, 0x12000, 0x1000) == (0, 0)
    assert unmap_dma(vmm, iommu, 0x10800, 0x800) == (-EINVAL, 0x800), "inside a page, and nothing is written back"
    assert unmap_dma(vmm, iommu, 0xF000, 0x2000) == (0, 0x1000)

    vmm.set_config(device, 4, 6)
    vmm.pwrite(device, 0x18, (0x14000).to_bytes(8, "little") + (4).to_bytes(8, "little") + b"\x42")
    vmm.pwrite(device, 0x08, b"\3")
    assert vmm.read(RAM + 0x4000, 8) == b"BBBB\4\5\6\7", "what is left leads to the same memory"
    assert unmap_dma(vmm, iommu, 0, 1 << 40) == (0, 0x5000)


def test_a_failed_unmap_of_a_container_that_is_an_iommufd_says_how_much_it_unmapped(vmm: Vmm, iommu: int) -> None:
    group = number(vmm.open("/dev/vfio/1"))
    vmm.set_container(group, iommu)
    vmm.ioctl(iommu, vfio.VFIO_SET_IOMMU, vfio.VFIO_TYPE1v2_IOMMU)
    for start in (0x10000, 0x14000):
        vmm.call(iommu, vfio.VFIO_IOMMU_MAP_DMA, vfio.IOMMU_TYPE1_DMA_MAP.pack(32, 3, RAM, start, 0x4000))
    assert unmap_dma(vmm, iommu, 0x11000, 0x1000) == (-ENOENT, 0)
    assert unmap_dma(vmm, iommu, 0x10000, 0) == (-EINVAL, 0)
    assert unmap_dma(vmm, iommu, 0x10000, 0x5000) == (-ENOENT, 0x4000)
    assert unmap_dma(vmm, iommu, 0x14000, 0x4000) == (0, 0x4000)


def unmap_dma(vmm: Vmm, iommu: int, start: int, length: int) -> tuple[object, int]:
    """Returns the result of VFIO_IOMMU_UNMAP_DMA, and the size in its structure afterwards."""
    layout = vfio.IOMMU_TYPE1_DMA_UNMAP
    result = vmm.call(iommu, vfio.VFIO_IOMMU_UNMAP_DMA, layout.pack(24, 0, start, length))
    return result, layout.unpack(vmm.read(SCRATCH, 24))[3]


def test_get_info_looks_at_its_size_before_the_address_space(vmm: Vmm, iommu: int) -> None:
    layout = vfio.IOMMU_TYPE1_INFO
    assert vmm.call(iommu, vfio.VFIO_IOMMU_GET_INFO, layout.pack(15, 0, 0, 0, 0)) == -EINVAL
    assert vmm.call(iommu, vfio.VFIO_IOMMU_GET_INFO, layout.pack(16, 0, 0, 0, 0)) == -ENODEV


def test_get_info_of_a_container_that_is_an_iommufd_returns_the_size_of_its_answer(
    vmm: Vmm, iommu: int, ioas: int
) -> None:
    layout = vfio.IOMMU_TYPE1_INFO
    assert vmm.call(iommu, uapi.IOMMU_VFIO_IOAS, uapi.VFIO_IOAS.pack(12, ioas, 1, 0)) == 0
    for room in (24, 256):
        assert vmm.call(iommu, vfio.VFIO_IOMMU_GET_INFO, layout.pack(room, 0, 0, 0, 0) + bytes(room)) == 0
        assert layout.unpack(vmm.read(SCRATCH, layout.size))[0] == 72
