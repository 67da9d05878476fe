"""reboot(2) with devices: each is shut down once its lock is free, and an unbind that waits for files has its lock.

What a real kernel answers meanwhile: tests/kernel/test_waiting_reboot.py.
"""

from __future__ import annotations

from errno import EAGAIN, EBUSY, EINVAL

import pytest

from luod.emulator.model.results import Blocked, Delayed, Ending, Jump, Waiting
from luod.uapi import kexec
from tests.emulator.model.vfio.machine import A, B, DeviceWorld, Vmm, power_on
from tests.emulator.model.world import COMMAND_LINE, IMAGE, number

UNBIND = "bus/pci/drivers/vfio-pci/unbind"


def waiting_unbind(world: DeviceWorld, user: Vmm) -> tuple[int, Waiting]:
    """Returns an open file of device A, which vfio-pci has, and the unbind that waits for it."""
    user.take(A)
    file = number(user.open_cdev(A))
    unbind = user.echo(A, UNBIND)
    assert isinstance(unbind, Waiting)
    return file, unbind


@pytest.mark.parametrize(
    ("command", "end"),
    [
        (kexec.LINUX_REBOOT_CMD_KEXEC, Jump()),
        (kexec.LINUX_REBOOT_CMD_RESTART, Ending.RESTART),
        (kexec.LINUX_REBOOT_CMD_POWER_OFF, Ending.POWER_OFF),
    ],
)
def test_a_reboot_waits_for_an_unbind(command: int, end: object) -> None:
    world = power_on(A, B)
    user, operator = Vmm(world), world.load()
    file, unbind = waiting_unbind(world, user)
    reboot = operator.reboot(command)
    assert isinstance(reboot, Delayed)
    assert reboot.poll() is None
    user.close(file)
    assert unbind.poll() == 0
    assert reboot.poll() == end
    world.switch_off()


def test_what_other_calls_get_while_a_kexec_waits() -> None:
    world = power_on(A, B)
    user, operator = Vmm(world), world.load()
    file, _ = waiting_unbind(world, user)
    assert isinstance(operator.reboot(), Delayed)
    assert operator.kexec_file_load(IMAGE, COMMAND_LINE) == -EBUSY
    assert operator.reboot(magic1=1) == -EINVAL
    for command in (kexec.LINUX_REBOOT_CMD_KEXEC, kexec.LINUX_REBOOT_CMD_CAD_ON, kexec.LINUX_REBOOT_CMD_RESTART, 1):
        assert operator.reboot(command) == Blocked(), hex(command)
    user.close(file)
    world.switch_off()


def test_no_driver_is_bound_while_the_machine_shuts_down() -> None:
    world = power_on(A, B)
    user, operator = Vmm(world), world.load()
    user.take(B)
    file, _ = waiting_unbind(world, user)
    assert isinstance(operator.reboot(), Delayed)
    number(user.echo(B, UNBIND))
    assert user.echo(B, "bus/pci/drivers/vfio-pci/bind") == -EAGAIN
    assert user.echo(B, "bus/pci/drivers_probe") == -EINVAL
    user.close(file)
    world.switch_off()


def test_a_reboot_that_is_refused_leaves_drivers_and_reboots_usable() -> None:
    world = power_on(A)
    user = Vmm(world)
    assert user.reboot() == -EINVAL
    user.take(A)
    assert user.reboot(kexec.LINUX_REBOOT_CMD_CAD_ON) == 0
    assert world.load().reboot() == Jump()
    world.switch_off()
