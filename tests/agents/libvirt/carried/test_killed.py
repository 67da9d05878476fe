"""An agent that is killed leaves a domain that lives on in libvirt, and another agent takes its part."""

from __future__ import annotations

import signal

from luod.testing import eventually
from tests.agents.libvirt.carried.host import LibvirtHost
from tests.agents.qemu.carried.host import Witness


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
    witness = Witness(host)
    witness.begin()
    witness.prepared()
    witness.until_ready(guest.name)
    host.agents[guest.name].kill()
    assert guest.name in witness.until_cancelled()
    assert host.state(guest).startswith("paused")

    host.start(guest)

    guest.assert_nothing_is_lost()
    witness.begin()
    witness.prepared()
    with host.luod.machine.expect_jump():
        witness.frozen()
    host.agents.clear()
    host.luod.start()
    host.boot()
    host.restore(guest)
    guest.assert_nothing_is_lost()


def test_a_signal_to_it_leaves_the_domain_running_also_while_it_is_frozen(host: LibvirtHost) -> None:
    guest = host.domain()
    host.run(guest)
    witness = Witness(host)
    witness.begin()
    witness.prepared()
    witness.until_ready(guest.name)

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
        eventually(lambda: host.hangs, within=120, describe="the agent waits for virsh")
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
        eventually(lambda: host.hangs, within=120, describe="the agent waits for virsh")
        agent.kill()

    host.start(guest)

    assert "is taken over" in host.agents[guest.name].stderr
    guest.assert_nothing_is_lost()
