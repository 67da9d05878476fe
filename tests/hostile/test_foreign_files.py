"""Files from a user whose close blocks delay no other user, and luod is afterwards as before.

They are TCP sockets that linger, which block the process that closes them last, and a file of a FUSE server that does
not answer: a process that closes it can neither continue nor be killed.
"""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from luod.testing import eventually
from luod.testing.host import SOCKET
from luod.testing.tools import cannot_run, for_root
from tests.daemon.host import Luod
from tests.daemon.participant import Participant, begin, prepare
from tests.hostile.figures import MIB, Client, Figures, Footprint, Times, footprint, settled
from tests.library import Vmm, start_vmm

LIST = "io.luod.Sessions.List"
ATTACKER, OTHER = 1000, 2000
LINGER = 100
"""In seconds; all asserted times are far below."""
MOST_MS = 1000.0
WAYS = [
    "a message",
    "with memory",
    "half a message",
    "behind a call",
    "out of band",
    "sockets in sockets",
    "one connection too many",
]


class Attacker:
    def __init__(self, luod: Luod, directory: str, user: int = ATTACKER) -> None:
        self._vmm: Vmm = start_vmm(luod.machine, luod.python(user), "foreign", (SOCKET,), user=user)
        self._directory = directory

    def ask(self, question: dict[str, Any]) -> str | None:
        """Returns the error of a failed call, or None."""
        answer: dict[str, Any] = self._vmm.program.ask(question, timeout=60)
        return answer.get("failed")

    def linger(self, how: str) -> None:
        assert self.ask({"linger": how, "seconds": LINGER}) is None

    def begin_messages(self, connections: int) -> None:
        assert self.ask({"half": connections}) is None

    def fuse(self, method: str) -> None:
        if (failed := self.ask({"fuse": self._directory, "method": method})) is not None:
            cannot_run(f"no FUSE in a user namespace of uid {ATTACKER}: {failed}")

    def release(self) -> None:
        assert self.ask({"release": True}) is None

    def end(self) -> None:
        self._vmm.program.kill()


@pytest.fixture
def place(luod: Luod) -> str:
    for_root("for several users in one machine")
    return prepared(luod, "/dev/attack")


def prepared(luod: Luod, directory: str) -> str:
    """Returns a directory in the machine with a /dev/fuse as udev makes it, and a place to mount."""
    root = Attacker(luod, directory, 0)
    assert root.ask({"prepare": directory}) is None
    root.end()
    return directory


def well_behaved(luod: Luod, figures: Figures, before: dict[str, Times], attack: Callable[[], None]) -> None:
    clients = {"root": Client(luod), "another user": Client(luod, OTHER)}
    for who, client in clients.items():
        before[who] = client.times(LIST, 50)
    attack()
    for who, client in clients.items():
        times = client.times(LIST, 50)
        figures.add(f"List of {who}", idle=before[who], attacked=times)
        assert max(times.ms) < MOST_MS


def as_before(luod: Luod, figures: Figures, before: Footprint) -> None:
    after = settled(luod, before)
    figures.serve(before, after)
    assert after.pid == before.pid
    assert after.memory - before.memory < 8 * MIB


@pytest.mark.parametrize("how", WAYS)
def test_a_socket_that_lingers_delays_nobody(luod: Luod, place: str, figures: Figures, how: str) -> None:
    before = footprint(luod)
    attacker = Attacker(luod, place)
    well_behaved(luod, figures, {}, lambda: attacker.linger(how))
    attacker.end()
    as_before(luod, figures, before)


def test_sockets_that_linger_again_and_again_delay_nobody(luod: Luod, place: str, figures: Figures) -> None:
    before = footprint(luod)
    attackers = [Attacker(luod, place) for _ in range(4)]

    def attack() -> None:
        for attacker in attackers:
            for how in WAYS[:4]:
                attacker.linger(how)

    well_behaved(luod, figures, {}, attack)
    for attacker in attackers:
        attacker.end()
    as_before(luod, figures, before)


