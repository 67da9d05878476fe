"""The character device: BIND, ATTACH, DETACH, and the calls on a device, in the order of vfio_pci_core.c's checks."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from errno import E2BIG, EAGAIN, EBADF, EBUSY, EFAULT, EINVAL, ENOENT, ENOSPC, ENOTTY, EPERM

import pytest

from luod.uapi import iommufd
from luod.uapi import vfio as uapi
from tests.emulator.model.vfio.machine import A, B, DeviceWorld, Vmm, power_on
from tests.emulator.model.world import READ_ONLY, SCRATCH, number

EBADFD = 77
END = SCRATCH + 2 * 4096
"""The first byte behind the process's memory."""


@pytest.fixture
def rules() -> str:
    return "v2"


@pytest.fixture
def cdev(vmm: Vmm) -> int:
    return number(vmm.open_cdev(A))


@pytest.fixture
def iommu(vmm: Vmm) -> int:
    return number(vmm.open("/dev/iommu"))


COMMANDS = [
    uapi.VFIO_DEVICE_GET_INFO,
    uapi.VFIO_DEVICE_GET_REGION_INFO,
    uapi.VFIO_DEVICE_GET_IRQ_INFO,
    uapi.VFIO_DEVICE_SET_IRQS,
    uapi.VFIO_DEVICE_RESET,
    uapi.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO,
    uapi.VFIO_DEVICE_PCI_HOT_RESET,
    uapi.VFIO_DEVICE_FEATURE,
    uapi.VFIO_DEVICE_ATTACH_IOMMUFD_PT,
    uapi.VFIO_DEVICE_DETACH_IOMMUFD_PT,
    0x1234,
]


@pytest.mark.parametrize("command", COMMANDS, ids=hex)
def test_before_bind_everything_else_is_einval(vmm: Vmm, cdev: int, command: int) -> None:
    assert vmm.ioctl(cdev, command, 0) == -EINVAL
    assert vmm.pread(cdev, 0, 0) == -EINVAL
    assert vmm.pwrite(cdev, 0, b"") == -EINVAL
    assert vmm.mmap(cdev, 0, 4096) == -EINVAL


def test_an_unknown_command_of_a_bound_device_is_enotty(vmm: Vmm, cdev: int, iommu: int) -> None:
    number(vmm.bind(cdev, iommu))
    for command in (0x1234, uapi.VFIO_DEVICE_FEATURE + 100, uapi.VFIO_GROUP_GET_STATUS):
        assert vmm.ioctl(cdev, command, SCRATCH) == -ENOTTY


def test_many_may_open_a_cdev_and_one_may_bind_it(vmm: Vmm, cdev: int, iommu: int) -> None:
    other = number(vmm.open_cdev(A))
    assert vmm.bind(cdev, iommu) == 1
    assert vmm.bind(cdev, iommu) == -EINVAL
    assert vmm.bind(other, iommu) == -EINVAL
    vmm.close(cdev)
    assert vmm.bind(other, iommu) == 1


def test_bind_checks_its_structure_first(vmm: Vmm, cdev: int, iommu: int) -> None:
    layout = uapi.DEVICE_BIND_IOMMUFD

    def bind(*values: int, tail: bytes = b"", address: int = SCRATCH) -> int | object:
        return vmm.call(cdev, uapi.VFIO_DEVICE_BIND_IOMMUFD, layout.pack(*values) + tail, address)

    assert vmm.ioctl(cdev, uapi.VFIO_DEVICE_BIND_IOMMUFD, END) == -EFAULT
    assert vmm.ioctl(cdev, uapi.VFIO_DEVICE_BIND_IOMMUFD, 0) == -EFAULT
    assert bind(15, 8, -1, 0, 0) == -EINVAL
    assert bind(32, 8, -1, 0, 0, tail=bytes(7) + b"\1") == -E2BIG
    assert bind(24, 0, -1, 0, 0) == -EINVAL
    assert bind(24, 2, iommu, 0, 0) == -EINVAL
    assert bind(24, 1, iommu, 0, 0) == -EFAULT, "the token"
    assert bind(24, 0, 99, 0, 0) == -EBADF
    assert bind(24, 0, vmm.memfd(), 0, 0) == -EBADFD
    assert bind(24, 0, cdev, 0, 0) == -EBADFD
    assert bind(24, 0, iommu, 0, 0, address=READ_ONLY) == -EFAULT
    assert bind(32, 0, iommu, 0, 0, tail=bytes(8)) == 0
    assert bind(16, 0, iommu, 0, 0) == -EINVAL, "bound already"


