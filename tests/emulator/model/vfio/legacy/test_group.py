"""Groups and containers: who may open them, SET_IOMMU, MAP_DMA of type1 in both versions, GET_DEVICE_FD."""

from __future__ import annotations

from errno import EACCES, EBADF, EBUSY, EEXIST, EFAULT, EINVAL, EMFILE, ENODEV, ENOENT, ENOTTY, EOVERFLOW, EPERM

import pytest

from luod.uapi import vfio as uapi
from tests.emulator.model.vfio.machine import RAM, A, B, DeviceWorld, Vmm, power_on
from tests.emulator.model.world import READ_ONLY, SCRATCH, number

EBADFD = 77
END = SCRATCH + 2 * 4096
V1, V2 = uapi.VFIO_TYPE1_IOMMU, uapi.VFIO_TYPE1v2_IOMMU
VIABLE, CONTAINER_SET = 1, 2


@pytest.fixture
def rules() -> str:
    return "v2"


@pytest.fixture
def group(vmm: Vmm) -> int:
    return number(vmm.open("/dev/vfio/1"))


@pytest.fixture
def container(vmm: Vmm) -> int:
    vmm.ram(16)
    return number(vmm.open("/dev/vfio/vfio"))


def status(vmm: Vmm, group: int) -> int:
    assert vmm.call(group, uapi.VFIO_GROUP_GET_STATUS, uapi.GROUP_STATUS.pack(8, 0xFF)) == 0
    return int(uapi.GROUP_STATUS.unpack(vmm.read(SCRATCH, 8))[1])


def map_dma(vmm: Vmm, container: int, iova: int, length: int, address: int = RAM, flags: int = 3) -> object:
    argument = uapi.IOMMU_TYPE1_DMA_MAP.pack(32, flags, address, iova, length)
    return vmm.call(container, uapi.VFIO_IOMMU_MAP_DMA, argument)


def unmap_dma(vmm: Vmm, container: int, iova: int, length: int, flags: int = 0) -> int:
    """Returns the number of unmapped bytes, or an errno."""
    argument = uapi.IOMMU_TYPE1_DMA_UNMAP.pack(24, flags, iova, length)
    result = vmm.call(container, uapi.VFIO_IOMMU_UNMAP_DMA, argument)
    assert isinstance(result, int)
    return result if result else int(uapi.IOMMU_TYPE1_DMA_UNMAP.unpack(vmm.read(SCRATCH, 24))[3])


def test_a_group_is_opened_once(vmm: Vmm, group: int) -> None:
    assert vmm.open("/dev/vfio/1") == -EBUSY
    assert number(vmm.open("/dev/vfio/2"))
    vmm.close(group)
    assert number(vmm.open("/dev/vfio/1"))
    assert vmm.open("/dev/vfio/3") == -ENOENT


def test_commands_it_has_not(vmm: Vmm, group: int, container: int) -> None:
    assert vmm.ioctl(group, 0x1234) == -ENOTTY
    assert vmm.ioctl(group, uapi.VFIO_DEVICE_GET_INFO, SCRATCH) == -ENOTTY
    assert vmm.ioctl(container, 0x1234) == -EINVAL
    assert vmm.ioctl(container, uapi.VFIO_IOMMU_MAP_DMA, SCRATCH) == -EINVAL
    for fd in (group, container):
        assert vmm.pread(fd, 0, 1) == -EINVAL
        assert vmm.pwrite(fd, 0, b"1") == -EINVAL
        assert vmm.mmap(fd, 0, 4096) == -ENODEV


def test_a_container_before_it_has_an_iommu(vmm: Vmm, group: int, container: int) -> None:
    assert vmm.ioctl(container, uapi.VFIO_GET_API_VERSION) == 0
    for extension, expected in ((V1, 1), (V2, 1), (9, 1), (2, 0), (4, 0), (8, 0)):
        assert vmm.ioctl(container, uapi.VFIO_CHECK_EXTENSION, extension) == expected
    assert vmm.ioctl(container, uapi.VFIO_SET_IOMMU, V2) == -EINVAL
    assert vmm.set_container(group, container) == 0
    assert vmm.ioctl(container, uapi.VFIO_SET_IOMMU, 2) == -ENODEV
    assert vmm.ioctl(container, uapi.VFIO_SET_IOMMU, uapi.VFIO_UNMAP_ALL) == -EINVAL
    assert vmm.ioctl(container, uapi.VFIO_SET_IOMMU, V2) == 0
    assert vmm.ioctl(container, uapi.VFIO_SET_IOMMU, V2) == -EINVAL
    assert vmm.ioctl(container, uapi.VFIO_CHECK_EXTENSION, 4) == 1
    assert vmm.ioctl(container, 0x1234) == -ENOTTY


