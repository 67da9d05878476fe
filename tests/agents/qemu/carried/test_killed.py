"""An agent, or its QEMU, is killed at each step of an update.

A QEMU ends with its agent: nothing would pause it in the next update. Before the kexec the guest is lost then, as with
any QEMU that is killed, and nothing of it is carried. From the kexec on until it runs again it is in the kernel, and
the next attempt restores it.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from luod.testing import eventually
from tests.agents.qemu.carried.host import MORE, Host, Witness, counting
from tests.agents.qemu.guests import CountingGuest
from tests.crash.endurance import build_killer

Kill = Callable[[Host, CountingGuest], None]
AGENT = "luod.ctl.main qemu"
QEMU = "memory-backend=luod-ram"
"""Parts of the command lines of an agent and of its QEMU."""
FIRST_WITH_QEMU = 27
"""The first call of an agent that restores a guest at which its QEMU surely runs. The last of all is about 35."""
LEAST = 5
"""Attempts in which each test kills."""


def kill_agent(host: Host, guest: CountingGuest) -> None:
    pid = host.qemu_pid(guest)
    host.agents[guest.name].kill()
    eventually(lambda: not host.luod.machine.signal(pid, 0), describe="QEMU ended with its agent")


def kill_qemu(host: Host, guest: CountingGuest) -> None:
    host.luod.machine.signal(host.qemu_pid(guest), signal.SIGKILL)
    assert host.agents[guest.name].wait() == 128 + signal.SIGKILL


@pytest.fixture(params=[kill_agent, kill_qemu])
def kill(request: pytest.FixtureRequest) -> Kill:
    found: Kill = request.param
    return found


@pytest.fixture
def guests(host: Host, tmp_path: Path) -> tuple[CountingGuest, CountingGuest]:
    """Returns the guest that is killed, and one beside it that lives on; both run."""
    both = counting(tmp_path, "victim"), counting(tmp_path, "other")
    for guest in both:
        host.run(guest)
    return both


def starts_again(host: Host, guest: CountingGuest) -> None:
    """Checks that nothing is in the way of starting the guest from its beginning."""
    guest.console.unlink()
    host.run(guest)


def test_before_an_update(host: Host, guests: tuple[CountingGuest, CountingGuest], kill: Kill) -> None:
    victim, other = guests
    kill(host, victim)
    starts_again(host, victim)

    host.update()
    for guest in guests:
        host.restore(guest)

    for guest in guests:
        guest.assert_nothing_is_lost()
    assert other.console.exists()


@pytest.mark.parametrize("phase", ["preparing", "freezing"])
def test_in_an_update_it_cancels(
    host: Host, guests: tuple[CountingGuest, CountingGuest], kill: Kill, phase: str
) -> None:
    victim, other = guests
    witness = Witness(host)
    witness.begin()
    if phase == "freezing":
        witness.prepared()
    witness.until_ready(victim.name, other.name)

    kill(host, victim)

    assert victim.name in witness.until_cancelled()
    host.until_it_counts(other)
    other.assert_nothing_is_lost()
    starts_again(host, victim)
    witness.begin()
    witness.prepared()
    with host.luod.machine.expect_jump():
        witness.frozen()
    host.luod.start()
    host.agents.clear()
    for guest in guests:
        host.restore(guest)
        guest.assert_nothing_is_lost()


@pytest.fixture(scope="session")
def killer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_killer(tmp_path_factory.mktemp("killer"))


@pytest.mark.parametrize(
    ("victim", "first", "step"), [(AGENT, 1, 3), (AGENT, 2, 3), (AGENT, 3, 3), (QEMU, FIRST_WITH_QEMU, 1)]
)
def test_while_it_is_restored_another_attempt_restores_it(
    host: Host, tmp_path: Path, killer: str, victim: str, first: int, step: int
) -> None:
    """At each call of the agent that changes state, up to the one after which the guest may have run."""
    guest = counting(tmp_path)
    host.run(guest)
    host.update()
    before = guest.numbers()
    attempts = 0
    while True:
        call = first + attempts * step
        report = tmp_path / f"killed-{call}"
        restore_under(host, guest, [killer, AGENT, str(call), str(report), victim, "--"])
        if not report.exists() or host.sessions().get(guest.name) not in ("waiting", "retrieved"):
            break
        assert guest.numbers() == before, f"the guest ran, and was killed at {report.read_text()}"
        attempts += 1
    assert attempts >= LEAST, f"killed in {attempts} attempts only"
    if report.exists():
        # The guest may have run, so its memory and its state are no pair any more (docs/hazards.md, H12).
        assert host.luoctl_qemu("restore", guest.name).wait() != 0
    guest.assert_nothing_is_lost()


def restore_under(host: Host, guest: CountingGuest, tracer: list[str]) -> None:
    """Restores the guest under the tracer. Returns when the agent has ended, or when the guest counts."""
    python = host.luod.python()
    command = [*tracer, *python.module("luod.ctl.main", "qemu", "restore", guest.name)]
    agent = host.luod.machine.spawn(command, env=python.environment)
    before = len(guest.numbers())
    eventually(
        lambda: not host.luod.machine.signal(agent.pid, 0) or len(guest.numbers()) > before + MORE,
        describe="the agent has ended, or the guest counts",
    )
