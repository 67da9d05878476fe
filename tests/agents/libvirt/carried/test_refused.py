"""A domain that would be lost in an update is refused before anything is started, with what to do instead."""

from __future__ import annotations

from luod.ctl.exits import Exit
from tests.agents.libvirt.carried.host import LibvirtHost
from tests.agents.qemu.guests import CountingGuest


def refused(host: LibvirtHost, guest: CountingGuest, *words: str, status: Exit = Exit.REFUSED) -> str:
    """Returns what `luoctl libvirt` says, which does not do it."""
    agent = host.agent(guest, *words, guest.name)
    assert agent.wait() == status, agent.stderr
    return agent.stderr


def test_a_domain_with_a_balloon_is_not_started(host: LibvirtHost) -> None:
    guest = host.domain(balloon="virtio")
    assert "<memballoon model='none'/>" in refused(host, guest, "run")
    assert host.state(guest).startswith("shut off")
    assert host.sessions() == {}


def test_a_domain_that_libvirt_would_start_from_the_beginning_is_not_started(host: LibvirtHost) -> None:
    guest = host.domain()
    host.virsh("autostart", guest.name)
    assert "virsh autostart --disable vm" in refused(host, guest, "run")
    assert host.state(guest).startswith("shut off")


def test_a_domain_that_runs_without_luods_memory_runs_on(host: LibvirtHost) -> None:
    guest = host.domain()
    host.virsh("start", guest.name)
    assert "shut it down, and start it by `luoctl libvirt run vm`" in refused(host, guest, "run")
    host.until_it_counts(guest)


def test_a_domain_that_was_started_in_the_next_kernel_is_not_restored_beside(host: LibvirtHost) -> None:
    guest = host.domain()
    host.run(guest)
    host.update()
    host.virsh("start", guest.name)
    assert "runs already in this kernel" in refused(host, guest, "restore")
    assert host.state(guest).startswith("running")


def test_a_failure_before_the_domain_runs_leaves_it_for_another_try(host: LibvirtHost) -> None:
    guest = host.domain()
    host.run(guest)
    host.update()
    elsewhere = guest.disk.with_name("elsewhere")
    guest.disk.rename(elsewhere)
    assert "disk.raw" in refused(host, guest, "restore", status=Exit.FAILED)
    elsewhere.rename(guest.disk)
    host.restore(guest)
    guest.assert_nothing_is_lost()


def test_a_domain_that_another_agent_has_is_left_to_it(host: LibvirtHost) -> None:
    guest = host.domain()
    first = host.run(guest)
    assert f"the domain vm is with process {first.pid}" in refused(host, guest, "run")
    assert "is with process" in refused(host, guest, "start")
    host.until_it_counts(guest)
    assert host.sessions() == {"vm": "held"}


def test_a_domain_without_a_definition_is_not_started(host: LibvirtHost) -> None:
    guest = host.domain()
    host.virsh("undefine", guest.name)
    assert "the domain vm is not defined" in refused(host, guest, "run")


def test_an_update_is_refused_while_libvirt_has_no_definition_of_the_domain(host: LibvirtHost) -> None:
    guest = host.domain()
    host.run(guest)
    host.virsh("undefine", guest.name)
    host.luod.load()
    vetoed = host.luod.luoctl("update", check=False)
    assert "`virsh define` it" in vetoed.text + vetoed.stderr.decode()
    host.until_it_counts(guest)


def test_an_update_is_refused_while_libvirt_would_start_the_domain_itself(host: LibvirtHost) -> None:
    guest = host.domain()
    host.run(guest)
    host.virsh("autostart", guest.name)
    host.luod.load()
    vetoed = host.luod.luoctl("update", check=False)
    assert vetoed.returncode != 0
    assert "virsh autostart --disable vm" in vetoed.text + vetoed.stderr.decode()
    host.until_it_counts(guest)