def test_a_token_for_a_device_that_has_none_is_einval(vmm: Vmm, cdev: int, iommu: int) -> None:
    assert vmm.bind(cdev, iommu, flags=1, token=SCRATCH) == -EINVAL


def test_a_structure_of_before_the_token_is_taken(vmm: Vmm, cdev: int, iommu: int) -> None:
    assert vmm.bind(cdev, iommu, size=16) == 1


def test_group_and_cdev_exclude_each_other(vmm: Vmm, cdev: int, iommu: int) -> None:
    group = number(vmm.open("/dev/vfio/1"))
    assert vmm.bind(cdev, iommu) == -EBUSY
    assert vmm.open("/dev/vfio/1") == -EBUSY
    vmm.close(group)
    number(vmm.bind(cdev, iommu))
    assert vmm.open("/dev/vfio/1") == -EBUSY
    assert number(vmm.open("/dev/vfio/2"))
    vmm.close(cdev)
    assert number(vmm.open("/dev/vfio/1"))


def test_bind_of_a_file_that_came_from_a_group_is_einval(vmm: Vmm, iommu: int) -> None:
    device, _, _ = vmm.through_group()
    assert vmm.bind(device, iommu) == -EINVAL
    assert vmm.attach(device, 1) == -ENOTTY


def test_the_iommufd_lives_as_long_as_a_device_is_bound_to_it(vmm: Vmm, cdev: int, iommu: int) -> None:
    ioas = vmm.ioas(iommu)
    assert number(vmm.bind(cdev, iommu)) == 2
    vmm.close(iommu)
    assert number(vmm.attach(cdev, ioas)) == 3


def test_devices_of_one_group_are_bound_to_one_iommufd() -> None:
    world = power_on(f"{A},group=7", f"{B},group=7")
    vmm = Vmm(world)
    vmm.take()
    first, iommu = vmm.opened(A)
    second = number(vmm.open_cdev(B))
    assert vmm.bind(second, number(vmm.open("/dev/iommu"))) == -EPERM
    assert vmm.bind(second, iommu) == 2
    # And attached to one page table.
    one, other = vmm.ioas(iommu), vmm.ioas(iommu)
    number(vmm.attach(first, one))
    assert vmm.attach(second, other) == -EINVAL
    assert number(vmm.attach(second, one))
    assert number(vmm.attach(first, other))
    assert world.bus.places[0].device.dma is world.bus.places[1].device.dma
    world.switch_off()


def test_a_group_with_a_driver_of_the_kernel_cannot_be_had() -> None:
    world = power_on(f"{A},group=7", f"{B},group=7,driver=nvme")
    vmm = Vmm(world)
    vmm.take(A)
    assert vmm.bind(number(vmm.open_cdev(A)), number(vmm.open("/dev/iommu"))) == -EPERM
    assert vmm.echo(B, "bus/pci/drivers/nvme/unbind") == len(B) + 1
    assert number(vmm.opened(A)[0])
    assert vmm.echo(B, "bus/pci/drivers/nvme/bind") == -EBUSY
    world.switch_off()


def test_attach_and_detach(vmm: Vmm, cdev: int, iommu: int) -> None:
    device = number(vmm.bind(cdev, iommu))
    ioas = vmm.ioas(iommu)
    attach = uapi.VFIO_DEVICE_ATTACH_IOMMUFD_PT
    layout = uapi.DEVICE_ATTACH_IOMMUFD_PT
    assert vmm.ioctl(cdev, attach, END) == -EFAULT
    assert vmm.call(cdev, attach, layout.pack(11, 0, ioas, 0)) == -EINVAL
    assert vmm.call(cdev, attach, layout.pack(16, 2, ioas, 0)) == -EINVAL
    assert vmm.attach(cdev, 99) == -ENOENT
    assert vmm.attach(cdev, device) == -EINVAL
    table = number(vmm.attach(cdev, ioas))
    assert table not in (ioas, device)
    assert vmm.attach(cdev, ioas) == table
    assert vmm.destroy(iommu, table) == -EBUSY
    assert vmm.destroy(iommu, ioas) == -EBUSY
    assert vmm.detach(cdev) == 0
    assert vmm.detach(cdev) == 0
    # The page table was made for the device and has gone with it.
    assert vmm.destroy(iommu, table) == -ENOENT
    assert vmm.destroy(iommu, ioas) == 0
    detach = uapi.VFIO_DEVICE_DETACH_IOMMUFD_PT
    assert vmm.call(cdev, detach, uapi.DEVICE_DETACH_IOMMUFD_PT.pack(7, 0, 0)) == -EINVAL
    assert vmm.call(cdev, detach, uapi.DEVICE_DETACH_IOMMUFD_PT.pack(8, 2, 0)) == -EINVAL
    assert vmm.ioctl(cdev, detach, END) == -EFAULT


