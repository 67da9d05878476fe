"""D13 to D16: the device files that can be preserved, their state then, and what fails a kexec. Under both tables.

These are the rows of the table in docs/kernel.md, 12, up to the kexec; the later ones are in test_retrieve.py.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EACCES, EBUSY, EFAULT, EINVAL, EIO, ENOENT, ETIMEDOUT

import pytest

from luod.emulator.model.results import Blocked, Delayed, Jump
from luod.emulator.model.vfio.hardware import device as registers
from luod.uapi import vfio as uapi
from tests.emulator.model.vfio.machine import A, B, DeviceWorld, Vmm, done, power_on
from tests.emulator.model.world import number

VF = "0000:01:00.1"
EITHER = {"v2": 0, "v5": 0}


def session_for(vmm: Vmm, name: bytes = b"vm") -> int:
    device = number(vmm.open_device())
    session = number(vmm.create(device, name))
    vmm.close(device)
    return session


def try_preserving(world: DeviceWorld, open_file: Callable[[Vmm], int], *addresses: str) -> int | Blocked:
    vmm = Vmm(world)
    vmm.take(*addresses)
    result = vmm.preserve(session_for(vmm), open_file(vmm), 1)
    vmm.die()
    world.switch_off()
    return result


def test_d13_a_device_file_of_the_character_device_can_be_preserved(vmm: Vmm) -> None:
    device, _ = vmm.opened()
    assert vmm.preserve(session_for(vmm), device, 1) == 0


def test_d13_it_stays_usable_while_it_is_preserved(vmm: Vmm) -> None:
    device, _ = vmm.opened()
    assert vmm.preserve(session_for(vmm), device, 1) == 0
    assert vmm.get_info(device) == 0
    assert vmm.pread(device, 0, 4) == b"LUOD"
    assert vmm.config(device, 0) == 0x1AF4


def test_d08_live_update_keeps_the_device_bound_when_its_fds_are_closed(vmm: Vmm) -> None:
    device, iommu = vmm.opened()
    session = session_for(vmm)
    assert vmm.preserve(session, device, 1) == 0
    vmm.close(device)
    other = number(vmm.open_cdev(A))
    assert vmm.bind(other, iommu) == -EINVAL
    vmm.close(session)
    assert number(vmm.bind(other, iommu))
    assert vmm.preserve(session_for(vmm), other, 1) == 0


def test_unpreserving_by_close_of_the_session_leaves_the_device_usable(world: DeviceWorld, vmm: Vmm) -> None:
    device, _ = vmm.opened()
    session = session_for(vmm)
    assert vmm.preserve(session, device, 1) == 0
    vmm.close(session)
    assert world.logged("Device will no longer be preserved") == world.logged("Device will be preserved")
    assert vmm.get_info(device) == 0
    assert vmm.preserve(session_for(vmm), device, 1) == 0


# Table B.6, line by line.


def test_d14_a_device_file_from_a_group_cannot_be_preserved(vmm: Vmm) -> None:
    device, group, container = vmm.through_group()
    session = session_for(vmm)
    for token, fd in enumerate((device, group, container)):
        assert vmm.preserve(session, fd, token) == -ENOENT


def test_d09_neither_can_an_iommufd(vmm: Vmm) -> None:
    _, iommu = vmm.opened()
    assert vmm.preserve(session_for(vmm), iommu, 1) == -ENOENT


def test_a_device_that_is_not_bound_to_an_iommufd(rules: str) -> None:
    result = try_preserving(power_on(rules=rules), lambda vmm: vmm.open_cdev(A))
    assert result == {"v2": 0, "v5": -ENOENT}[rules]


def test_a_variant_drivers_device(rules: str) -> None:
    world = power_on(f"{A},driver=mlx5-vfio-pci", rules=rules)
    vmm = Vmm(world)
    device, _ = vmm.opened()
    assert vmm.preserve(session_for(vmm), device, 1) == -ENOENT
    world.switch_off()


def test_an_intel_display(rules: str) -> None:
    world = power_on(f"{A},vendor=0x8086,display", rules=rules)
    assert try_preserving(world, lambda vmm: vmm.opened()[0], A) == {"v2": -EINVAL, "v5": -ENOENT}[rules]


@pytest.mark.parametrize("device", [f"{A},display", f"{A},vendor=0x8086"])
def test_a_display_of_somebody_else_or_another_device_of_intel(rules: str, device: str) -> None:
    assert try_preserving(power_on(device, rules=rules), lambda vmm: vmm.opened()[0], A) == 0


def test_a_virtual_function(rules: str) -> None:
    world = power_on(A, f"{VF},vf-of={A}", rules=rules)
    # The physical function has no driver, so that no token is needed.
    assert try_preserving(world, lambda vmm: vmm.opened(VF)[0], VF) == {"v2": 0, "v5": -ENOENT}[rules]


def test_a_virtual_function_is_not_tracked_by_pci() -> None:
    world = power_on(A, f"{VF},vf-of={A}", rules="v2")
    vmm = Vmm(world)
    vmm.take(VF)
    device, _ = vmm.opened(VF)
    assert vmm.preserve(session_for(vmm), device, 1) == 0
    assert world.logged("Device will be preserved") == 0
    following = world.jump(vmm)
    following.take(VF)
    assert number(following.open_cdev(VF))
    following.die()
    world.switch_off()


def test_a_physical_function_with_virtual_ones(rules: str) -> None:
    world = power_on(A, f"{VF},vf-of={A}", rules=rules)
    assert try_preserving(world, lambda vmm: vmm.opened()[0], A) == 0


def test_one_device_of_a_group_of_two(rules: str) -> None:
    world = power_on(f"{A},group=7", f"{B},group=7", rules=rules)
    assert try_preserving(world, lambda vmm: vmm.opened()[0]) == 0


def test_a_second_unbound_file_of_a_preserved_device(vmm: Vmm, rules: str) -> None:
    device, _ = vmm.opened()
    other = number(vmm.open_cdev(A))
    session = session_for(vmm)
    assert vmm.preserve(session, device, 1) == 0
    assert vmm.preserve(session, other, 2) == {"v2": 0, "v5": -EBUSY}[rules]


def test_the_bound_file_after_a_second_unbound_one_was_preserved(vmm: Vmm, rules: str) -> None:
    device, _ = vmm.opened()
    other = number(vmm.open_cdev(A))
    session = session_for(vmm)
    assert vmm.preserve(session, other, 1) == 0
    expected = {"v2": 0, "v5": -EBUSY}[rules]
    assert vmm.preserve(session, device, 2) == expected
    assert vmm.preserve(session_for(vmm, b"other"), device, 2) == (-EBUSY if expected == 0 else expected)


def test_the_same_file_again(vmm: Vmm) -> None:
    device, _ = vmm.opened()
    session = session_for(vmm)
    assert vmm.preserve(session, device, 1) == 0
    assert vmm.preserve(session, device, 2) == -EBUSY
    assert vmm.preserve(session, vmm.dup(device), 2) == -EBUSY
    assert vmm.preserve(session_for(vmm, b"other"), device, 2) == -EBUSY


def test_a_device_isolated_by_a_quirk(rules: str) -> None:
    world = power_on(f"{A},acs-quirk", rules=rules)
    result = try_preserving(world, lambda vmm: vmm.opened()[0], A)
    assert result == {"v2": 0, "v5": -EINVAL}[rules]
    assert world.logged("Refusing to preserve device that relies on ACS quirks") == (rules == "v5")


def test_d16_with_interrupts_on_reboot_fails_and_nothing_is_lost(world: DeviceWorld, vmm: Vmm) -> None:
    device, _ = vmm.opened()
    session = session_for(vmm)
    assert vmm.preserve(session, device, 1) == 0
    assert vmm.msix(device, vmm.new_eventfd()) == 0
    operator = world.load()
    for _ in range(2):
        assert operator.reboot() == -EINVAL
    assert world.logged(f"vfio-pci {A}: Freeze failed! Interrupts are still enabled.") == 2
    assert world.logged("luo: Freeze failed for token[0x1] handler[vfio-pci-v1] err[-22]") == 2
    assert world.kernel.kexec_loaded
    assert vmm.get_info(device) == 0
    assert vmm.pread(device, 0, 4) == b"LUOD"
    assert vmm.msix(device) == 0
    assert operator.reboot() == Jump()


@pytest.mark.parametrize("index", [uapi.VFIO_PCI_INTX_IRQ_INDEX, uapi.VFIO_PCI_MSIX_IRQ_INDEX])
def test_d16_any_kind_of_interrupt_stops_the_jump(world: DeviceWorld, vmm: Vmm, index: int) -> None:
    device, _ = vmm.opened()
    assert vmm.preserve(session_for(vmm), device, 1) == 0
    flags = uapi.VFIO_IRQ_SET_DATA_EVENTFD | uapi.VFIO_IRQ_SET_ACTION_TRIGGER
    assert vmm.set_irqs(device, index, flags, 0, 1, vmm.new_eventfd().to_bytes(4, "little")) == 0
    assert world.load().reboot() == -EINVAL


def test_the_kernels_own_channels_are_no_interrupts(world: DeviceWorld, vmm: Vmm) -> None:
    device, _ = vmm.opened()
    assert vmm.preserve(session_for(vmm), device, 1) == 0
    flags = uapi.VFIO_IRQ_SET_DATA_EVENTFD | uapi.VFIO_IRQ_SET_ACTION_TRIGGER
    for index in (uapi.VFIO_PCI_ERR_IRQ_INDEX, uapi.VFIO_PCI_REQ_IRQ_INDEX):
        assert vmm.set_irqs(device, index, flags, 0, 1, vmm.new_eventfd().to_bytes(4, "little")) == 0
    assert world.load().reboot() == Jump()


def test_a_device_that_is_not_in_d0(world: DeviceWorld, vmm: Vmm, rules: str) -> None:
    device, _ = vmm.opened()
    assert vmm.preserve(session_for(vmm), device, 1) == 0
    vmm.set_config(device, 0x44, 3)
    expected = {"v2": Jump(), "v5": -EINVAL}[rules]
    assert world.load().reboot() == expected
    assert world.logged(f"vfio-pci {A}: Freeze failed! Device not in D0 state.") == (rules == "v5")


def test_a_reset_that_fails_at_reboot(rules: str) -> None:
    world = power_on(f"{A},reset=fails-later", rules=rules)
    vmm = Vmm(world)
    vmm.take(A)
    device, _ = vmm.opened()
    assert vmm.preserve(session_for(vmm), device, 1) == 0
    assert world.load().reboot() == {"v2": -ETIMEDOUT, "v5": Jump()}[rules]
    world.switch_off()


def test_a_device_without_reset_does_not_stop_the_jump(rules: str) -> None:
    world = power_on(f"{A},reset=none", rules=rules)
    vmm = Vmm(world)
    vmm.take(A)
    device, _ = vmm.opened()
    assert vmm.preserve(session_for(vmm), device, 1) == 0
    assert world.load().reboot() == Jump()
    world.switch_off()


@pytest.fixture
def aborted(world: DeviceWorld, vmm: Vmm) -> tuple[int, int, int]:
    """Returns (first device, second device, first session) after a reboot that failed at the second."""
    first, iommu = vmm.opened(A)
    second, _ = vmm.opened(B)
    ioas = vmm.ioas(iommu)
    number(vmm.attach(first, ioas))
    assert vmm.map(iommu, ioas, vmm.ram(1), 4096, 0) == 0
    vmm.set_config(first, 4, 0x0006)
    for device in (first, second):
        vmm.pwrite(device, registers.SCRATCH, b"12345678")
    session = session_for(vmm, b"a")
    assert vmm.preserve(session, first, 1) == 0
    assert vmm.preserve(session_for(vmm, b"b"), second, 1) == 0
    assert vmm.msix(second, vmm.new_eventfd()) == 0
    assert world.load().reboot() == -EINVAL
    return first, second, session


def test_h22_after_an_aborted_reboot_the_first_device_was_reset(
    world: DeviceWorld, vmm: Vmm, rules: str, aborted: tuple[int, int, int]
) -> None:
    first, second, _ = aborted
    assert world.bar(A).read(registers.SCRATCH, 8) == bytes(8)
    assert vmm.pread(second, registers.SCRATCH, 8) == b"12345678"
    assert vmm.get_info(second) == 0
    alive = rules == "v2"
    assert vmm.get_info(first) == (0 if alive else -EIO)
    assert vmm.pread(first, 0, 4) == (b"LUOD" if alive else -EIO)
    assert vmm.pwrite(first, registers.SCRATCH, b"1") == (1 if alive else -EIO)
    assert vmm.call(first, uapi.VFIO_DEVICE_FEATURE, uapi.DEVICE_FEATURE.pack(8, 1 << 18)) != 0
    if alive:
        assert vmm.config(first, 4) == 0x0002, "no bus mastering: it was reset and is idle"
        assert vmm.mmap(first, 0, 4096) == 0
    else:
        assert vmm.mmap(first, 0, 4096) == -EIO
        assert vmm.ioctl(first, uapi.VFIO_DEVICE_RESET) == -EIO
        region, feature = uapi.VFIO_DEVICE_GET_REGION_INFO, uapi.VFIO_DEVICE_FEATURE
        assert vmm.ioctl(first, region, 0) == -EFAULT, "the core of VFIO reads it before the driver is asked"
        assert vmm.call(first, region, uapi.REGION_INFO.pack(31, 0, 0, 0, 0, 0)) == -EINVAL
        assert vmm.call(first, region, uapi.REGION_INFO.pack(32, 0, 0, 0, 0, 0)) == -EIO
        assert vmm.call(first, feature, uapi.DEVICE_FEATURE.pack(7, 1 << 18)) == -EINVAL
        assert vmm.call(first, feature, uapi.DEVICE_FEATURE.pack(8, 1 << 18)) == -EIO


def test_h22_it_stays_dead_until_its_driver_is_bound_again(
    world: DeviceWorld, vmm: Vmm, rules: str, aborted: tuple[int, int, int]
) -> None:
    first, _, session = aborted
    vmm.close(session)
    vmm.close(first)
    again, _ = vmm.opened(A)
    assert vmm.get_info(again) == {"v2": 0, "v5": -EIO}[rules]
    vmm.close(again)
    assert vmm.echo(A, "bus/pci/drivers/vfio-pci/unbind") == len(A) + 1
    vmm.take(A)
    again, _ = vmm.opened(A)
    assert vmm.get_info(again) == 0
    assert vmm.preserve(session_for(vmm, b"again"), again, 1) == 0


def test_h22_a_second_reboot_passes_over_the_frozen_device(
    world: DeviceWorld, vmm: Vmm, aborted: tuple[int, int, int]
) -> None:
    _, second, _ = aborted
    operator = world.load()
    assert operator.reboot() == -EINVAL
    assert vmm.msix(second) == 0
    assert operator.reboot() == Jump()


# Unbinding.


def test_d15_an_unbind_of_a_preserved_device_waits_for_the_session(world: DeviceWorld, vmm: Vmm) -> None:
    device, _ = vmm.opened()
    session = session_for(vmm)
    assert vmm.preserve(session, device, 1) == 0
    vmm.close(device)
    waiting = Vmm(world).echo(A, "bus/pci/drivers/vfio-pci/unbind")
    assert done(waiting) is None
    assert not vmm.exists(f"bus/pci/devices/{A}/driver")
    nodes = ("/dev/iommu", "/dev/vfio/vfio", "/dev/vfio/1", "/dev/vfio/2", "/dev/vfio/devices/vfio1")
    assert world.vfio.nodes() == nodes, "a group stays until its last device is gone"
    vmm.close(session)
    assert done(waiting) == 0
    vmm.take(A)
    assert number(vmm.open_cdev(A))


def test_d15_so_does_a_hot_unplug(world: DeviceWorld, vmm: Vmm) -> None:
    device, _ = vmm.opened()
    session = session_for(vmm)
    assert vmm.preserve(session, device, 1) == 0
    vmm.close(device)
    waiting = Vmm(world).echo("1", f"bus/pci/devices/{A}/remove")
    assert done(waiting) is None
    vmm.close(session)
    assert done(waiting) == 0
    assert not vmm.exists(f"bus/pci/devices/{A}")
    assert vmm.echo("1", "bus/pci/rescan") == 2
    vmm.take(A)
    assert number(vmm.open_cdev(A))


def test_d15_with_such_an_unbind_the_machine_never_jumps(world: DeviceWorld, vmm: Vmm) -> None:
    device, _ = vmm.opened()
    session = session_for(vmm)
    assert vmm.preserve(session, device, 1) == 0
    vmm.close(device)
    waiting = vmm.echo(A, "bus/pci/drivers/vfio-pci/unbind")
    reboot = world.load().reboot()
    assert isinstance(reboot, Delayed)
    # Not even by closing the session, which waits for the jump.
    vmm.close(session)
    assert done(waiting) is None
    assert reboot.poll() is None


def test_the_bridge_above_a_device_is_preserved_with_it(world: DeviceWorld, vmm: Vmm, rules: str) -> None:
    device, _ = vmm.opened()
    assert vmm.preserve(session_for(vmm), device, 1) == 0
    assert world.logged(f"pci {A}: Device will be preserved across next Live Update") == 1
    assert world.logged("pci 0000:00:01.0: Device will be preserved") == {"v2": 0, "v5": 1}[rules]
    following = world.jump(vmm)
    assert world.logged("pci 0000:00:01.0: Device was preserved by previous kernel") == {"v2": 0, "v5": 1}[rules]
    following.die()


def test_a_bridge_stays_preserved_as_long_as_one_device_below_it_is(rules: str) -> None:
    other = "0000:01:01.0"
    world = power_on(A, other, rules=rules)
    vmm = Vmm(world)
    vmm.take(A, other)
    sessions = [session_for(vmm, b"a"), session_for(vmm, b"b")]
    for session, address in zip(sessions, (A, other), strict=True):
        assert vmm.preserve(session, vmm.opened(address)[0], 1) == 0
    bridge = "pci 0000:00:01.0: Device will no longer be preserved"
    vmm.close(sessions[0])
    assert world.logged(bridge) == 0
    vmm.close(sessions[1])
    assert world.logged(bridge) == {"v2": 0, "v5": 1}[rules]
    world.switch_off()


def test_a_virtual_function_of_a_taken_physical_one_needs_its_token(rules: str) -> None:
    world = power_on(A, f"{VF},vf-of={A}", rules=rules)
    vmm = Vmm(world)
    vmm.take(A, VF)
    physical, iommu = vmm.opened(A)
    virtual = number(vmm.open_cdev(VF))
    assert vmm.bind(virtual, iommu) == -EACCES
    token = bytes(range(16))
    feature = uapi.DEVICE_FEATURE.pack(24, uapi.VFIO_DEVICE_FEATURE_SET) + token
    assert vmm.call(physical, uapi.VFIO_DEVICE_FEATURE, feature) == 0
    vmm.write(0x11000, token)
    assert number(vmm.bind(virtual, iommu, flags=1, token=0x11000))
    assert vmm.preserve(session_for(vmm), virtual, 1) == {"v2": 0, "v5": -ENOENT}[rules]
    world.switch_off()


def test_h20_a_kernel_without_the_handler_preserves_no_device(rules: str) -> None:
    world = power_on(rules=rules, without_handler=frozenset({1}))
    assert try_preserving(world, lambda vmm: vmm.opened()[0]) == -ENOENT
