"""Machines with VFIO devices, from outside: how they are booted, and a VMM in them with a device that works.

Used by the tests of devices: of the document's rows D13 to D21, and of `luod.vfio`.
"""

from __future__ import annotations

import os
from typing import Final

from luod.testing import Machine
from luod.testing.interpreter import Interpreter
from luod.testing.plugin import BootMachine
from luod.testing.tools import cannot_run
from tests.library import Vmm, jump, load, start_vmm

FIRST: Final = "0000:01:00.0"
SECOND: Final = "0000:02:00.0"
RULES: Final = ("v2", "v5")
RAM: Final = 1 << 20


def boot(boot_machine: BootMachine, *options: str, rules: str = "v2", devices: tuple[str, ...] = (FIRST,)) -> Machine:
    """Boots a machine with `devices`, each an address with optional settings, whose handler follows `rules`."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        cannot_run("no /dev/fuse that this uid may use, and devices need it: modprobe fuse, as root")
    wanted = [word for device in devices for word in ("--vfio", device)]
    return boot_machine(arguments=("--vfio-rules", rules, *wanted, *options))


def give_to_vfio(machine: Machine, address: str = FIRST) -> None:
    """Gives a device to vfio-pci, from outside."""
    machine.write(f"/sys/bus/pci/devices/{address}/driver_override", b"vfio-pci")
    machine.write("/sys/bus/pci/drivers_probe", address.encode())


def start(machine: Machine, python: Interpreter) -> Vmm:
    """Starts a program that is central process and VMM in one, as root, with /dev/liveupdate open as "device"."""
    vmm = start_vmm(machine, python, "devices")
    vmm.open_device()
    return vmm


def use(vmm: Vmm, address: str = FIRST, *, slot: str = "vfio") -> None:
    """Opens the device as `slot`, binds it to an iommufd, "iommufd of `slot`", and maps a memfd, "ram of `slot`"."""
    path = vmm.ask("take", address=address)
    vmm.ask("open", path=path, flags=os.O_RDWR, slot=slot)
    set_up(vmm, slot)


def set_up(vmm: Vmm, slot: str = "vfio") -> None:
    vmm.ask("memfd", slot=f"ram of {slot}", size=RAM)
    vmm.ask("set_up", device=slot, memory=f"ram of {slot}", slot=f"iommufd of {slot}")


def computes(vmm: Vmm, slot: str = "vfio") -> bool:
    """Returns whether the device adds up correctly what it reads by DMA."""
    data = bytes(range(1, 200)).decode("latin-1")
    total: int = vmm.ask("compute", device=slot, memory=f"ram of {slot}", data=data)
    return total == sum(range(1, 200))


def create(vmm: Vmm, name: str = "vm", slot: str = "s") -> None:
    vmm.ask("create", device="device", name=name, slot=slot)


def preserve(vmm: Vmm, *, fd: str = "vfio", token: int = 1, session: str = "s") -> str:
    return vmm.says("preserve", session=session, fd=fd, token=token)


def next_boot(machine: Machine, python: Interpreter, vmm: Vmm) -> Vmm:
    """Loads the next kernel and jumps; a VMM of the next boot, with session "vm" retrieved as "s"."""
    load(machine, vmm)
    jump(machine, vmm)
    after = start(machine, python)
    after.ask("retrieve", device="device", name="vm", slot="s")
    return after