def test_set_and_unset_container(vmm: Vmm, group: int, container: int) -> None:
    assert status(vmm, group) == VIABLE
    assert vmm.ioctl(group, uapi.VFIO_GROUP_SET_CONTAINER, 0) == -EFAULT
    assert vmm.set_container(group, 99) == -EBADF
    assert vmm.set_container(group, -1) == -EBADF
    assert vmm.set_container(group, group) == -EBADFD
    assert vmm.ioctl(group, uapi.VFIO_GROUP_UNSET_CONTAINER) == -EINVAL
    assert vmm.set_container(group, container) == 0
    assert vmm.set_container(group, container) == -EINVAL
    assert status(vmm, group) == VIABLE | CONTAINER_SET
    assert vmm.ioctl(container, uapi.VFIO_SET_IOMMU, V2) == 0
    device = number(vmm.get_device(group, A))
    assert vmm.ioctl(group, uapi.VFIO_GROUP_UNSET_CONTAINER) == -EBUSY
    vmm.close(device)
    assert map_dma(vmm, container, 0, 4096) == 0
    assert vmm.ioctl(group, uapi.VFIO_GROUP_UNSET_CONTAINER) == 0
    # The last group took the mappings with it.
    assert vmm.ioctl(container, uapi.VFIO_IOMMU_MAP_DMA, SCRATCH) == -EINVAL
    assert vmm.call(group, uapi.VFIO_GROUP_GET_STATUS, uapi.GROUP_STATUS.pack(7, 0)) == -EINVAL


def test_a_group_with_a_driver_of_the_kernel_is_not_viable() -> None:
    world = power_on(f"{A},group=7", f"{B},group=7,driver=nvme")
    vmm = Vmm(world)
    vmm.take(A)
    group, container = number(vmm.open("/dev/vfio/7")), number(vmm.open("/dev/vfio/vfio"))
    assert status(vmm, group) == 0
    assert vmm.set_container(group, container) == -EPERM
    assert vmm.echo(B, "bus/pci/drivers/nvme/unbind") == len(B) + 1
    assert status(vmm, group) == VIABLE
    assert vmm.set_container(group, container) == 0
    assert vmm.echo(B, "bus/pci/drivers/nvme/bind") == -EBUSY
    world.switch_off()


def test_devices_had_through_a_group(world: DeviceWorld, vmm: Vmm, group: int, container: int) -> None:
    assert vmm.ioctl(group, uapi.VFIO_GROUP_GET_DEVICE_FD, 0) == -EFAULT
    assert vmm.get_device(group, A) == -EINVAL, "no container"
    assert vmm.set_container(group, container) == 0
    assert vmm.get_device(group, A) == -EINVAL, "no iommu"
    assert vmm.ioctl(container, uapi.VFIO_SET_IOMMU, V2) == 0
    assert vmm.get_device(group, B) == -ENODEV
    assert vmm.get_device(group, A + "0") == -ENODEV
    assert vmm.get_device(group, A + " token") == -EINVAL
    assert vmm.get_device(group, A + " vf_token=1") == -EINVAL
    uuid = "bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3"
    assert vmm.get_device(group, f"{A} vf_toke={uuid}") == -EINVAL
    assert vmm.get_device(group, f"{A} vf_token={'x' * 36}") == -EINVAL
    assert vmm.get_device(group, f"{B} vf_token=1") == -ENODEV, "the name comes first"
    assert vmm.get_device(group, f"{A} vf_token={uuid} vf_token={uuid}") == -EINVAL
    assert vmm.get_device(group, A + " vf_token=bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3") == -EINVAL, "it has no VFs"
    first, second = number(vmm.get_device(group, A)), number(vmm.get_device(group, A))
    assert vmm.model_file(first) is not vmm.model_file(second)
    assert vmm.cloexec[first]
    assert vmm.get_info(first) == 0
    assert vmm.get_info(second) == 0
    vmm.pwrite(first, 0x38, b"seen")
    assert vmm.pread(second, 0x38, 4) == b"seen"
    vmm.close(first)
    assert vmm.pread(second, 0x38, 4) == b"seen"
    vmm.fd_limit = len(vmm.fds)
    assert vmm.get_device(group, A) == -EMFILE
    device = world.vfio.devices.of(world.vfio.functions[0])
    assert device is not None
    assert device.files == 1