def test_attach_with_a_pasid(vmm: Vmm, cdev: int, iommu: int) -> None:
    device = number(vmm.bind(cdev, iommu))
    ioas = vmm.ioas(iommu)

    def attach(pasid: int, target: int, size: int = 16) -> object:
        return vmm.call(
            cdev, uapi.VFIO_DEVICE_ATTACH_IOMMUFD_PT, uapi.DEVICE_ATTACH_IOMMUFD_PT.pack(size, 1, target, pasid)
        )

    def detach(pasid: int, size: int = 12) -> object:
        return vmm.call(cdev, uapi.VFIO_DEVICE_DETACH_IOMMUFD_PT, uapi.DEVICE_DETACH_IOMMUFD_PT.pack(size, 1, pasid))

    assert attach(0, ioas, size=12) == -EINVAL, "the PASID is missing"
    assert detach(0, size=8) == -EINVAL
    assert attach(1, 99) == -ENOENT
    assert attach(1, device) == -EINVAL
    assert attach(1, ioas) == -EINVAL, "the device has none"
    assert attach(1 << 31, ioas) == -ENOSPC
    # PASID 0 is the device, and attaches as without one; but the two do not meet.
    assert attach(0, ioas) == 0
    assert vmm.attach(cdev, ioas) == -EBUSY
    assert vmm.detach(cdev) == 0
    assert vmm.destroy(iommu, ioas) == -EBUSY, "it is still attached"
    assert detach(1) == 0
    assert detach(0) == 0
    assert detach(0) == 0
    number(vmm.attach(cdev, ioas))
    assert attach(0, ioas) == -EBUSY
    assert detach(0) == 0
    assert vmm.destroy(iommu, ioas) == -EBUSY
    assert vmm.detach(cdev) == 0
    assert vmm.destroy(iommu, ioas) == 0


def test_attach_to_another_table_replaces_the_first(world: DeviceWorld, vmm: Vmm, cdev: int, iommu: int) -> None:
    device = number(vmm.bind(cdev, iommu))
    ioas = vmm.ioas(iommu)
    automatic = number(vmm.attach(cdev, ioas))
    table = number(vmm.hwpt(iommu, device, ioas))
    assert vmm.attach(cdev, table) == table
    assert vmm.destroy(iommu, automatic) == -ENOENT
    assert vmm.destroy(iommu, table) == -EBUSY
    assert vmm.detach(cdev) == 0
    assert vmm.destroy(iommu, table) == 0
    assert world.bus.places[0].device.dma is None


def test_get_info_fills_as_much_as_the_caller_has_room_for(vmm: Vmm, cdev: int, iommu: int) -> None:
    number(vmm.bind(cdev, iommu))
    layout = uapi.DEVICE_INFO
    assert vmm.call(cdev, uapi.VFIO_DEVICE_GET_INFO, layout.pack(15, 0, 0, 0, 0, 0)) == -EINVAL
    assert vmm.ioctl(cdev, uapi.VFIO_DEVICE_GET_INFO, END - 15) == -EFAULT
    assert vmm.call(cdev, uapi.VFIO_DEVICE_GET_INFO, layout.pack(24, 9, 9, 9, 9, 9)) == 0
    assert layout.unpack(vmm.read(SCRATCH, 24)) == (24, 3, 9, 5, 0, 0)
    assert vmm.call(cdev, uapi.VFIO_DEVICE_GET_INFO, layout.pack(16, 9, 9, 9, 9, 9)) == 0
    assert layout.unpack(vmm.read(SCRATCH, 24)) == (16, 3, 9, 5, 9, 9)


