"""Devices that concern one another: virtual functions and their token, the reset of a bus with all that is on it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from errno import EACCES, EAGAIN, EBADF, EINVAL, ENODEV, ENOSPC

import pytest

from luod.uapi import vfio as uapi
from tests.emulator.model.vfio.machine import A, B, Vmm, done, power_on
from tests.emulator.model.world import SCRATCH, number


@pytest.fixture
def rules() -> str:
    return "v2"


VF = "0000:01:00.1"
TOKEN, OTHER_TOKEN = bytes(range(16)), bytes(range(1, 17))


@pytest.fixture
def physical() -> Iterator[Vmm]:
    """Yields a process of a machine where A has a virtual function. Both tokens are in memory, TOKEN at 0x11000."""
    world = power_on(A, f"{VF},vf-of={A}")
    vmm = Vmm(world)
    vmm.poke(SCRATCH + 4096, TOKEN + OTHER_TOKEN)
    yield vmm
    world.switch_off()


def test_the_token_of_a_physical_function_is_set_by_who_binds_it_first(physical: Vmm) -> None:
    physical.take(A, VF)
    cdev, iommu = number(physical.open_cdev(A)), number(physical.open("/dev/iommu"))
    number(physical.bind(cdev, iommu, flags=1, token=SCRATCH + 4096))
    virtual = number(physical.open_cdev(VF))
    assert physical.bind(virtual, iommu, flags=1, token=SCRATCH + 4112) == -EACCES
    number(physical.bind(virtual, iommu, flags=1, token=SCRATCH + 4096))
    # While a virtual function is in use the physical one needs it too.
    physical.close(cdev)
    cdev = number(physical.open_cdev(A))
    assert physical.bind(cdev, iommu) == -EACCES
    assert physical.bind(cdev, iommu, flags=1, token=SCRATCH + 4112) == -EACCES
    number(physical.bind(cdev, iommu, flags=1, token=SCRATCH + 4096))


def test_a_token_is_wrong_where_the_physical_function_is_nobodys(physical: Vmm) -> None:
    physical.take(VF)
    cdev, iommu = number(physical.open_cdev(VF)), number(physical.open("/dev/iommu"))
    assert physical.bind(cdev, iommu, flags=1, token=SCRATCH + 4096) == -EINVAL
    number(physical.bind(cdev, iommu))


def test_the_feature_that_sets_the_token(physical: Vmm) -> None:
    physical.take(A)
    cdev, _ = physical.opened(A)
    get, put, probe = 1 << 16, 1 << 17, 1 << 18

    def feature(flags: int, size: int = 24) -> object:
        return physical.call(cdev, uapi.VFIO_DEVICE_FEATURE, uapi.DEVICE_FEATURE.pack(size, flags) + TOKEN)

    assert feature(probe | put) == 0
    assert feature(probe) == 0
    assert feature(probe | get) == -EINVAL
    assert feature(get) == -EINVAL
    assert feature(0) == -EINVAL
    assert feature(put, 23) == -EINVAL
    assert feature(put) == 0


def test_a_physical_function_says_how_many_virtual_ones_it_has(physical: Vmm) -> None:
    physical.take(A)
    cdev, _ = physical.opened(A)
    assert physical.config(cdev, 0x100) == 0x10
    assert [physical.config(cdev, 0x100 + offset) for offset in (0x0A, 0x0C, 0x0E, 0x10, 0x12)] == [0, 1, 1, 1, 0]


def test_hot_reset_of_a_bus() -> None:
    neighbour = "0000:01:01.0"
    world = power_on(A, neighbour, "0000:00:03.0")
    vmm = Vmm(world)
    vmm.take(A, "0000:00:03.0")
    device, iommu = vmm.opened(A)
    info, layout = uapi.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, uapi.PCI_HOT_RESET_INFO
    reset = uapi.PCI_HOT_RESET
    assert vmm.call(device, info, layout.pack(11, 0, 0)) == -EINVAL
    assert vmm.call(device, info, layout.pack(12, 0, 0)) == -ENOSPC
    assert layout.unpack(vmm.read(SCRATCH, 12)) == (12, 0, 2)
    assert vmm.call(device, info, layout.pack(28, 0, 0)) == 0
    assert layout.unpack(vmm.read(SCRATCH, 12)) == (28, uapi.VFIO_PCI_HOT_RESET_FLAG_DEV_ID, 2)
    entries = list(uapi.PCI_DEPENDENT_DEVICE.iter_unpack(vmm.read(SCRATCH + 12, 16)))
    assert entries == [(1, 0, 1, 0), (-1, 0, 1, 8)]
    assert vmm.call(device, uapi.VFIO_DEVICE_PCI_HOT_RESET, reset.pack(12, 1, 0)) == -EINVAL
    assert vmm.call(device, uapi.VFIO_DEVICE_PCI_HOT_RESET, reset.pack(12, 0, 0)) == -EINVAL
    vmm.take(neighbour)
    other = number(vmm.open_cdev(neighbour))
    assert number(vmm.bind(other, iommu)) == 2
    assert vmm.call(device, info, layout.pack(28, 0, 0)) == 0
    assert layout.unpack(vmm.read(SCRATCH, 12)) == (28, 3, 2)
    for each in (device, other):
        vmm.pwrite(each, 0x38, b"12345678")
    assert vmm.call(device, uapi.VFIO_DEVICE_PCI_HOT_RESET, reset.pack(12, 1, 0)) == -EINVAL
    assert vmm.pread(device, 0x38, 8) == b"12345678"
    assert vmm.call(device, uapi.VFIO_DEVICE_PCI_HOT_RESET, reset.pack(12, 0, 0)) == 0
    assert [vmm.pread(each, 0x38, 8) for each in (device, other)] == [bytes(8)] * 2
    root, _ = vmm.opened("0000:00:03.0")
    assert vmm.call(root, info, layout.pack(28, 0, 0)) == -ENODEV
    assert vmm.call(root, uapi.VFIO_DEVICE_PCI_HOT_RESET, reset.pack(12, 0, 0)) == -ENODEV
    world.switch_off()


def test_hot_reset_resets_what_has_no_reset_of_its_own() -> None:
    neighbour = "0000:01:01.0"
    world = power_on(f"{A},reset=none", f"{neighbour},reset=fails-later")
    vmm = Vmm(world)
    vmm.take(A, neighbour)
    device, iommu = vmm.opened(A)
    other = number(vmm.open_cdev(neighbour))
    number(vmm.bind(other, iommu))
    for each in (device, other):
        vmm.pwrite(each, 0x38, b"12345678")
        vmm.set_config(each, 0x44, 3)
    assert vmm.call(device, uapi.VFIO_DEVICE_PCI_HOT_RESET, uapi.PCI_HOT_RESET.pack(12, 0, 0)) == 0
    assert [vmm.pread(each, 0x38, 8) for each in (device, other)] == [bytes(8)] * 2
    assert [vmm.config(each, 0x44) & 3 for each in (device, other)] == [0, 0]
    world.switch_off()


def test_hot_reset_while_an_unbind_waits_on_the_bus() -> None:
    neighbour = "0000:01:01.0"
    world = power_on(A, neighbour)
    vmm = Vmm(world)
    vmm.take(A, neighbour)
    device, iommu = vmm.opened(A)
    other = number(vmm.open_cdev(neighbour))
    number(vmm.bind(other, iommu))
    waiting = vmm.echo(neighbour, "bus/pci/drivers/vfio-pci/unbind")
    assert vmm.call(device, uapi.VFIO_DEVICE_PCI_HOT_RESET, uapi.PCI_HOT_RESET.pack(12, 0, 0)) == -EAGAIN
    vmm.close(other)
    assert done(waiting) == 0
    world.switch_off()


def test_a_group_is_attached_with_its_first_device_and_detached_with_its_last() -> None:
    world = power_on(f"{A},group=7", f"{B},group=7")
    vmm = Vmm(world)
    vmm.take()
    first, iommu = vmm.opened(A)
    space = vmm.ioas(iommu)
    number(vmm.map(iommu, space, vmm.ram(1), 4096, 0))
    number(vmm.attach(first, space))
    second = number(vmm.open_cdev(B))
    number(vmm.bind(second, iommu))

    def fill(device: int) -> int:
        """Returns STATUS after a command to fill the mapping."""
        vmm.set_config(device, 4, 0x0006)
        vmm.pwrite(device, 0x10, struct.pack("<QQQQ", 0, 0, 8, 7))
        vmm.pwrite(device, 0x08, b"\3")
        status = vmm.pread(device, 0x04, 1)
        assert isinstance(status, bytes)
        return status[0]

    assert [fill(device) for device in (first, second)] == [1, 1]
    number(vmm.attach(second, space))
    assert vmm.detach(first) == 0
    assert [fill(device) for device in (first, second)] == [1, 1]
    vmm.close(first)
    assert fill(second) == 1
    assert vmm.detach(second) == 0
    assert fill(second) == 2
    world.switch_off()


def test_hot_reset_through_groups(vmm: Vmm) -> None:
    device, group, container = vmm.through_group()
    info, layout = uapi.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, uapi.PCI_HOT_RESET_INFO
    assert vmm.call(device, info, layout.pack(20, 0, 0)) == 0
    assert layout.unpack(vmm.read(SCRATCH, 12)) == (20, 0, 1)
    assert uapi.PCI_DEPENDENT_DEVICE.unpack(vmm.read(SCRATCH + 12, 8)) == (1, 0, 1, 0)

    def reset(*fds: int) -> object:
        argument = uapi.PCI_HOT_RESET.pack(12 + 4 * len(fds), 0, len(fds))
        argument += b"".join(struct.pack("=i", fd) for fd in fds)
        return vmm.call(device, uapi.VFIO_DEVICE_PCI_HOT_RESET, argument)

    other = number(vmm.open("/dev/vfio/2"))
    assert reset() == -EINVAL
    assert reset(group, other) == -EINVAL, "more groups than devices"
    assert reset(99) == -EBADF
    assert reset(container) == -EINVAL
    assert reset(other) == -EINVAL
    assert reset(group) == 0
