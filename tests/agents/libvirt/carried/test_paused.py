"""An agent that believes to have paused a domain, which runs, goes on with it and answers the next update."""

from __future__ import annotations

from tests.agents.libvirt.carried.host import LibvirtHost
from tests.agents.qemu.carried.host import Witness


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
    host.assert_carried(guest, witness)


def test_an_agent_is_killed_before_it_paused_it(host: LibvirtHost) -> None:
    guest = host.domain()
    host.run(guest)
    witness = Witness(host)
    witness.begin()
    with host.hanging("suspend"):
        witness.prepared()
        host.until_it_hangs()
        host.agents[guest.name].kill()
        witness.until_cancelled()

    host.start(guest)

    host.assert_carried(guest, witness)


def test_its_owner_continues_it_while_no_agent_runs(host: LibvirtHost) -> None:
    guest = host.domain()
    host.run(guest)
    witness = host.frozen(guest)
    host.agents[guest.name].kill()
    witness.until_cancelled()
    host.virsh("resume", guest.name)

    host.start(guest)

    host.assert_carried(guest, witness)