def test_a_device_without_reset_says_so(vmm: Vmm) -> None:
    world = power_on(f"{A},reset=none")
    vmm = Vmm(world)
    vmm.take(A)
    device, _ = vmm.opened()
    assert vmm.get_info(device) == 0
    assert uapi.DEVICE_INFO.unpack(vmm.read(SCRATCH, 24))[1] == uapi.VFIO_DEVICE_FLAGS_PCI
    assert vmm.ioctl(device, uapi.VFIO_DEVICE_RESET) == -EINVAL
    world.switch_off()


def regions(vmm: Vmm, device: int) -> Iterator[tuple[int, int, int]]:
    """Returns (flags, size, offset) of each region."""
    layout = uapi.REGION_INFO
    for index in range(8):
        assert vmm.call(device, uapi.VFIO_DEVICE_GET_REGION_INFO, layout.pack(40, 0, index, 0, 0, 0)) == 0
        _, flags, _, _, size, offset = layout.unpack(vmm.read(SCRATCH, layout.size))
        yield flags, size, offset


@pytest.mark.parametrize("can_map", [True, False])
def test_each_region_has_its_size_its_offset_and_its_rights(can_map: bool) -> None:
    world = power_on(f"{A},bars=16K+64K", can_map=can_map)
    vmm = Vmm(world)
    vmm.take(A)
    device, _ = vmm.opened()
    found = list(regions(vmm, device))
    mmap = uapi.VFIO_REGION_INFO_FLAG_MMAP if can_map else 0
    caps = uapi.VFIO_REGION_INFO_FLAG_CAPS if can_map else 0
    assert found[0] == (3 | mmap | caps, 0x4000, 0)
    assert found[1] == (3 | mmap, 0x10000, 1 << 40)
    assert found[2:7] == [(0, 0, index << 40) for index in range(2, 7)]
    assert found[7] == (3, 4096, 7 << 40)
    assert vmm.mmap(device, 0, 4096) == (0 if can_map else -EINVAL)
    world.switch_off()


def test_region_info_points_to_what_the_msix_table_allows(vmm: Vmm, cdev: int, iommu: int) -> None:
    number(vmm.bind(cdev, iommu))
    layout = uapi.REGION_INFO
    command = uapi.VFIO_DEVICE_GET_REGION_INFO
    assert vmm.call(cdev, command, layout.pack(31, 0, 0, 0, 0, 0)) == -EINVAL
    for index in (8, 9, 1 << 31):
        assert vmm.call(cdev, command, layout.pack(32, 0, index, 0, 0, 0)) == -EINVAL
    assert vmm.call(cdev, command, layout.pack(32, 0, 0, 0, 0, 0)) == 0
    needed, flags, _, offset, _, _ = layout.unpack(vmm.read(SCRATCH, 32))
    assert (needed, flags & 8, offset) == (40, 8, 0)
    assert vmm.call(cdev, command, layout.pack(needed, 0, 0, 0, 0, 0)) == 0
    assert layout.unpack(vmm.read(SCRATCH, 32))[3] == 32
    assert uapi.INFO_CAP_HEADER.unpack(vmm.read(SCRATCH + 32, 8)) == (3, 1, 0)


def test_mmap_of_what_is_no_page_of_a_bar(vmm: Vmm, cdev: int, iommu: int) -> None:
    number(vmm.bind(cdev, iommu))
    for offset, length in ((0, 0x4001), (0x3000, 0x2000), (1 << 40, 4096), (7 << 40, 4096), (9 << 40, 4096)):
        assert vmm.mmap(cdev, offset, length) == -EINVAL
    for offset, length in ((0, 0x4000), (0x3000, 0x1000), (0x3000, 1)):
        assert vmm.mmap(cdev, offset, length) == 0


def feature(vmm: Vmm, cdev: int, flags: int, data: bytes = b"") -> object:
    layout = uapi.DEVICE_FEATURE
    return vmm.call(cdev, uapi.VFIO_DEVICE_FEATURE, layout.pack(layout.size + len(data), flags) + data)


GET, SET, PROBE = 1 << 16, 1 << 17, 1 << 18
ENTER, ENTER_WITH_WAKEUP, EXIT = 3, 4, 5


