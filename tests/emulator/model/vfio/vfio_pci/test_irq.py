"""VFIO_DEVICE_SET_IRQS: eventfds, masks, loopback, and the order of its checks."""

from __future__ import annotations

import struct
from errno import EBADF, EFAULT, EINVAL, ENOTTY, ERANGE

import pytest

from luod.emulator.model.results import Blocked
from luod.uapi import vfio as uapi
from tests.emulator.model.vfio.machine import A, DeviceWorld, Vmm, done, power_on
from tests.emulator.model.world import SCRATCH, number

INTX, MSI, MSIX, ERR, REQ = range(5)
NONE, BOOL, EVENTFD = 1, 2, 4
MASK, UNMASK, TRIGGER = 8, 16, 32


@pytest.fixture
def rules() -> str:
    return "v2"


@pytest.fixture
def device(vmm: Vmm) -> int:
    return vmm.opened()[0]


def ints(*fds: int) -> bytes:
    return b"".join(struct.pack("=i", fd) for fd in fds)


def interrupt(vmm: Vmm, device: int, vector: int = 0) -> None:
    """Has the device raise an interrupt."""
    vmm.pwrite(device, 0x0C, (vector + 1).to_bytes(4, "little"))
    vmm.pwrite(device, 0x08, b"\4")


@pytest.mark.parametrize(
    ("index", "expected"), [(INTX, (7, 1)), (MSI, (9, 0)), (MSIX, (1, 4)), (ERR, (9, 1)), (REQ, (9, 1))]
)
def test_irq_info(vmm: Vmm, device: int, index: int, expected: tuple[int, int]) -> None:
    layout = uapi.IRQ_INFO
    assert vmm.call(device, uapi.VFIO_DEVICE_GET_IRQ_INFO, layout.pack(16, 0, index, 0)) == 0
    _, flags, _, count = layout.unpack(vmm.read(SCRATCH, 16))
    assert (flags, count) == expected


def test_irq_info_of_what_there_is_not(vmm: Vmm, device: int) -> None:
    assert vmm.call(device, uapi.VFIO_DEVICE_GET_IRQ_INFO, uapi.IRQ_INFO.pack(16, 0, 5, 0)) == -EINVAL
    assert vmm.call(device, uapi.VFIO_DEVICE_GET_IRQ_INFO, uapi.IRQ_INFO.pack(15, 0, 0, 0)) == -EINVAL


@pytest.mark.parametrize(
    ("index", "flags", "start", "count", "data", "expected"),
    [
        (5, NONE | TRIGGER, 0, 0, b"", -EINVAL),
        (MSIX, NONE | TRIGGER | 64, 0, 0, b"", -EINVAL),
        (MSIX, EVENTFD | TRIGGER, 4, 0, b"", -EINVAL),
        (MSIX, EVENTFD | TRIGGER, 3, 2, ints(-1, -1), -EINVAL),
        (MSIX, EVENTFD | TRIGGER, 0, 0xFFFFFFFF, b"", -EINVAL),
        (MSI, NONE | TRIGGER, 0, 0, b"", -EINVAL),
        (MSIX, TRIGGER, 0, 1, b"", -EINVAL),
        (MSIX, NONE | BOOL | TRIGGER, 0, 1, b"\1", -EINVAL),
        (MSIX, EVENTFD | TRIGGER, 0, 2, ints(-1), -EINVAL),
        (MSIX, EVENTFD, 0, 1, ints(-1), -ENOTTY),
        (MSIX, EVENTFD | MASK, 0, 1, ints(-1), -ENOTTY),
        (MSIX, NONE | MASK | TRIGGER, 0, 1, b"", -ENOTTY),
        (MSIX, NONE | TRIGGER, 0, 1, b"", -EINVAL),
        (MSIX, EVENTFD | TRIGGER, 0, 1, ints(99), -EBADF),
        (MSIX, EVENTFD | TRIGGER, 0, 0, b"", -ERANGE),
        (INTX, NONE | MASK, 0, 1, b"", -EINVAL),
        (INTX, NONE | UNMASK, 0, 1, b"", -EINVAL),
        (INTX, NONE | TRIGGER, 0, 1, b"", -EINVAL),
        (INTX, EVENTFD | TRIGGER, 0, 1, ints(99), -EBADF),
        (REQ, NONE | TRIGGER, 0, 0, b"", -EINVAL),
        (REQ, EVENTFD | TRIGGER, 0, 0, b"", -EINVAL),
        (REQ, EVENTFD | TRIGGER, 0, 1, ints(-2), -EINVAL),
        (REQ, NONE | MASK, 0, 1, b"", -ENOTTY),
        (ERR, BOOL | TRIGGER, 0, 0, b"", -EINVAL),
    ],
)
def test_refused(
    world: DeviceWorld,
    vmm: Vmm,
    device: int,
    index: int,
    flags: int,
    start: int,
    count: int,
    data: bytes,
    expected: int,
) -> None:
    assert vmm.set_irqs(device, index, flags, start, count, data) == expected
    assert world.events == []
    # No interrupt is enabled, so INTx can be.
    assert vmm.set_irqs(device, INTX, EVENTFD | TRIGGER, 0, 1, ints(vmm.new_eventfd())) == 0