def test_luod_ends_at_once_though_sockets_that_linger_were_never_accepted(luod: Luod, place: str) -> None:
    attacker = Attacker(luod, place)
    attacker.linger("behind a call")
    luod.machine.signal(luod.serve_pid(), signal.SIGSTOP)
    attacker.linger("not accepted")
    begun = time.monotonic()

    luod.stop()

    assert time.monotonic() - begun < LINGER / 2
    luod.start()
    assert Client(luod, OTHER).times(LIST, 1).ms


@pytest.mark.parametrize("method", ["io.luod.Sessions.Create", LIST])
def test_a_file_that_nobody_can_close_delays_nobody(luod: Luod, place: str, figures: Figures, method: str) -> None:
    before = footprint(luod)
    attacker = Attacker(luod, place)
    try:
        well_behaved(luod, figures, {}, lambda: attacker.fuse(method))
        # Its owner's sessions continue, and so does luod when serve is killed.
        luod.kill_serve()
        assert Client(luod, ATTACKER).times(LIST, 1).ms
        luod.stop()
        luod.start()
        assert Client(luod, OTHER).times(LIST, 1).ms
        before = footprint(luod)
    finally:
        attacker.release()
        attacker.end()
    as_before(luod, figures, before)


def test_a_user_with_files_that_nobody_can_close_passes_no_more_of_them(
    luod: Luod, place: str, figures: Figures
) -> None:
    before = footprint(luod)
    owner = Participant(luod, "vm", OTHER)
    attackers = []
    try:
        for number in range(3):
            attackers.append(Attacker(luod, prepared(luod, f"{place}/{number}")))
            attackers[-1].fuse(LIST)
        # Those of the first two are killed and do not end; that of the third is refused.
        client = start_vmm(luod.machine, luod.python(ATTACKER), "participant", (SOCKET, SOCKET), user=ATTACKER)
        numbers = itertools.count()

        def refusal() -> str | None:
            answer = client.ask("library", call="create", name=f"a{next(numbers)}", slot="s")
            return answer.get("message") if "error" in answer else None

        refused = eventually(refusal, describe="a user with files that nobody can close is refused")
        assert "cannot end because of files that uid 1000 passed" in refused
        assert client.call("sessions") is not None
        owner.vmm.call("create", name="vm-2", slot="vm-2")
    finally:
        for attacker in attackers:
            attacker.release()
            attacker.end()
    figures.line(f"a user with files that nobody can close: {refused}")
    client.program.kill()
    owner.vmm.call("release", session="vm-2")
    assert footprint(luod).pid == before.pid


def test_files_of_unfinished_messages_leave_room_for_the_connections_of_others(
    luod: Luod, place: str, figures: Figures
) -> None:
    before = footprint(luod)
    luod.machine.run(["prlimit", f"--pid={before.pid}", "--nofile=1024"])
    attackers = [Attacker(luod, place, user) for user in (ATTACKER, 3000)]
    connections = 100  # with 16 files each, which is more than the table has

    def attack() -> None:
        for attacker in attackers:
            attacker.begin_messages(connections)

    well_behaved(luod, figures, {}, attack)

    # What is received from one user is 1/16 of the table.
    held = footprint(luod).fds - before.fds
    assert held <= 2 * (connections + 1024 // 16) + 8
    other = Participant(luod, "vm", OTHER)
    other.vmm.call("release", session="vm")
    other.vmm.program.kill()
    for attacker in attackers:
        attacker.end()
    as_before(luod, figures, before)


def test_a_bystander_does_not_lengthen_a_blackout(luod: Luod, place: str, figures: Figures) -> None:
    vm = Participant(luod, "vm", OTHER)
    vetoing = Participant(luod, "other", OTHER)
    attacker = Attacker(luod, place)
    operator = begin(luod, deadline=30)
    prepare(vm, vetoing)
    generation = vm.expect("freezing")["generation"]
    vetoing.expect("freezing")

    begun = time.monotonic()
    for how in WAYS:
        attacker.linger(how)
    attacked = time.monotonic()
    vm.freeze(generation)
    vm.vote("freezing")
    vetoing.vote("freezing", "veto", "enough")
    vm.expect("cancelled")
    frozen = time.monotonic() - attacked

    operator.until("cancelled")
    attacker.end()
    figures.line(f"blackout after the attack, which took {attacked - begun:.2f} s: {frozen:.3f} s")
    assert frozen < 5
