"""An update that is cancelled, in each phase: the domain goes on in the same QEMU, and is saved and carried later."""

from __future__ import annotations

import pytest

from tests.agents.libvirt.carried.host import LibvirtHost
from tests.agents.qemu.carried.host import Witness


@pytest.mark.parametrize("phase", ["preparing", "freezing"])
def test_the_domain_goes_on_and_a_later_update_carries_it(host: LibvirtHost, phase: str) -> None:
    guest = host.domain()
    host.run(guest)
    pid = host.qemu_pid(guest)
    witness = Witness(host)
    witness.begin()
    if phase == "freezing":
        witness.prepared()
    witness.until_ready(guest.name)
    if phase == "freezing":
        paused = guest.numbers()
        assert host.state(guest).startswith("paused")
        assert guest.numbers() == paused, "it ran while it was frozen"

    witness.veto(phase)

    host.until_it_counts(guest)
    assert (host.state(guest).partition(" ")[0], host.qemu_pid(guest)) == ("running", pid)
    assert host.sessions() == {"vm": "held", "witness": "held"}
    host.assert_carried(guest, witness)


def test_libvirts_own_save_has_the_memory_again(host: LibvirtHost) -> None:
    guest = host.domain()
    host.run(guest)
    witness = host.frozen(guest)
    witness.veto("freezing")
    host.until_it_counts(guest)

    host.virsh("managedsave", guest.name)
    assert host.agents[guest.name].wait() == 0
    host.run(guest)

    guest.assert_nothing_is_lost()


def test_a_domain_its_owner_paused_runs_before_the_next_update_carries_it(host: LibvirtHost) -> None:
    guest = host.domain()
    host.run(guest)
    host.virsh("suspend", guest.name)
    witness = host.frozen(guest)
    witness.veto("freezing")

    witness.begin()
    assert "continue it, and pause it again" in witness.until_cancelled()

    host.virsh("resume", guest.name)
    host.until_it_counts(guest)
    host.virsh("suspend", guest.name)
    witness.begin()
    witness.prepared()
    witness.until_ready(guest.name)
    witness.veto("freezing")
    host.virsh("resume", guest.name)
    host.until_it_counts(guest)
    guest.assert_nothing_is_lost()
