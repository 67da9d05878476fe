"""Devices in updates that luod runs: what a jump that did not happen leaves of them (H22), and what is carried."""

from __future__ import annotations

from typing import Any

import pytest

from luod.testing import Machine
from luod.testing.plugin import BootMachine
from tests.daemon.host import Luod, states
from tests.daemon.participant import Operator, Participant, begin, file, prepare, start
from tests.devices import FIRST, RULES, SECOND, boot, computes, set_up

DEVICE = 2
"""The device's token."""


@pytest.fixture(params=RULES)
def rules(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def machine(boot_machine: BootMachine, rules: str) -> Machine:
    return boot(boot_machine, rules=rules, devices=(FIRST, SECOND))


class Workload(Participant):
    """A workload with a device, slot "vfio", which has done DMA and is preserved under token 2."""

    def __init__(self, luod: Luod, name: str, address: str) -> None:
        super().__init__(luod, name, declare=False, program="workload")
        self.address = address
        self.open()
        self.preserve()

    def open(self) -> None:
        self.vmm.call("bind_driver", address=self.address)
        self.vmm.call("open_device", address=self.address, slot="vfio")
        set_up(self.vmm)
        self.vmm.ask("scratch", device="vfio", value=5)
        assert computes(self.vmm)

    def preserve(self) -> None:
        self.vmm.call("preserve", session=self.name, file="vfio", token=DEVICE, name="nic")
        device = file(DEVICE, size=0, allocated=0, kind="vfio") | {"name": "nic"}
        self.declare(file(1), device)

    @property
    def device(self) -> dict[str, Any]:
        """Returns the device as luod names it."""
        return {"session": self.name, "token": DEVICE, "name": "nic"}

    def scratch(self) -> int:
        value: int = self.vmm.ask("registers", device="vfio")["scratch"]
        return value


def go_through_preparing(*workloads: Workload) -> None:
    for workload in workloads:
        prepare(workload)
    for workload in workloads:
        workload.expect("freezing")


def test_h22_who_has_a_device_is_told_that_a_failed_jump_may_have_frozen_it(luod: Luod, rules: str) -> None:
    first, second = Workload(luod, "first", FIRST), Workload(luod, "second", SECOND)
    third = Participant(luod, "third")
    second.vmm.ask("listen", device="vfio", slot="heard")
    operator = begin(luod)
    prepare(third)
    go_through_preparing(first, second)
    third.expect("freezing")
    first.vmm.call("quiesce", device="vfio")
    for participant in (first, second, third):
        participant.vote("freezing")

    for workload in (first, second):
        event = workload.expect("jumping", "cancelled")
        assert event["frozen_devices"] == [workload.device]
        assert "interrupts" in event["reason"]
        assert "reset these devices" in event["reason"]
    assert third.expect("jumping", "cancelled")["frozen_devices"] == []
    assert "first/nic, second/nic" in operator.until("cancelled")["reason"]

    # Of the first it is true, the second was the one in the way.
    assert second.scratch() == 5
    if rules == "v2":
        assert first.vmm.call("state", device="vfio") == "READY"
        assert first.scratch() == 0
    else:
        assert first.vmm.call("state", device="vfio") == "FROZEN"
        # As the hint of VfioDeviceFrozen says, no fd of the device may be open, nor luod's copy of the session.
        first.vmm.call("release", session="first")
        for slot in ("vfio", "iommufd of vfio", "ram of vfio"):
            first.vmm.ask("close", fd=slot)
        first.vmm.call("revive", address=FIRST)
        first.vmm.call("create", name="first", slot="first")
        first.vmm.call("preserve", session="first", file="ram", token=1)
        first.open()
        first.preserve()

    operator.update()
    prepare(third)
    go_through_preparing(first, second)
    third.expect("freezing")
    for workload in (first, second):
        workload.vmm.call("quiesce", device="vfio")
    with luod.machine.expect_jump():
        for participant in (first, second, third):
            participant.vote("freezing")
    for address in (FIRST, SECOND):
        luod.machine.write(f"/sys/bus/pci/devices/{address}/driver_override", b"vfio-pci")
        luod.machine.write("/sys/bus/pci/drivers_probe", address.encode())
    luod.start()
    for workload in (first, second):
        vmm = start(luod, program="workload")
        vmm.call("retrieve_session", name=workload.name, slot="s")
        vmm.call("retrieve", session="s", file="nic", slot="vfio")
        vmm.call("retrieve", session="s", file=1, slot="ram")
        assert vmm.ask("digest", fd="ram") == workload.digest
        set_up(vmm)
        assert computes(vmm)
        vmm.call("finish", session="s")


@pytest.mark.parametrize("rules", ["v2"])
def test_h22_no_device_is_named_when_the_jump_was_not_tried(luod: Luod) -> None:
    first = Workload(luod, "first", FIRST)
    begin(luod)
    go_through_preparing(first)
    first.vote("freezing", "veto", "not now")
    assert first.expect("cancelled")["frozen_devices"] == []
    assert first.scratch() == 5


@pytest.mark.parametrize("rules", ["v2"])
def test_h20_in_a_kernel_without_the_handler_luod_says_what_that_means(luod: Luod) -> None:
    first = Workload(luod, "first", FIRST)
    luod.load(f"{luod.machine.kernel}-no-vfio")
    operator = Operator(luod)
    operator.update()
    error = operator.refused()
    assert error.message.startswith("handler-missing: the next kernel has no handler for vfio-pci files")
    operator.update(findings=["handler-missing"])
    go_through_preparing(first)
    with luod.machine.expect_jump():
        first.vote("freezing")
    supervisor = luod.start()

    status = luod.status()
    assert (status["state"], status["boot"]) == ("broken", 2)
    assert "lacks the handler of a preserved file" in luod.luoctl("status").text
    vmm = start(luod)
    assert states(vmm) == {"incoming first": "lost"}
    assert "could not take over" in luod.luoctl_json("show", "first")["note"]
    assert luod.luoctl("wait", "--for", "restored", check=False).returncode == 10
    for call in ("create", "retrieve_session"):
        name = {"create": "new", "retrieve_session": "first"}[call]
        error = vmm.refused(call, name=name, slot="s")
        assert (error.kind, error.errno) == ("LiveUpdateBroken", "EIO")
        assert "vfio-pci" in error.hint
    operator = Operator(luod)
    operator.update()
    assert operator.refused().kind == "Refused"

    # A luod that is started again reports the same, until the session is released.
    luod.kill_serve()
    assert states(vmm) == {"incoming first": "lost"}
    vmm.call("release_named", name="first", direction="incoming")
    assert states(vmm) == {}
    luod.stop()
    assert "device-broken" in supervisor.stderr
    assert "session-lost name=first" in supervisor.stderr
