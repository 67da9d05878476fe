"""An update that is cancelled, in each phase: the guest goes on in the same QEMU, and a later update carries it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from luod.testing import eventually
from tests.agents.qemu.carried.host import Host, Witness, counting
from tests.agents.qemu.guests import CountingGuest
from tests.daemon.participant import started_jump


@pytest.fixture
def guest(tmp_path: Path) -> CountingGuest:
    return counting(tmp_path)


def goes_on(host: Host, guest: CountingGuest, pid: int, witness: Witness) -> None:
    """Checks that the guest runs in the same QEMU, and that the next update carries it."""
    host.until_it_counts(guest)
    assert host.qemu_pid(guest) == pid
    assert host.sessions() == {"vm": "held", "witness": "held"}
    guest.assert_nothing_is_lost()
    witness.begin()
    witness.prepared()
    with host.luod.machine.expect_jump():
        witness.frozen()
    host.agents.clear()
    host.luod.start()
    host.restore(guest)
    guest.assert_nothing_is_lost()


def test_while_the_others_prepare(host: Host, guest: CountingGuest) -> None:
    host.run(guest)
    pid = host.qemu_pid(guest)
    witness = Witness(host)
    witness.begin()
    witness.until_ready(guest.name)
    host.until_it_counts(guest)  # also with its memory preserved

    witness.veto("preparing")

    goes_on(host, guest, pid, witness)


def test_while_the_others_freeze(host: Host, guest: CountingGuest) -> None:
    host.run(guest)
    pid = host.qemu_pid(guest)
    witness = Witness(host)
    witness.begin()
    witness.prepared()
    witness.until_ready(guest.name)
    paused = guest.numbers()
    assert host.luod.status()["state"] == "freezing"
    assert host.sessions()[f"vm#{witness.generation}"] == "held"
    assert guest.numbers() == paused, "it ran while it was frozen"

    witness.veto("freezing")

    goes_on(host, guest, pid, witness)


def test_when_the_kexec_does_not_happen(host: Host, guest: CountingGuest) -> None:
    host.run(guest)
    pid = host.qemu_pid(guest)
    witness = Witness(host)
    witness.begin()
    witness.prepared()
    jump = started_jump(host.luod)
    host.luod.machine.signal(jump, signal.SIGSTOP)
    witness.frozen()
    witness.participant.expect("jumping")
    host.luod.machine.signal(jump, signal.SIGKILL)
    witness.until_cancelled()

    goes_on(host, guest, pid, witness)


def test_when_both_processes_of_luod_die(host: Host, guest: CountingGuest) -> None:
    """While it freezes: the guest goes on without luod, and follows the next one."""
    host.run(guest)
    pid = host.qemu_pid(guest)
    witness = Witness(host)
    witness.begin()
    witness.prepared()
    witness.until_ready(guest.name)

    host.luod.kill_both()

    host.until_it_counts(guest)
    host.luod.start()
    eventually(lambda: host.luod.status()["participants"] == 1, describe="the guest follows luod again")
    assert host.qemu_pid(guest) == pid
    guest.assert_nothing_is_lost()


def test_three_times_in_a_row_and_then_carried(host: Host, guest: CountingGuest) -> None:
    """The state of a cancelled update is closed: a longer one finds room in the next."""
    host.run(guest)
    pid = host.qemu_pid(guest)
    witness = Witness(host)
    for _ in range(3):
        witness.begin()
        witness.prepared()
        witness.until_ready(guest.name)
        witness.veto("freezing")
        host.until_it_counts(guest)

    goes_on(host, guest, pid, witness)
