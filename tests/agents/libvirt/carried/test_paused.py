"""An agent that believes to have paused a domain, which runs, goes on with it and answers the next update."""

from __future__ import annotations

from luod.testing import eventually
from tests.agents.libvirt.carried.host import LibvirtHost
from tests.agents.qemu.carried.host import Witness
from tests.agents.qemu.guests import CountingGuest


def assert_carried(host: LibvirtHost, guest: CountingGuest, witness: Witness) -> None:
    """Asserts that the next update carries the domain."""
    witness.begin()
    witness.until_ready(guest.name)
    witness.prepared()
    with host.luod.machine.expect_jump():
        witness.frozen()
    host.agents.clear()
    host.luod.start()
    host.boot()
    host.restore(guest)
    guest.assert_nothing_is_lost()


def test_libvirt_refuses_to_pause_it(host: LibvirtHost) -> None:
    guest = host.domain()
    host.run(guest)
    witness = Witness(host)
    witness.begin()
    with host.failing("suspend"):
        witness.prepared()
        assert "the test refuses it" in witness.until_cancelled()

    host.until_it_says(guest, "goes on")

    host.until_it_counts(guest)
    assert_carried(host, guest, witness)


def test_an_agent_is_killed_before_it_paused_it(host: LibvirtHost) -> None:
    guest = host.domain()
    host.run(guest)
    witness = Witness(host)
    witness.begin()
    with host.hanging("suspend"):
        witness.prepared()
        eventually(lambda: host.hangs, within=120, describe="the agent waits for virsh")
        host.agents[guest.name].kill()
        witness.until_cancelled()

    host.start(guest)

    assert_carried(host, guest, witness)


def test_its_owner_continues_it_while_no_agent_runs(host: LibvirtHost) -> None:
    guest = host.domain()
    host.run(guest)
    witness = Witness(host)
    witness.begin()
    witness.prepared()
    witness.until_ready(guest.name)
    host.agents[guest.name].kill()
    witness.until_cancelled()
    host.virsh("resume", guest.name)

    host.start(guest)

    assert_carried(host, guest, witness)