def test_a_device_keeps_its_group_open_and_its_container(vmm: Vmm) -> None:
    device, group, container = vmm.through_group()
    vmm.ram(1)
    assert map_dma(vmm, container, 0, 4096) == 0
    vmm.close(group)
    vmm.close(container)
    assert vmm.open("/dev/vfio/1") == -EBUSY
    vmm.set_config(device, 4, 6)
    vmm.pwrite(device, 0x20, (4).to_bytes(8, "little") + b"\x42")
    vmm.pwrite(device, 0x08, b"\3")
    assert vmm.read(RAM, 5) == b"BBBB\0"
    vmm.close(device)
    assert number(vmm.open("/dev/vfio/1"))


def test_two_groups_in_one_container(vmm: Vmm, group: int, container: int) -> None:
    other = number(vmm.open("/dev/vfio/2"))
    for each in (group, other):
        assert vmm.set_container(each, container) == 0
    assert vmm.ioctl(container, uapi.VFIO_SET_IOMMU, V2) == 0
    assert map_dma(vmm, container, 0, 4096) == 0
    vmm.close(group)
    assert map_dma(vmm, container, 0, 4096) == -EEXIST
    assert number(vmm.get_device(other, B))


@pytest.fixture(params=[V1, V2], ids=["type1", "type1v2"])
def mapped(request: pytest.FixtureRequest, vmm: Vmm, group: int, container: int) -> tuple[int, int]:
    """Returns (container, version) with an IOMMU."""
    assert vmm.set_container(group, container) == 0
    assert vmm.ioctl(container, uapi.VFIO_SET_IOMMU, request.param) == 0
    return container, request.param


def test_map_checks(vmm: Vmm, mapped: tuple[int, int]) -> None:
    container, _ = mapped
    command, layout = uapi.VFIO_IOMMU_MAP_DMA, uapi.IOMMU_TYPE1_DMA_MAP
    assert vmm.ioctl(container, command, 0) == -EFAULT
    assert vmm.call(container, command, layout.pack(31, 3, RAM, 0, 4096)) == -EINVAL
    assert map_dma(vmm, container, 0, 4096, flags=8) == -EINVAL
    assert map_dma(vmm, container, 0, 0) == -EINVAL
    assert map_dma(vmm, container, (1 << 64) - 4096, 8192) == -EOVERFLOW
    assert map_dma(vmm, container, 0, 8192, address=(1 << 64) - 4096) == -EOVERFLOW
    assert map_dma(vmm, container, (1 << 64) - 4096, 4096) == -EINVAL, "reserved, and no overflow"
    assert map_dma(vmm, container, 0, 4096, flags=0) == -EINVAL
    assert map_dma(vmm, container, 0, 4096, flags=7) == -EINVAL
    assert map_dma(vmm, container, 0, 4096, flags=4) == -ENOENT
    assert map_dma(vmm, container, 100, 4096) == -EINVAL
    assert map_dma(vmm, container, 0, 100) == -EINVAL
    assert map_dma(vmm, container, 0, 4096, address=RAM + 1) == -EINVAL
    assert map_dma(vmm, container, 0xFEE00000, 4096) == -EINVAL
    assert map_dma(vmm, container, 1 << 48, 4096) == -EINVAL
    assert map_dma(vmm, container, 0, 4096, address=0x7000000) == -EFAULT
    assert map_dma(vmm, container, 0, 4096, address=READ_ONLY) == -EFAULT
    assert map_dma(vmm, container, 0, 4096, address=READ_ONLY, flags=1) == 0
    assert map_dma(vmm, container, 0, 8192) == -EEXIST
    assert map_dma(vmm, container, 0, 4096, flags=4) == -EINVAL


