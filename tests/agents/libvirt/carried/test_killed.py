"""An agent that is killed leaves a domain that lives on in libvirt, and another agent takes its part."""

from __future__ import annotations

import signal

from luod.ctl.exits import Exit
from luod.testing import eventually
from tests.agents.libvirt.carried.host import LibvirtHost
from tests.agents.qemu.carried.host import Witness
from tests.daemon.participant import started_jump


def test_a_running_domain_is_taken_over_and_carried(host: LibvirtHost) -> None:
    guest = host.domain()
    host.run(guest).kill()
    pid = host.qemu_pid(guest)
    host.until_it_counts(guest)

    host.start(guest)

    assert host.qemu_pid(guest) == pid
    host.update()
    host.restore(guest)
    guest.assert_nothing_is_lost()


def test_a_domain_that_it_had_paused_is_continued_and_carried(host: LibvirtHost) -> None:
    guest = host.domain()
    host.run(guest)
    witness = host.frozen(guest)
    host.agents[guest.name].kill()
    assert guest.name in witness.until_cancelled()
    assert host.state(guest).startswith("paused")

    host.start(guest)

    guest.assert_nothing_is_lost()
    host.assert_carried(guest, witness)


def test_a_signal_to_it_leaves_the_domain_running_also_while_it_is_frozen(host: LibvirtHost) -> None:
    guest = host.domain()
    host.run(guest)
    host.frozen(guest)

    host.agents[guest.name].signal(signal.SIGTERM)

    assert host.agents[guest.name].wait() == 0
    host.until_it_counts(guest)
    assert host.sessions() == {"witness": "held"}
    guest.assert_nothing_is_lost()


def test_qemu_killed_releases_the_session(host: LibvirtHost) -> None:
    guest = host.domain()
    agent = host.run(guest)
    host.luod.machine.signal(host.qemu_pid(guest), signal.SIGKILL)
    assert agent.wait() == 0
    assert "has ended" in agent.stderr
    assert host.sessions() == {}


def test_killed_before_the_restored_domain_runs_another_attempt_restores_it(host: LibvirtHost) -> None:
    guest = host.domain()
    host.run(guest)
    host.update()
    before = guest.numbers()
    with host.hanging("migrate-incoming"):
        agent = host.agent(guest, "restore", guest.name)
        host.until_it_hangs()
        assert host.state(guest).startswith("paused")
        agent.kill()
    assert guest.numbers() == before

    host.start(guest)

    guest.assert_nothing_is_lost()


def test_killed_when_the_restored_domain_may_run_another_agent_continues_it(host: LibvirtHost) -> None:
    guest = host.domain()
    host.run(guest)
    host.update()
    with host.hanging("resume"):
        agent = host.agent(guest, "restore", guest.name)
        host.until_it_hangs()
        agent.kill()

    host.start(guest)

    assert "is taken over" in host.agents[guest.name].stderr
    guest.assert_nothing_is_lost()


def test_a_qemu_that_was_left_without_its_guest_is_ended_and_the_domain_started(host: LibvirtHost) -> None:
    guest = host.domain()
    host.run(guest)
    host.update()
    with host.hanging("migrate-incoming"):
        agent = host.agent(guest, "restore", guest.name)
        host.until_it_hangs()
        shell = host.qemu_pid(guest)
        agent.kill()
    eventually(
        lambda: host.luod.luoctl("discard", guest.name, check=False).returncode == 0,
        within=60,
        describe="the session is given up",
    )

    host.start(guest)

    assert host.qemu_pid(guest) != shell


def test_a_domain_that_has_its_state_may_have_run_and_is_left_to_the_operator(host: LibvirtHost) -> None:
    guest = host.domain()
    host.run(guest)
    host.update()
    with host.hanging("migrate-set-capabilities*false"):
        agent = host.agent(guest, "restore", guest.name)
        host.until_it_hangs()
        agent.kill()
    second = host.agent(guest, "restore", guest.name)
    assert second.wait() == Exit.REFUSED
    assert "virsh destroy vm" in second.stderr
    assert host.state(guest).startswith("paused")

    host.virsh("destroy", guest.name)
    host.restore(guest)

    guest.assert_nothing_is_lost()


def test_ended_while_it_saves_a_domain_its_owner_paused_libvirts_save_has_the_memory(host: LibvirtHost) -> None:
    guest = host.domain()
    host.run(guest)
    host.virsh("suspend", guest.name)
    witness = Witness(host)
    witness.begin()
    with host.hanging("'\"migrate\",'"):
        witness.prepared()
        host.until_it_hangs()
        assert "x-ignore-shared: on" in host.capabilities(guest)
        host.agents[guest.name].signal(signal.SIGTERM)
        witness.until_cancelled()
        assert host.agents[guest.name].wait() == 0

    assert "x-ignore-shared: off" in host.capabilities(guest)


def test_a_signal_to_it_while_luod_starts_the_next_kernel_leaves_the_domain_paused(host: LibvirtHost) -> None:
    guest = host.domain()
    host.run(guest)
    witness = host.frozen(guest)
    witness.participant.freeze(witness.generation)
    jump = started_jump(host.luod)
    host.luod.machine.signal(jump, signal.SIGSTOP)
    witness.participant.vote("freezing")
    host.until_it_says(guest, "waits for the next kernel")

    host.agents[guest.name].signal(signal.SIGTERM)

    assert host.agents[guest.name].wait() == 0
    assert "is left by its agent, paused" in host.agents[guest.name].stderr
    assert host.state(guest).startswith("paused")
    host.luod.machine.signal(jump, signal.SIGKILL)
    witness.until_cancelled()
    host.start(guest)
    guest.assert_nothing_is_lost()
