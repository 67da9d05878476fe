"""The document's promises for VFIO devices, rows D13 to D21 of docs/promises.md, and the hazards H20 and H22.

On the kernel's own calls, in emulated machines: no released kernel has the handlers. Under both tables of rules, v2
(the document) and v5 (the newest posting); where they differ, the test says how. One program plays luod and the VMM.
"""

from __future__ import annotations

import os

import pytest

from luod.testing import Machine, Program
from luod.testing.interpreter import Interpreter
from luod.testing.plugin import BootMachine
from luod.uapi import liveupdate as uapi
from luod.uapi import vfio as vfio_uapi
from tests.devices import FIRST, RULES, SECOND, boot, computes, create, next_boot, preserve, set_up, start, use
from tests.library import Vmm, jump, load, start_vmm

UNBOUND = "/run/unbound"
"""Written in the machine once an unbind has come back."""


@pytest.fixture(params=RULES)
def rules(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def machine(boot_machine: BootMachine, rules: str) -> Machine:
    return boot(boot_machine, rules=rules)


@pytest.fixture
def vmm(machine: Machine, machine_python: Interpreter) -> Vmm:
    """Starts the VMM of boot 1."""
    return start(machine, machine_python)


def unbind(machine: Machine, address: str = FIRST) -> Program:
    """Begins to take the device from its driver."""
    script = f"echo {address} > /sys/bus/pci/drivers/vfio-pci/unbind && touch {UNBOUND}"
    return machine.spawn(["sh", "-c", script])


def is_unbound(machine: Machine) -> bool:
    return machine.run(["test", "-e", UNBOUND], check=False).returncode == 0


def retrieve_device(vmm: Vmm) -> None:
    """Binds the driver, and retrieves token 1 as "vfio"."""
    vmm.ask("take", address=FIRST)
    vmm.ask("retrieve_fd", session="s", token=1, slot="vfio")


def test_d13_a_device_of_dev_vfio_devices_can_be_preserved(
    machine: Machine, machine_python: Interpreter, vmm: Vmm, rules: str
) -> None:
    path = vmm.ask("take", address=FIRST)
    assert path.startswith("/dev/vfio/devices/vfio")
    vmm.ask("open", path=path, flags=os.O_RDWR, slot="vfio")
    create(vmm, "early", "early")
    # v5 wants the device bound to an iommufd first.
    assert preserve(vmm, session="early") == {"v2": "OK", "v5": "ENOENT"}[rules]
    vmm.ask("close", fd="early")
    set_up(vmm)
    create(vmm)
    assert preserve(vmm) == "OK"
    assert preserve(vmm, token=2) == "EBUSY"
    assert computes(vmm), "it can be used while it is preserved"
    vmm = next_boot(machine, machine_python, vmm)
    retrieve_device(vmm)
    set_up(vmm)
    assert computes(vmm)


def test_d14_a_device_of_get_device_fd_cannot_be_preserved(vmm: Vmm) -> None:
    vmm.ask("take", address=FIRST)
    vmm.ask("open_group", number=1, group="group", container="container")
    vmm.ask("get_device_fd", group="group", address=FIRST, slot="vfio")
    assert vmm.ask("info", device="vfio") == [9, 5]
    create(vmm)
    for fd in ("vfio", "group", "container"):
        assert preserve(vmm, fd=fd) == "ENOENT"
    for fd in ("vfio", "container", "group"):
        vmm.ask("close", fd=fd)
    use(vmm)
    assert preserve(vmm, fd="iommufd of vfio") == "ENOENT"
    assert preserve(vmm) == "OK"


def test_d15_an_unbind_waits_while_the_device_is_preserved(machine: Machine, vmm: Vmm) -> None:
    use(vmm)
    create(vmm)
    assert preserve(vmm) == "OK"
    vmm.ask("listen", device="vfio", slot="asked", index=vfio_uapi.VFIO_PCI_REQ_IRQ_INDEX)
    # From here on nobody but the session has it open.
    vmm.ask("close", fd="vfio")
    unbinding = unbind(machine)
    assert vmm.ask("heard", eventfd="asked") >= 1
    assert not is_unbound(machine)
    vmm.ask("close", fd="s")
    assert unbinding.wait() == 0
    assert vmm.ask("driver", address=FIRST) is None


def test_d15_an_unbind_waits_for_finish_once_the_device_is_retrieved(
    machine: Machine, machine_python: Interpreter, vmm: Vmm
) -> None:
    use(vmm)
    create(vmm)
    assert preserve(vmm) == "OK"
    vmm = next_boot(machine, machine_python, vmm)
    vmm.ask("take", address=FIRST)
    # Nothing holds a device that is not retrieved yet.
    assert unbind(machine).wait() == 0
    machine.run(["rm", UNBOUND])
    retrieve_device(vmm)
    set_up(vmm)
    vmm.ask("listen", device="vfio", slot="asked", index=vfio_uapi.VFIO_PCI_REQ_IRQ_INDEX)
    vmm.ask("close", fd="vfio")
    unbinding = unbind(machine)
    assert vmm.ask("heard", eventfd="asked") >= 1
    assert not is_unbound(machine)
    assert vmm.says("finish", session="s") == "OK"
    assert unbinding.wait() == 0


def test_d16_with_interrupts_on_the_kexec_fails_and_nothing_is_lost(
    machine: Machine, machine_python: Interpreter, vmm: Vmm
) -> None:
    use(vmm)
    vmm.ask("listen", device="vfio", slot="heard")
    vmm.ask("interrupt", device="vfio")
    assert vmm.ask("heard", eventfd="heard") == 1
    create(vmm)
    digest = vmm.preserved_memfd(token=7)
    assert preserve(vmm) == "OK"
    load(machine, vmm)
    for _ in range(2):
        assert vmm.says("reboot") == "EINVAL"
    assert machine.boot == 1
    assert vmm.call("loaded") is True
    # Everything goes on: the device in the way was not touched, its interrupts come, sessions can be made.
    vmm.ask("interrupt", device="vfio")
    assert vmm.ask("heard", eventfd="heard") == 1
    assert computes(vmm)
    create(vmm, "another", "another")
    vmm.ask("listen", device="vfio")
    jump(machine, vmm)
    vmm = start(machine, machine_python)
    vmm.ask("retrieve", device="device", name="vm", slot="s")
    retrieve_device(vmm)
    vmm.ask("retrieve_fd", session="s", token=7, slot="m")
    assert vmm.ask("digest", fd="m") == digest


@pytest.mark.parametrize("rules", ["v5"])
def test_d16_v5_wants_the_device_awake(machine: Machine, machine_python: Interpreter, vmm: Vmm) -> None:
    use(vmm)
    create(vmm)
    assert preserve(vmm) == "OK"
    vmm.ask("power_state", device="vfio", state=3)
    load(machine, vmm)
    assert vmm.says("reboot") == "EINVAL"
    vmm.ask("power_state", device="vfio", state=0)
    jump(machine, vmm)
    vmm = start(machine, machine_python)
    vmm.ask("retrieve", device="device", name="vm", slot="s")
    retrieve_device(vmm)


def test_d17_a_device_is_retrieved_like_any_other_file(machine: Machine, machine_python: Interpreter, vmm: Vmm) -> None:
    token = 2**64 - 1
    use(vmm)
    create(vmm)
    assert preserve(vmm, token=token) == "OK"
    vmm = next_boot(machine, machine_python, vmm)
    vmm.ask("take", address=FIRST)
    assert vmm.says("retrieve_fd", session="s", token=1, slot="none") == "ENOENT"
    vmm.ask("retrieve_fd", session="s", token=token, slot="vfio")
    vmm.ask("retrieve_fd", session="s", token=token, slot="again")
    assert vmm.ask("getfl", fd="vfio") & os.O_ACCMODE == os.O_RDWR
    assert "[vfio-device-liveupdate]" in vmm.ask("link", fd="vfio")
    assert vmm.says("info", device="vfio") == "EINVAL"
    set_up(vmm)
    # Both are one file.
    assert vmm.ask("info", device="again") == vmm.ask("info", device="vfio") == [9, 5]
    create(vmm, "next", "next")
    assert preserve(vmm, session="next") == "EBUSY"
    assert vmm.says("finish", session="s") == "OK"
    assert vmm.says("retrieve_fd", session="s", token=token, slot="late") == "ENOENT"
    # And it goes into the next update.
    assert preserve(vmm, session="next") == "OK"


def test_d17_retrieved_before_its_driver_is_bound_it_is_lost(
    machine: Machine, machine_python: Interpreter, vmm: Vmm
) -> None:
    use(vmm)
    create(vmm)
    digest = vmm.preserved_memfd(token=7)
    assert preserve(vmm) == "OK"
    vmm = next_boot(machine, machine_python, vmm)
    assert vmm.ask("driver", address=FIRST) is None, "nothing binds it but user space"
    assert vmm.says("retrieve_fd", session="s", token=1, slot="vfio") == "ENODEV"
    path = vmm.ask("take", address=FIRST)
    assert vmm.says("retrieve_fd", session="s", token=1, slot="vfio") == "ENODEV"
    assert vmm.says("open", path=path, flags=os.O_RDWR, slot="vfio") == "EBUSY"
    vmm.ask("retrieve_fd", session="s", token=7, slot="m")
    assert vmm.ask("digest", fd="m") == digest
    assert vmm.says("finish", session="s") == "EBUSY"
    # For the life of this kernel.
    vmm.ask("close", fd="s")
    assert vmm.says("retrieve", device="device", name="vm", slot="s") == "EINVAL"
    assert vmm.says("open", path=path, flags=os.O_RDWR, slot="vfio") == "EBUSY"


def test_d18_finish_wants_the_device_retrieved_and_bound(
    machine: Machine, machine_python: Interpreter, vmm: Vmm
) -> None:
    use(vmm)
    create(vmm)
    digest = vmm.preserved_memfd(token=7)
    assert preserve(vmm) == "OK"
    vmm = next_boot(machine, machine_python, vmm)
    vmm.ask("take", address=FIRST)
    assert vmm.says("finish", session="s") == "EBUSY"
    vmm.ask("retrieve_fd", session="s", token=1, slot="vfio")
    assert vmm.says("finish", session="s") == "EBUSY"
    # All or nothing: the memory beside it was not finished.
    vmm.ask("retrieve_fd", session="s", token=7, slot="m")
    assert vmm.ask("digest", fd="m") == digest
    set_up(vmm)
    vmm.ask("close", fd="vfio")
    assert vmm.says("finish", session="s") == "OK", "the session keeps it bound"
    assert vmm.says("retrieve_fd", session="s", token=7, slot="late") == "ENOENT"


def test_d19_until_finish_nobody_else_opens_the_device(machine: Machine, machine_python: Interpreter, vmm: Vmm) -> None:
    use(vmm)
    create(vmm)
    assert preserve(vmm) == "OK"
    vmm = next_boot(machine, machine_python, vmm)
    path = vmm.ask("take", address=FIRST)

    def opens() -> tuple[str, str]:
        vmm.ask("open_group", number=1, group="group", container="container")
        answers = (
            vmm.says("open", path=path, flags=os.O_RDWR, slot="other"),
            vmm.says("get_device_fd", group="group", address=FIRST, slot="of group"),
        )
        vmm.ask("close", fd="group")
        vmm.ask("close", fd="container")
        return answers

    assert opens() == ("EBUSY", "EBUSY")
    vmm.ask("retrieve_fd", session="s", token=1, slot="vfio")
    assert opens() == ("EBUSY", "EBUSY")
    set_up(vmm)
    assert vmm.says("open", path=path, flags=os.O_RDWR, slot="other") == "EBUSY"
    assert vmm.says("finish", session="s") == "OK"
    vmm.ask("close", fd="vfio")
    assert opens() == ("OK", "OK")


def test_d20_the_device_is_reset_and_comes_back_idle(machine: Machine, machine_python: Interpreter, vmm: Vmm) -> None:
    use(vmm)
    vmm.ask("scratch", device="vfio", value=0x1234)
    assert computes(vmm)
    assert vmm.ask("registers", device="vfio") == {"status": 1, "count": 1, "scratch": 0x1234}
    assert vmm.ask("command_register", device="vfio") & 4, "it is a bus master"
    create(vmm)
    assert preserve(vmm) == "OK"
    vmm = next_boot(machine, machine_python, vmm)
    retrieve_device(vmm)
    vmm.ask("open", path="/dev/iommu", flags=os.O_RDWR, slot="iommufd")
    vmm.ask("bind", device="vfio", iommufd="iommufd")
    assert vmm.ask("registers", device="vfio") == {"status": 0, "count": 0, "scratch": 0}
    assert not vmm.ask("command_register", device="vfio") & 4


def test_d21_nothing_but_the_device_comes_back_by_itself(
    machine: Machine, machine_python: Interpreter, vmm: Vmm
) -> None:
    use(vmm)
    create(vmm)
    vmm.ask("preserve", session="s", fd="ram of vfio", token=7)
    assert preserve(vmm, fd="iommufd of vfio") == "ENOENT"
    assert preserve(vmm) == "OK"
    vmm = next_boot(machine, machine_python, vmm)
    retrieve_device(vmm)
    vmm.ask("retrieve_fd", session="s", token=7, slot="ram of vfio")
    vmm.ask("attach_unmapped", device="vfio", slot="iommufd of vfio")
    # The memory is back, and the device does not reach it: no mapping was carried.
    assert vmm.ask("dma_status", device="vfio") == 2
    vmm.ask("close", fd="vfio")
    assert vmm.says("finish", session="s") == "OK"
    use(vmm, slot="anew")
    assert computes(vmm, "anew")


def test_d21_the_first_phase_of_iommufd_behind_its_switch(
    boot_machine: BootMachine, machine_python: Interpreter, rules: str
) -> None:
    machine = boot(boot_machine, "--iommufd-preservation", rules=rules)
    vmm = start(machine, machine_python)
    vmm.ask("open", path=vmm.ask("take", address=FIRST), flags=os.O_RDWR, slot="vfio")
    vmm.ask("memfd", slot="ram of vfio", size=1 << 20)
    vmm.ask("add_seals", fd="ram of vfio", seals=0x7)  # SEAL, SHRINK, GROW
    space, _ = vmm.ask("share", device="vfio", memory="ram of vfio", slot="iommufd")
    assert computes(vmm)
    vmm.ask("map_more", iommufd="iommufd", space=space, memory="ram of vfio", iova=4 << 30)
    for again in (False, True):
        create(vmm)
        assert preserve(vmm) == "ENOENT", "the iommufd has to be preserved before it"
        assert preserve(vmm, fd="iommufd", token=2) == "ENOENT", "and the memory before that"
        assert preserve(vmm, fd="ram of vfio", token=3) == "OK"
        assert preserve(vmm, fd="iommufd", token=2) == "OK"
        assert preserve(vmm) == "OK"
        if not again:
            vmm.ask("close", fd="s")
            vmm.ask("map_more", iommufd="iommufd", space=space, memory="ram of vfio", iova=6 << 30)
    assert vmm.says("map_more", iommufd="iommufd", space=space, memory="ram of vfio", iova=8 << 30) != "OK"
    assert computes(vmm)
    vmm = next_boot(machine, machine_python, vmm)
    retrieve_device(vmm)
    assert vmm.says("retrieve_fd", session="s", token=2, slot="iommufd") == "ENOTSUP", "EOPNOTSUPP by its other name"
    vmm.ask("open", path="/dev/iommu", flags=os.O_RDWR, slot="another")
    assert vmm.says("bind", device="vfio", iommufd="another") == "EPERM"
    assert vmm.says("finish", session="s") == "EBUSY"


def test_h20_a_next_kernel_without_the_handler_answers_eio_to_every_open(
    machine: Machine, machine_python: Interpreter, vmm: Vmm
) -> None:
    use(vmm)
    create(vmm)
    assert preserve(vmm) == "OK"
    create(vmm, "memory only", "t")
    vmm.preserved_memfd(session="t")
    vmm.call("load", kernel=f"{machine.kernel}-no-vfio", command_line="liveupdate=on kho=on")
    jump(machine, vmm)
    vmm = start_vmm(machine, machine_python, "devices")
    for _ in range(2):
        assert vmm.says("open", path=uapi.DEVICE, flags=os.O_RDWR, slot="device") == "EIO"
    error = vmm.refused("open")
    assert (error.kind, error.errno) == ("LiveUpdateBroken", "EIO")
    assert "could not take over what was carried" in error.message
    assert "vfio-pci" in error.hint


def test_h22_a_device_frozen_before_the_one_that_fails_the_kexec(
    boot_machine: BootMachine, machine_python: Interpreter, rules: str
) -> None:
    machine = boot(boot_machine, rules=rules, devices=(FIRST, SECOND))
    vmm = start(machine, machine_python)
    use(vmm, FIRST, slot="first")
    use(vmm, SECOND, slot="second")
    create(vmm)
    assert preserve(vmm, fd="first", token=1) == "OK"
    assert preserve(vmm, fd="second", token=2) == "OK"
    for slot in ("first", "second"):
        vmm.ask("scratch", device=slot, value=5)
    vmm.ask("listen", device="second", slot="heard")
    load(machine, vmm)
    error = vmm.refused("jump")
    assert (error.kind, error.errno) == ("VfioDeviceNotQuiet", "EINVAL")
    assert "interrupts" in error.message
    assert "were reset, or return EIO" in error.hint
    # The one in the way is as it was.
    assert vmm.ask("registers", device="second")["scratch"] == 5
    assert vmm.call("state", device="second") == "READY"
    if rules == "v2":
        assert vmm.call("state", device="first") == "READY"
        assert vmm.ask("registers", device="first")["scratch"] == 0, "it was reset"
        return
    assert vmm.says("registers", device="first") == vmm.says("info", device="first") == "EIO"
    assert vmm.call("state", device="first") == "FROZEN"
    # To close and open it does not help; to bind its driver again does.
    for fd in ("s", "first", "iommufd of first"):
        vmm.ask("close", fd=fd)
    vmm.call("open_device", address=FIRST, slot="first")
    vmm.call("open_iommufd", slot="iommufd of first")
    vmm.call("bind", device="first", iommufd="iommufd of first")
    assert vmm.refused("quiesce", device="first").kind == "VfioDeviceFrozen"
    vmm.ask("close", fd="first")
    vmm.call("revive", address=FIRST)
    use(vmm, FIRST, slot="anew")
    assert computes(vmm, "anew")
