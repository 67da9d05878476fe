"""An update out of a bad kernel: unclaimed incoming sessions are preserved again."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from luod.testing import eventually
from luod.testing.plugin import BootMachine
from tests.daemon.host import Luod, refuse_next_fork, states
from tests.daemon.participant import Operator, Participant, begin, jump_with, prepare, preserve_device
from tests.devices import boot
from tests.library import Vmm


@pytest.fixture
def arrived(luod: Luod) -> dict[str, str]:
    """Preserves the sessions "vm" of two files, "vm#1" and "other" of one over a kexec. Returns their digests."""
    one = Participant(luod, "vm")
    digests = {"ram": one.vmm.memfd("more", size=1 << 20, seed=77), "1": one.digest}
    one.vmm.call("preserve", session="vm", file="more", token=2**64 - 1, name="ram")
    one.vmm.call("create", name="other", slot="other")
    one.vmm.memfd("others")
    one.vmm.call("preserve", session="other", file="others", token=1)
    operator = begin(luod, findings=["contents-undeclared"])
    operator.until("preparing")
    prepare(one)
    one.expect("freezing")
    digests["state"] = one.freeze(1)
    jump_with(luod, one)
    return digests


def is_whole(vmm: Vmm, digests: dict[str, str]) -> None:
    vmm.call("retrieve_session", name="vm", slot="s")
    for file, digest in (("ram", digests["ram"]), (1, digests["1"])):
        vmm.call("retrieve", session="s", file=file, slot=f"file {file}")
        assert vmm.ask("digest", fd=f"file {file}") == digest
    assert [(entry["token"], entry["name"]) for entry in vmm.call("contents", session="s")] == [
        (1, None),
        (2**64 - 1, "ram"),
    ]


def test_back_to_the_old_kernel_with_everything_nobody_claimed(luod: Luod, arrived: dict[str, str]) -> None:
    """From kernel A to B, without a claim there, and back to A: the VMM finds its memory."""
    answers = luod.answers("carry-over", "--all")
    assert {answer["session"]: answer["status"] for answer in answers} == {"vm": 0, "other": 0}
    watcher = luod.vmm()
    assert set(states(watcher)) == {"outgoing vm", "outgoing vm#1", "outgoing other"}
    assert watcher.refused("retrieve_session", name="vm", slot="s").kind == "Busy"
    assert luod.status()["state"] == "idle"
    luod.kill_serve()
    luod.jump()

    vmm = luod.vmm()
    assert states(vmm) == {"incoming vm": "waiting", "incoming vm#1": "waiting", "incoming other": "waiting"}
    is_whole(vmm, arrived)
    vmm.call("retrieve_session", name="vm#1", slot="frozen")
    vmm.call("retrieve", session="frozen", file=1, slot="state")
    assert vmm.ask("digest", fd="state") == arrived["state"]
    for slot in ("s", "frozen"):
        vmm.call("finish", session=slot)
    assert states(vmm) == {"incoming other": "waiting"}


def test_what_is_forwarded_lives_through_an_update_that_is_cancelled(luod: Luod, arrived: dict[str, str]) -> None:
    """H14 is about what is frozen for an update that did not happen; this is of another."""
    luod.answers("carry-over", "--all")
    one = Participant(luod, "one")
    operator = begin(luod)
    operator.until("preparing")
    one.expect("preparing")
    one.vote("preparing", "veto")
    operator.until("cancelled")
    assert states(luod.vmm())["outgoing vm#1"] == "held"


def test_what_somebody_has_is_theirs_to_carry_on(luod: Luod, arrived: dict[str, str]) -> None:
    vmm = luod.vmm()
    vmm.call("retrieve_session", name="vm", slot="s")
    (answer,) = luod.answers("carry-over", "vm")
    assert (answer["status"], answer["error"]) == (4, "Refused")
    assert states(vmm)["incoming vm"] == "retrieved"
    vmm.program.kill()
    eventually(
        lambda: luod.answers("carry-over", "vm")[0]["status"] != 4,
        describe="it is carried over",
    )
    luod.luoctl("discard", "other")
    luod.jump()
    is_whole(luod.vmm(), arrived)


def test_what_nobody_could_make_anew_is_refused_and_stays(luod: Luod) -> None:
    vmm = luod.vmm()
    vmm.call("create", name="unknown", slot="s", manifest=False)
    digest = vmm.memfd("ram", seed=3)
    vmm.call("preserve", session="s", file="ram", token=1)
    luod.jump()
    vmm = luod.vmm()
    vmm.call("create", name="unknown", slot="new")
    (answer,) = luod.answers("carry-over", "unknown")
    assert answer["error"] == "SessionExists"
    vmm.call("release", session="new")
    (answer,) = luod.answers("carry-over", "unknown")
    assert (answer["status"], answer["error"]) == (4, "NotCarriedOver")
    assert "no manifest" in answer["message"]
    assert luod.answers("carry-over", "none")[0]["error"] == "NoSuchSession"
    vmm.call("retrieve_session", name="unknown", slot="s")
    vmm.call("retrieve", session="s", file=1, slot="ram", check_memory=False)
    assert vmm.ask("digest", fd="ram") == digest


def test_nothing_is_forwarded_while_an_update_prepares(luod: Luod, arrived: dict[str, str]) -> None:
    """The abort would wait for it, for minutes."""
    one = Participant(luod, "one")
    operator = begin(luod, findings=["incoming-unfinished"])
    one.expect("preparing")
    (answer,) = luod.answers("carry-over", "other")
    assert (answer["status"], answer["error"]) == (4, "Busy")
    operator.abort()
    one.expect("cancelled")
    assert luod.answers("carry-over", "other")[0]["status"] == 0


def test_a_carry_over_is_completed_after_its_operator_left_and_its_vmm_gets_no_part(
    luod: Luod, arrived: dict[str, str]
) -> None:
    """H12: the carrier preserves memory as complete on which a guest would run."""
    watcher, vmm = luod.vmm(), luod.vmm()
    supervisor, serve = luod.supervisor_pid, luod.serve_pid()
    before = luod.sockets(serve)
    luod.machine.signal(supervisor, signal.SIGSTOP)  # which is asked for the first session first
    work = luod.machine.spawn(luod.python().module("luod.ctl.main", "carry-over", "vm"), env=luod.python().environment)
    eventually(lambda: states(watcher)["incoming vm#1"] == "carrying_over", describe="it is being carried over")

    work.kill()
    eventually(lambda: luod.sockets(serve) <= before, describe="serve has seen that luoctl ended")
    question = {"do": "library", "in": [], "call": "retrieve_session", "name": "vm#1", "slot": "s"}
    asked = vmm.program.send(question)
    luod.machine.signal(supervisor, signal.SIGCONT)

    assert vmm.program.answer(asked)["ok"]["error"] == "Busy"
    left = {"outgoing vm": "held", "outgoing vm#1": "held", "incoming other": "waiting"}
    eventually(lambda: states(watcher) == left, describe="all of the workload is carried over")


def test_no_update_begins_while_something_is_forwarded(luod: Luod, arrived: dict[str, str]) -> None:
    luod.load()
    watcher, supervisor = luod.vmm(), luod.supervisor_pid
    luod.machine.signal(supervisor, signal.SIGSTOP)  # which is asked for the session first
    work = luod.machine.spawn(
        luod.python().module("luod.ctl.main", "carry-over", "other"), env=luod.python().environment
    )
    eventually(lambda: states(watcher)["incoming other"] == "carrying_over", describe="it is being carried over")
    operator = Operator(luod)
    operator.update(findings=["incoming-unfinished"])
    assert "sessions are being carried over: other" in operator.refused().message
    luod.machine.signal(supervisor, signal.SIGCONT)
    assert work.wait() == 0
    assert states(watcher)["outgoing other"] == "held"


def test_a_carrier_that_cannot_be_started_is_told_and_the_session_can_be_carried_over_again(
    luod: Luod, arrived: dict[str, str]
) -> None:
    tracer = refuse_next_fork(luod)
    (answer,) = luod.answers("carry-over", "other")
    assert answer["error"] == "CarryOverFailed"
    assert "its carrier could not be started" in answer["message"]
    assert luod.answers("carry-over", "other")[0]["status"] == 0
    tracer.kill()


def test_a_device_is_refused(boot_machine: BootMachine, tmp_path: Path) -> None:
    luod = Luod(boot(boot_machine), tmp_path / "state")
    luod.start()
    preserve_device(luod)
    luod.jump()
    (answer,) = luod.answers("carry-over", "vm")
    assert (answer["status"], answer["error"]) == (4, "NotCarriedOver")
    assert "holds a vfio under token 2" in answer["message"]
    assert luod.luoctl("discard", "vm").returncode == 0
