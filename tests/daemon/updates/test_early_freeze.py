"""On a kernel that declares FREEZE, luod freezes the sessions of an update right before reboot(2)."""

from __future__ import annotations

import pytest

from luod.testing import Machine
from luod.testing.plugin import BootMachine
from tests.daemon.host import Luod
from tests.daemon.participant import Participant, begin, jump_with, prepare, start


@pytest.fixture
def machine(boot_machine: BootMachine) -> Machine:
    """Boots a machine of the profile `next`. Its kernel refuses to freeze memory of a VM without the VM."""
    return boot_machine(profile="next", arguments=("--kvm-rules", "newest"))


def frozen(participant: Participant) -> bool:
    """Returns whether the kernel refuses another file in the participant's session, as in a frozen one."""
    participant.vmm.ask("memfd", slot="another", size=4096)
    said = participant.vmm.says("library", call="fd", session=participant.name, slot="own")
    assert said == "OK"
    return participant.vmm.says("preserve", session="own", fd="another", token=9) == "EBUSY"


def test_sessions_are_carried(luod: Luod) -> None:
    one, two = Participant(luod, "one"), Participant(luod, "two")
    begin(luod)
    prepare(one, two)
    for participant in (one, two):
        participant.expect("freezing")
    jump_with(luod, one, two)
    after = start(luod)
    for participant in (one, two):
        after.call("retrieve_session", name=participant.name, slot=participant.name)
        after.call("retrieve", session=participant.name, file=1, slot=f"file of {participant.name}")
        assert after.ask("digest", fd=f"file of {participant.name}") == participant.digest


def test_a_session_that_cannot_be_frozen_cancels_the_update(luod: Luod) -> None:
    """Of the others, those that were frozen stay so: there is no way back. They are carried by the next update."""
    one, two = Participant(luod, "one"), Participant(luod, "two")
    two.vmm.ask("memfd", slot="memory", size=4096, name="kvm-gmem")
    two.vmm.call("preserve", session="two", file="memory", token=2)
    operator = begin(luod)
    prepare(one, two)
    for participant in (one, two):
        participant.expect("freezing")
        participant.vote("freezing")
    reason = operator.until("cancelled")["reason"]
    assert "session two cannot be frozen (ENOENT); create it again" in reason
    assert one.expect("jumping", "cancelled")["reason"] == reason
    assert (frozen(one), frozen(two)) == (True, False)
