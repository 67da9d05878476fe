"""A VMM's part in updates with either surface of the library, on a machine, jumps and killed luods included."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from luod.testing import Machine
from luod.testing.host import SOCKET
from luod.testing.waiting import eventually
from tests.daemon.host import Luod, states, until_followed
from tests.daemon.participant import Operator, begin, started_jump
from tests.library import Vmm, start_vmm

Start = Callable[[], Vmm]


def guest(luod: Luod, surface: str) -> Vmm:
    return start_vmm(luod.machine, luod.python(), "guest", (surface, SOCKET))


@pytest.fixture(params=["blocking", "asyncio"])
def start(request: pytest.FixtureRequest, luod: Luod) -> Start:
    return lambda: guest(luod, request.param)


def with_memory(vmm: Vmm) -> str:
    """Makes a session "vm" with memory in it, and returns the digest."""
    vmm.call("create", name="vm", slot="s")
    digest = vmm.memfd("ram", size=1 << 20, seed=1)
    vmm.call("preserve", session="s", file="ram", name="ram")
    return digest


def expect(vmm: Vmm, *kinds: str) -> None:
    assert [vmm.call("next")["kind"] for _ in kinds] == list(kinds)


def freeze(vmm: Vmm, seed: int) -> str:
    vmm.call("create_frozen", slot="frozen")
    digest = vmm.memfd(f"state {seed}", seed=seed)
    vmm.call("preserve", session="frozen", file=f"state {seed}", token=1, name="state")
    return digest


def test_a_veto_by_exception_then_an_update_and_the_other_side_of_it(luod: Luod, start: Start) -> None:
    vmm = start()
    ram = with_memory(vmm)
    vmm.call("participate", name="vm", sessions=["s"])
    operator = begin(luod)
    expect(vmm, "preparing")
    assert vmm.call("with_phase") is None
    expect(vmm, "freezing")
    freeze(vmm, 2)
    assert vmm.call("with_phase", vote=None, error="the device would not stop") is None
    phase = vmm.call("next")
    assert (phase["kind"], phase["reason"]) == ("cancelled", "vm vetoes: OSError: the device would not stop")
    assert vmm.call("closed", session="frozen")
    assert vmm.call("with_phase") == "the device would not stop"
    assert operator.until("cancelled")["reason"] == phase["reason"]
    assert states(vmm) == {"outgoing vm": "held"}

    operator.update()
    phase = vmm.call("next")
    assert (phase["kind"], phase["generation"]) == ("preparing", 2)
    assert 0 < phase["left"] <= 31
    assert vmm.call("ready")
    expect(vmm, "freezing")
    state = freeze(vmm, 3)
    with luod.machine.expect_jump():
        vmm.call("ready")
    luod.start()

    vmm = start()
    assert vmm.call("restore", name="vm") == {"generation": 2, "names": ["state", "ram"]}
    vmm.call("retrieve_restored", name="ram", slot="ram")
    assert vmm.ask("digest", fd="ram") == ram
    assert vmm.refused("retrieve_restored", name="nothing", slot="n").kind == "BadInput"
    vmm.call("resume")
    assert vmm.refused("resume").kind == "AlreadyResumed"
    assert vmm.refused("finish_restored").kind == "NotRetrieved"
    vmm.call("retrieve_restored", name="state", slot="state")
    assert vmm.ask("digest", fd="state") == state
    vmm.call("finish_restored")
    vmm.call("finish_restored")
    assert states(vmm) == {}
    assert luod.status()["state"] == "idle"


def test_what_arrived_is_kept_when_luod_is_gone_before_the_rest(luod: Luod, start: Start) -> None:
    """It is the last fd of its session then."""
    vmm = start()
    ram = with_memory(vmm)
    vmm.call("participate", name="vm", sessions=["s"])
    begin(luod)
    expect(vmm, "preparing")
    assert vmm.call("ready")
    expect(vmm, "freezing")
    state = freeze(vmm, 2)
    with luod.machine.expect_jump():
        vmm.call("ready")
    luod.start()

    first, vmm, supervisor = start(), start(), luod.supervisor_pid
    first.call("retrieve_session", name="vm", slot="s")
    first.program.kill()
    # Who is asked for the other session.
    luod.machine.signal(supervisor, signal.SIGSTOP)
    assert vmm.refused("restore", name="vm", timeout=1.0).kind == "DaemonUnreachable"
    luod.kill_both()
    luod.stop()
    luod.start()
    assert vmm.call("restore", name="vm") == {"generation": 1, "names": ["state", "ram"]}
    for name, digest in (("ram", ram), ("state", state)):
        vmm.call("retrieve_restored", name=name, slot=name)
        assert vmm.ask("digest", fd=name) == digest
    vmm.call("resume")
    vmm.call("finish_restored")
    assert states(vmm) == {}


def test_a_workload_that_was_not_ready_is_discarded(luod: Luod, start: Start) -> None:
    vmm = start()
    with_memory(vmm)
    vmm.call("participate", name="vm", sessions=["s"])
    vmm.program.kill()
    luod.load()
    with luod.machine.expect_jump():
        luod.luoctl("update", "--skip-unready")
    luod.start()
    vmm = start()
    error = vmm.refused("restore", name="vm")
    assert (error.kind, "client.discard('vm')" in error.hint) == ("Torn", True)
    assert vmm.call("discard", name="vm") == ["vm"]
    assert vmm.call("restore", name="vm") is None


def test_an_update_that_is_over_when_the_guest_is_paused_is_no_failure_of_the_guest(luod: Luod, start: Start) -> None:
    vmm = start()
    with_memory(vmm)
    vmm.call("participate", name="vm", sessions=["s"])
    operator = begin(luod)
    expect(vmm, "preparing")
    vmm.call("with_phase")
    expect(vmm, "freezing")
    operator.abort()
    assert vmm.call("with_phase", create=True) is None
    phase = vmm.call("next")
    assert (phase["kind"], phase["reason"]) == ("cancelled", "the operator aborted it")
    assert states(vmm) == {"outgoing vm": "held"}


def test_a_luod_killed_while_the_guest_is_frozen_is_followed_again(luod: Luod, start: Start) -> None:
    vmm = start()
    with_memory(vmm)
    vmm.call("participate", name="vm", sessions=["s"])
    begin(luod)
    expect(vmm, "preparing")
    assert vmm.call("ready")
    expect(vmm, "freezing")
    freeze(vmm, 2)
    luod.kill_serve()
    phase = vmm.call("next")
    assert (phase["kind"], phase["reason"]) == ("cancelled", "the connection to luod broke")
    assert vmm.call("closed", session="frozen")
    # It follows, and has declared, when it is asked for what comes next.
    question = vmm.program.send({"do": "library", "in": [], "call": "next"})
    until_followed(luod, 1)
    Operator(luod).update()
    assert vmm.program.answer(question)["ok"]["value"]["kind"] == "preparing"
    assert vmm.call("ready")
    expect(vmm, "freezing")
    with luod.machine.expect_jump():
        vmm.call("ready")
    luod.start()
    assert start().call("restore", name="vm") == {"generation": None, "names": ["ram"]}


def test_a_guest_goes_on_when_all_of_luod_was_killed_after_jumping(luod: Luod, start: Start) -> None:
    """A participant that follows the next luod gets no event of that update."""
    vmm = start()
    with_memory(vmm)
    vmm.call("participate", name="vm", sessions=["s"])
    begin(luod)
    expect(vmm, "preparing")
    vmm.call("with_phase")
    expect(vmm, "freezing")
    freeze(vmm, 2)
    jump = started_jump(luod)
    luod.machine.signal(jump, signal.SIGSTOP)
    vmm.call("with_phase")
    expect(vmm, "jumping")
    luod.kill_both()
    luod.machine.signal(jump, signal.SIGKILL)
    luod.start()
    expect(vmm, "cancelled")


def test_what_is_planned_is_granted_first(luod: Luod, start: Start) -> None:
    vmm = start()
    with_memory(vmm)
    planned = [{"session": "vm", "size": 8192, "when": "preparing"}, {"session": "vm", "size": 4096}]
    vmm.call("participate", name="vm", sessions=["s"], planned=planned)
    begin(luod)
    expect(vmm, "preparing")
    vmm.call("with_phase")
    expect(vmm, "granted")
    vmm.call("with_phase")
    expect(vmm, "freezing")
    assert vmm.call("veto", reason="enough")
    expect(vmm, "cancelled")
    assert vmm.refused("ready").kind == "BadInput"


def test_callbacks_are_called_and_what_they_raise_is_a_veto_and_comes_out(luod: Luod, start: Start) -> None:
    vmm = start()
    with_memory(vmm)
    vmm.call("participate", name="vm", sessions=["s"])
    operator = begin(luod)
    called = vmm.call("run", fail_in="freezing")
    assert called == ["freezing", "cancelled", "raised: no freezing today"]
    assert operator.until("cancelled")["reason"] == "vm vetoes: OSError: no freezing today"
    assert luod.status()["participants"] == 0


def test_a_block_without_a_vote_is_a_veto_that_says_so(luod: Luod, start: Start) -> None:
    vmm = start()
    with_memory(vmm)
    vmm.call("participate", name="vm", sessions=["s"])
    operator = begin(luod)
    expect(vmm, "preparing")
    assert vmm.call("with_phase", vote=None) is None
    phase = vmm.call("next")
    assert (phase["kind"], phase["reason"]) == ("cancelled", "vm vetoes: the workload left the phase without a vote")
    assert vmm.call("with_phase") is None
    assert operator.until("cancelled")["reason"] == phase["reason"]


def test_an_error_after_a_vote_is_a_veto_of_what_comes_next_and_is_raised_at_the_end(luod: Luod, start: Start) -> None:
    vmm = start()
    with_memory(vmm)
    vmm.call("participate", name="vm", sessions=["s"])
    begin(luod)
    expect(vmm, "preparing")
    assert vmm.call("with_phase", error="a slip") is None
    # The guest is not paused for it: freezing is not handed out.
    phase = vmm.call("next")
    assert (phase["kind"], phase["reason"]) == ("cancelled", "vm vetoes: OSError: a slip")
    assert vmm.call("leave") == "a slip"
    assert vmm.call("leave") is None
    assert luod.status()["participants"] == 0


def test_next_waits_no_longer_than_it_is_told_to(luod: Luod, start: Start) -> None:
    vmm = start()
    with_memory(vmm)
    vmm.call("participate", name="vm", sessions=["s"])
    assert vmm.call("within", seconds=0.0) is None
    luod.kill_serve()
    # It follows the luod that was started again, though no call waits for anything.
    eventually(lambda: vmm.call("within", seconds=0.0) is None and luod.status()["participants"], describe="it follows")
    operator = begin(luod)
    eventually(lambda: vmm.call("within", seconds=0.0) == "preparing", describe="it is told")
    operator.abort()
    expect(vmm, "cancelled")


def test_a_forked_child_is_no_participant(luod: Luod) -> None:
    vmm = guest(luod, "blocking")
    with_memory(vmm)
    vmm.call("participate", name="vm", sessions=["s"])
    assert not vmm.call("child_has_the_connection")
    assert luod.status()["participants"] == 1
    assert vmm.call("within", seconds=0.0) is None


def test_a_luod_that_comes_later_is_waited_for(machine: Machine, tmp_path: Path) -> None:
    luod = Luod(machine, state_directory=tmp_path / "state")
    python = luod.python()
    code = f"import luod\nwith luod.Client({SOCKET!r}, patience=60) as client: print(client.sessions(), flush=True)"
    program = machine.spawn([python.executable, "-c", code], env=python.environment)
    luod.start()
    assert program.wait() == 0, program.stderr