def test_features_that_a_device_lacks(vmm: Vmm, cdev: int, iommu: int) -> None:
    number(vmm.bind(cdev, iommu))
    command, layout = uapi.VFIO_DEVICE_FEATURE, uapi.DEVICE_FEATURE
    assert vmm.call(cdev, command, layout.pack(7, 0)) == -EINVAL
    assert feature(vmm, cdev, 1 << 19) == -EINVAL
    assert feature(vmm, cdev, GET | SET) == -EINVAL
    for missing in (0, 1, 2, *range(6, 14)):
        for flags in (0, GET, SET, PROBE, PROBE | GET):
            # The kernel checks one of them in another order.
            says = EINVAL if missing == uapi.VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2 else ENOTTY
            assert feature(vmm, cdev, flags | missing) == -says


def test_low_power_is_entered_once(vmm: Vmm, cdev: int, iommu: int) -> None:
    number(vmm.bind(cdev, iommu))
    for known in (ENTER, ENTER_WITH_WAKEUP, EXIT):
        assert feature(vmm, cdev, known) == -EINVAL, "none of GET, SET and PROBE"
        assert feature(vmm, cdev, PROBE | GET | known) == -EINVAL
        assert feature(vmm, cdev, PROBE | SET | known) == 0
    assert feature(vmm, cdev, SET | EXIT) == 0
    assert feature(vmm, cdev, SET | ENTER) == 0
    assert feature(vmm, cdev, SET | ENTER) == -EINVAL
    assert feature(vmm, cdev, SET | EXIT) == 0
    assert feature(vmm, cdev, SET | ENTER) == 0
    vmm.close(cdev)
    number(vmm.bind(again := number(vmm.open_cdev(A)), iommu))
    assert feature(vmm, again, SET | ENTER) == 0, "the last file's close ends it"


def test_low_power_with_an_eventfd(vmm: Vmm, cdev: int, iommu: int) -> None:
    number(vmm.bind(cdev, iommu))

    def enter(fd: int) -> object:
        return feature(vmm, cdev, SET | ENTER_WITH_WAKEUP, struct.pack("=iI", fd, 0))

    assert feature(vmm, cdev, SET | ENTER_WITH_WAKEUP) == -EINVAL, "no room for the eventfd"
    assert enter(-1) == -EINVAL
    assert enter(999) == -EBADF
    assert enter(iommu) == -EINVAL
    eventfd = vmm.new_eventfd()
    assert enter(eventfd) == 0
    assert enter(eventfd) == -EINVAL
    assert feature(vmm, cdev, SET | EXIT) == 0
    assert enter(eventfd) == 0


def test_a_device_in_use_cannot_be_reset_while_an_unbind_waits(vmm: Vmm, cdev: int, iommu: int) -> None:
    number(vmm.bind(cdev, iommu))
    assert vmm.ioctl(cdev, uapi.VFIO_DEVICE_RESET) == 0
    vmm.echo(A, "bus/pci/drivers/vfio-pci/unbind")
    assert vmm.ioctl(cdev, uapi.VFIO_DEVICE_RESET) == -EAGAIN


def test_an_iommufd_ioctl_on_a_device_is_not_one(vmm: Vmm, cdev: int, iommu: int) -> None:
    number(vmm.bind(cdev, iommu))
    assert vmm.ioctl(cdev, iommufd.IOMMU_IOAS_ALLOC, SCRATCH) == -ENOTTY


def test_with_a_driver_that_goes_the_node_goes(world: DeviceWorld, vmm: Vmm, cdev: int) -> None:
    assert vmm.open("/dev/vfio/devices/vfio7") == -ENOENT
    generation = world.vfio.generation
    waiting = vmm.echo(A, "bus/pci/drivers/vfio-pci/unbind")
    assert world.vfio.generation != generation
    assert vmm.open("/dev/vfio/devices/vfio0") == -ENOENT
    iommu = number(vmm.open("/dev/iommu"))
    assert vmm.bind(cdev, iommu) == -EAGAIN, "it cannot be reset: the unbind holds its lock"
    assert vmm.bind(cdev, iommu) == -EAGAIN
    vmm.close(cdev)
    assert waiting.poll() == 0  # type: ignore[union-attr]  # it had to wait