def test_unreadable_and_short_structures(vmm: Vmm, device: int) -> None:
    assert vmm.ioctl(device, uapi.VFIO_DEVICE_SET_IRQS, 0) == -EFAULT
    assert vmm.set_irqs(device, MSIX, NONE | TRIGGER, 0, 0, size=19) == -EINVAL
    assert vmm.set_irqs(device, MSIX, EVENTFD | TRIGGER, 0, 1, ints(vmm.memfd())) == -EINVAL


def test_intx_is_masked_when_it_was_delivered(vmm: Vmm, device: int) -> None:
    eventfd = vmm.new_eventfd()
    assert vmm.set_irqs(device, INTX, EVENTFD | TRIGGER, 0, 1, ints(eventfd)) == 0
    interrupt(vmm, device)
    interrupt(vmm, device)
    assert vmm.count(eventfd) == 1
    assert vmm.set_irqs(device, INTX, BOOL | UNMASK, 0, 1, b"\0") == 0
    interrupt(vmm, device)
    assert vmm.count(eventfd) == 0
    assert vmm.set_irqs(device, INTX, NONE | UNMASK, 0, 1) == 0
    interrupt(vmm, device)
    assert vmm.count(eventfd) == 1
    assert vmm.set_irqs(device, INTX, NONE | UNMASK, 0, 1) == 0
    assert vmm.set_irqs(device, INTX, NONE | MASK, 0, 1) == 0
    interrupt(vmm, device)
    assert vmm.count(eventfd) == 0


def test_intx_can_be_disabled_in_configuration_space(vmm: Vmm, device: int) -> None:
    eventfd = vmm.new_eventfd()
    assert vmm.set_irqs(device, INTX, EVENTFD | TRIGGER, 0, 1, ints(eventfd)) == 0
    vmm.set_config(device, 4, 0x0402)
    interrupt(vmm, device)
    assert vmm.count(eventfd) == 0


@pytest.mark.parametrize("command", [0x0002, 0x0402], ids=["enabled", "disabled"])
def test_the_status_register_shows_intx_until_it_is_unmasked(vmm: Vmm, device: int, command: int) -> None:
    assert vmm.set_irqs(device, INTX, EVENTFD | TRIGGER, 0, 1, ints(vmm.new_eventfd())) == 0
    vmm.set_config(device, 4, command)
    assert not asserts_intx(vmm, device)
    interrupt(vmm, device)
    assert asserts_intx(vmm, device)
    vmm.set_config(device, 6, 0)
    assert asserts_intx(vmm, device), "no write changes the bit"
    assert vmm.set_irqs(device, INTX, NONE | UNMASK, 0, 1) == 0
    assert not asserts_intx(vmm, device)
    interrupt(vmm, device)
    assert vmm.ioctl(device, uapi.VFIO_DEVICE_RESET) == 0
    assert not asserts_intx(vmm, device)
    interrupt(vmm, device)
    assert vmm.set_irqs(device, INTX, NONE | TRIGGER, 0, 0) == 0
    assert not asserts_intx(vmm, device)


def test_the_status_register_does_not_show_messages(vmm: Vmm, device: int) -> None:
    vmm.set_config(device, 4, 6)
    assert vmm.msix(device, vmm.new_eventfd()) == 0
    interrupt(vmm, device)
    assert not asserts_intx(vmm, device)