def test_unmap_checks(vmm: Vmm, mapped: tuple[int, int]) -> None:
    container, version = mapped
    assert map_dma(vmm, container, 0x10000, 0x4000) == 0
    assert map_dma(vmm, container, 0x14000, 0x1000) == 0
    assert unmap_dma(vmm, container, 0, 4096, flags=8) == -EINVAL
    assert unmap_dma(vmm, container, 100, 4096) == -EINVAL
    assert unmap_dma(vmm, container, 0, 100) == -EINVAL
    assert unmap_dma(vmm, container, 0, 0) == -EINVAL
    assert unmap_dma(vmm, container, (1 << 64) - 4096, 8192) == -EOVERFLOW
    assert unmap_dma(vmm, container, 0, 4096, flags=2) == -EINVAL
    assert unmap_dma(vmm, container, 0x20000, 4096) == 0
    # Half a mapping: v2 says so, v1 unmaps all of it, or nothing when the first page is not meant.
    assert unmap_dma(vmm, container, 0x11000, 0x1000) == (-EINVAL if version == V2 else 0)
    assert unmap_dma(vmm, container, 0x10000, 0x1000) == (-EINVAL if version == V2 else 0x4000)
    assert unmap_dma(vmm, container, 0x10000, 0x5000) == (0x5000 if version == V2 else 0x1000)
    assert map_dma(vmm, container, 0x10000, 0x4000) == 0
    assert unmap_dma(vmm, container, 0, 0, flags=2) == 0x4000


def test_get_info(vmm: Vmm, mapped: tuple[int, int]) -> None:
    container, _ = mapped
    layout = uapi.IOMMU_TYPE1_INFO
    assert vmm.call(container, uapi.VFIO_IOMMU_GET_INFO, layout.pack(15, 0, 0, 0, 0)) == -EINVAL
    assert vmm.call(container, uapi.VFIO_IOMMU_GET_INFO, layout.pack(24, 0, 0, 0, 0)) == 0
    needed, flags, sizes, offset, _ = layout.unpack(vmm.read(SCRATCH, 24))
    assert (flags, offset) == (3, 0)
    assert sizes & 4096
    assert vmm.call(container, uapi.VFIO_IOMMU_GET_INFO, layout.pack(needed, 0, 0, 0, 0)) == 0
    offset = layout.unpack(vmm.read(SCRATCH, 24))[3]
    found = {}
    while offset:
        kind, version, following = uapi.INFO_CAP_HEADER.unpack(vmm.read(SCRATCH + offset, 8))
        assert version == 1
        found[kind] = vmm.read(SCRATCH + offset + 8, (following or needed) - offset - 8)
        offset = following
    assert int.from_bytes(found[uapi.VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL][:4], "little") == 65535
    ranges = found[uapi.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE]
    assert int.from_bytes(ranges[:4], "little") == 2
    assert int.from_bytes(ranges[8:16], "little") == 0
    assert int.from_bytes(ranges[16:24], "little") == 0xFEDFFFFF


def test_a_virtual_function_through_its_group_needs_the_token() -> None:
    virtual = "0000:01:00.1"
    world = power_on(A, f"{virtual},vf-of={A}")
    vmm = Vmm(world)
    vmm.take(A, virtual)
    token = bytes(range(16))
    physical, _ = vmm.opened(A)
    feature = uapi.DEVICE_FEATURE.pack(24, uapi.VFIO_DEVICE_FEATURE_SET) + token
    assert vmm.call(physical, uapi.VFIO_DEVICE_FEATURE, feature) == 0
    group, container = number(vmm.open("/dev/vfio/2")), number(vmm.open("/dev/vfio/vfio"))
    assert vmm.set_container(group, container) == 0
    assert vmm.ioctl(container, uapi.VFIO_SET_IOMMU, V2) == 0
    assert vmm.get_device(group, virtual) == -EACCES
    uuid = "00010203-0405-0607-0809-0a0b0c0d0e0f"
    assert vmm.get_device(group, f"{virtual} vf_token=f{uuid[1:]}") == -EACCES
    for malformed in (uuid[::-1], uuid.replace("-", "") + "----", uuid.replace("-", "\t")):
        assert vmm.get_device(group, f"{virtual} vf_token={malformed}") == -EINVAL
    assert number(vmm.get_device(group, f"{virtual} vf_token={uuid}"))
    world.switch_off()


def test_a_name_that_ends_where_memory_ends(vmm: Vmm, group: int) -> None:
    vmm.poke(END - 13, A.encode() + b"\0")
    assert vmm.ioctl(group, uapi.VFIO_GROUP_GET_DEVICE_FD, END - 13) == -EINVAL
    vmm.poke(SCRATCH, b"x" * 8192)
    assert vmm.ioctl(group, uapi.VFIO_GROUP_GET_DEVICE_FD, SCRATCH) == -EINVAL
    assert vmm.ioctl(group, uapi.VFIO_GROUP_GET_DEVICE_FD, END - 64) == -EFAULT
