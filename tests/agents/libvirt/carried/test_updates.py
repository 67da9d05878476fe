"""Domains of libvirt live through kernel updates: each counts on where it was paused."""

from __future__ import annotations

from pathlib import Path

from luod.agents.libvirt.description import differences, read
from luod.testing import eventually
from tests.agents.libvirt.carried.host import LibvirtHost

LOOK = """\
import signal, sys
import luod
with luod.Client() as client, client.retrieve(sys.argv[1]):
    print("has it", file=sys.stderr, flush=True)
    signal.sigtimedwait([signal.SIGUSR1], 5)
"""
"""Looks at a session as the agent of another kind of guest does, for 5 seconds."""
RNG = b"<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>"


def test_a_domain_counts_on_through_two_updates_in_a_row(host: LibvirtHost) -> None:
    guest = host.domain()
    definition = host.virsh("dumpxml", guest.name, "--inactive").text
    host.run(guest)
    for _ in range(2):
        host.update()
        host.restore(guest)
        assert host.state(guest) == "running (unpaused)"
        guest.assert_nothing_is_lost()
    assert host.luod.machine.boot == 3
    assert host.sessions() == {"vm": "held"}
    assert host.virsh("dumpxml", guest.name, "--inactive").text == definition


def test_all_domains_are_restored_by_one_command(host: LibvirtHost) -> None:
    guests = [host.domain("one"), host.domain("two")]
    for guest in guests:
        host.run(guest)
    host.update()
    everyone = host.agent(guests[0], "restore", "--all")
    for guest in guests:
        host.agents[guest.name] = everyone
        host.until_it_says(guest, f"{guest.name}: takes part in updates")
        host.until_it_counts(guest)
        guest.assert_nothing_is_lost()


def test_it_is_restored_when_the_agent_of_other_guests_has_looked_at_it(host: LibvirtHost, tmp_path: Path) -> None:
    guest = host.domain()
    host.run(guest)
    host.update()
    look = tmp_path / "look.py"
    look.write_text(LOOK)
    python = host.luod.python()
    other = host.luod.machine.spawn(python.script(look, guest.name), env=python.environment)
    eventually(lambda: "has it" in other.stderr, describe="the other agent has the session")

    host.agent(guest, "restore", "--if-guest", guest.name)

    host.until_it_says(guest, "takes part in updates")
    assert other.wait() == 0, other.stderr
    host.until_it_counts(guest)
    guest.assert_nothing_is_lost()


def test_a_device_that_libvirt_plugged_in_is_there_in_the_next_kernel(host: LibvirtHost) -> None:
    guest = host.domain()
    host.run(guest)
    host.virsh("attach-device", guest.name, "/proc/self/fd/0", "--live", stdin=RNG)
    before = read(host.virsh("dumpxml", guest.name).text)
    assert "<rng" in before.text
    host.update()
    host.restore(guest)
    assert differences(before, read(host.virsh("dumpxml", guest.name).text)) == ()
    guest.assert_nothing_is_lost()


def test_a_domain_that_its_owner_paused_is_paused_in_the_next_kernel(host: LibvirtHost) -> None:
    guest = host.domain()
    host.run(guest)
    host.virsh("suspend", guest.name)
    numbers = guest.numbers()
    host.update()
    host.agent(guest, "restore", guest.name)
    host.until_it_says(guest, "takes part in updates")
    assert host.state(guest).startswith("paused")
    assert guest.numbers() == numbers
    host.virsh("resume", guest.name)
    host.until_it_counts(guest)
    guest.assert_nothing_is_lost()


def test_a_domain_whose_definition_the_next_kernel_lacks_is_restored(host: LibvirtHost) -> None:
    guest = host.domain()
    host.run(guest)
    host.update()
    host.virsh("undefine", guest.name)
    host.restore(guest)
    guest.assert_nothing_is_lost()


def test_libvirts_own_save_has_the_memory_and_goes_on_with_luods(host: LibvirtHost) -> None:
    """Also after an update, in which the state was loaded without the memory."""
    guest = host.domain()
    host.run(guest)
    for _ in range(2):
        host.virsh("managedsave", guest.name)
        assert host.agents[guest.name].wait() == 0
        eventually(lambda: host.sessions() == {}, describe="the session of the saved domain is gone")
        host.run(guest)
        guest.assert_nothing_is_lost()
        host.update()
        host.restore(guest)
        guest.assert_nothing_is_lost()


def test_the_unit_starts_a_domain_once_and_continues_it_after_an_update(host: LibvirtHost) -> None:
    guest = host.domain()
    host.start(guest)
    host.update()
    host.start(guest)
    guest.assert_nothing_is_lost()
    assert "goes on in this kernel" in host.agents[guest.name].stderr