def asserts_intx(vmm: Vmm, device: int) -> bool:
    return bool(vmm.config(device, 6) & 8)


def test_msix_needs_bus_mastering(vmm: Vmm, device: int) -> None:
    eventfd = vmm.new_eventfd()
    assert vmm.msix(device, eventfd) == 0
    interrupt(vmm, device)
    assert vmm.count(eventfd) == 0
    vmm.set_config(device, 4, 6)
    interrupt(vmm, device)
    assert vmm.count(eventfd) == 1


def test_loopback_without_the_device(vmm: Vmm, device: int) -> None:
    fds = [vmm.new_eventfd() for _ in range(4)]
    assert vmm.msix(device, *fds[:2], -1, fds[3]) == 0
    assert vmm.set_irqs(device, MSIX, NONE | TRIGGER, 0, 4) == 0
    assert vmm.set_irqs(device, MSIX, BOOL | TRIGGER, 0, 3, b"\1\0\1") == 0
    assert [vmm.count(fd) for fd in fds] == [2, 1, 0, 1]
    assert vmm.set_irqs(device, MSIX, BOOL | TRIGGER, 0, 0) == 0


def test_one_kind_at_a_time(vmm: Vmm, device: int) -> None:
    eventfd = vmm.new_eventfd()
    assert vmm.msix(device, eventfd) == 0
    assert vmm.set_irqs(device, INTX, EVENTFD | TRIGGER, 0, 1, ints(eventfd)) == -EINVAL
    assert vmm.msix(device) == 0
    assert vmm.set_irqs(device, INTX, EVENTFD | TRIGGER, 0, 1, ints(eventfd)) == 0
    assert vmm.msix(device, eventfd) == -EINVAL
    assert vmm.set_irqs(device, INTX, NONE | TRIGGER, 0, 0) == 0
    assert vmm.msix(device, eventfd) == 0


def test_a_failure_turns_off_what_the_call_had_set(world: DeviceWorld, vmm: Vmm, device: int) -> None:
    vmm.set_config(device, 4, 6)
    first, second = vmm.new_eventfd(), vmm.new_eventfd()
    assert vmm.msix(device, first, 99) == -EBADF
    assert world.events == []
    assert vmm.msix(device, first, second, first) == 0
    assert vmm.msix(device, second, 99, start=0) == -EBADF
    assert vmm.set_irqs(device, MSIX, NONE | TRIGGER, 0, 4) == 0
    assert (vmm.count(first), vmm.count(second)) == (1, 0), "vector 2 is as it was"


def test_requests_come_when_the_driver_shall_go(vmm: Vmm, device: int) -> None:
    eventfd = vmm.new_eventfd()
    assert vmm.set_irqs(device, REQ, EVENTFD | TRIGGER, 0, 1, ints(eventfd)) == 0
    assert vmm.set_irqs(device, REQ, NONE | TRIGGER, 0, 1) == 0
    assert vmm.count(eventfd) == 1
    waiting = vmm.echo(A, "bus/pci/drivers/vfio-pci/unbind")
    assert vmm.count(eventfd) == 1
    assert isinstance(waiting, Blocked)
    vmm.close(device)
    assert done(waiting) == 0


def test_err_and_req_can_be_taken_back(world: DeviceWorld, vmm: Vmm, device: int) -> None:
    for index in (ERR, REQ):
        eventfd = vmm.new_eventfd()
        assert vmm.set_irqs(device, index, BOOL | TRIGGER, 0, 1, b"\1") == 0
        assert vmm.set_irqs(device, index, EVENTFD | TRIGGER, 0, 1, ints(eventfd)) == 0
        assert vmm.set_irqs(device, index, BOOL | TRIGGER, 0, 1, b"\1") == 0
        assert vmm.set_irqs(device, index, BOOL | TRIGGER, 0, 1, b"\0") == 0
        assert vmm.count(eventfd) == 1
        assert vmm.set_irqs(device, index, EVENTFD | TRIGGER, 0, 1, ints(-1)) == 0
        assert world.events == []
        assert vmm.set_irqs(device, index, EVENTFD | TRIGGER, 0, 1, ints(eventfd)) == 0
        assert vmm.set_irqs(device, index, NONE | TRIGGER, 0, 0) == 0
        assert world.events == []


def test_close_gives_every_eventfd_back(world: DeviceWorld, vmm: Vmm, device: int) -> None:
    eventfd = vmm.new_eventfd()
    assert vmm.msix(device, eventfd, eventfd) == 0
    assert vmm.set_irqs(device, ERR, EVENTFD | TRIGGER, 0, 1, ints(eventfd)) == 0
    vmm.close(device)
    assert world.events == []


def test_a_virtual_function_has_no_intx() -> None:
    world = power_on(A, f"0000:01:00.1,vf-of={A},msix=0")
    vmm = Vmm(world)
    vmm.take("0000:01:00.1")
    device, _ = vmm.opened("0000:01:00.1")
    for index in (INTX, MSIX):
        assert vmm.call(device, uapi.VFIO_DEVICE_GET_IRQ_INFO, uapi.IRQ_INFO.pack(16, 0, index, 0)) == 0
        assert uapi.IRQ_INFO.unpack(vmm.read(SCRATCH, 16))[3] == 0
        assert vmm.set_irqs(device, index, NONE | TRIGGER, 0, 0) == -EINVAL
    assert number(vmm.open("/dev/iommu"))
    world.switch_off()


def test_without_msix_its_vectors_cannot_be_added_one_by_one() -> None:
    world = power_on(f"{A},msix=0", rules="v2")
    vmm = Vmm(world)
    vmm.take(A)
    device, _ = vmm.opened()
    layout = uapi.IRQ_INFO
    assert vmm.call(device, uapi.VFIO_DEVICE_GET_IRQ_INFO, layout.pack(16, 0, MSIX, 0)) == 0
    assert layout.unpack(vmm.read(SCRATCH, 16))[1:] == (9, MSIX, 0)
    world.switch_off()


def test_msi_has_as_many_vectors_as_were_first_asked_for() -> None:
    world = power_on(f"{A},msi=8", rules="v2")
    vmm = Vmm(world)
    vmm.take(A)
    device, _ = vmm.opened()
    layout = uapi.IRQ_INFO
    assert vmm.call(device, uapi.VFIO_DEVICE_GET_IRQ_INFO, layout.pack(16, 0, MSI, 0)) == 0
    assert layout.unpack(vmm.read(SCRATCH, 16))[3] == 8
    first, second = vmm.new_eventfd(), vmm.new_eventfd()

    def msi(start: int, *fds: int) -> int | Blocked:
        return vmm.set_irqs(device, MSI, EVENTFD | TRIGGER, start, len(fds), ints(*fds))

    assert msi(0, first, second) == 0
    assert msi(2, first) == -EINVAL
    assert msi(1, -1, -1) == 0, "beyond the allocation there is nothing to turn off"
    assert msi(0, first, second) == 0
    assert msi(1, second, second) == -EINVAL
    vmm.set_config(device, 4, 0x0006)
    interrupt(vmm, device, 1)
    interrupt(vmm, device, 0)
    assert (vmm.count(first), vmm.count(second)) == (1, 0), "the vectors of the failed call are off"
    assert msi(1, second) == 0
    assert vmm.msix(device, first) == -EINVAL, "one kind at a time"
    vmm.set_config(device, 4, 0x0006)
    interrupt(vmm, device, 1)
    assert (vmm.count(first), vmm.count(second)) == (0, 1)
    assert vmm.set_irqs(device, MSI, NONE | TRIGGER, 0, 0, b"") == 0
    assert vmm.msix(device, first) == 0
    world.switch_off()


def test_the_msi_capability_is_found_before_that_of_msix() -> None:
    world = power_on(f"{A},msi=8", rules="v2")
    vmm = Vmm(world)
    vmm.take(A)
    device, _ = vmm.opened()
    found, at = [], vmm.config(device, 0x34, 1)
    while at:
        found.append(vmm.config(device, at, 1))
        at = vmm.config(device, at + 1, 1)
    assert found == [0x01, 0x05, 0x11, 0x10]
    vmm.set_config(device, 0xA2, 0xFFFF)
    assert vmm.config(device, 0xA2, 2) == 0x00F7
    assert vmm.ioctl(device, uapi.VFIO_DEVICE_RESET) == 0
    world.switch_off()
