"""An update as one transaction, with real processes that take part in it."""

from __future__ import annotations

import os
import signal

from luod.testing import Machine, eventually, require_tool
from tests.daemon.host import Luod, states, until_traced
from tests.daemon.participant import UPDATES, Operator, Participant, begin, file, jump_with, prepare, start

BOB = 1001


def resumable(luod: Luod, name: str, digest: str) -> None:
    vmm = start(luod)
    vmm.call("retrieve_session", name=name, slot="s")
    vmm.call("retrieve", session="s", file=1, slot="file")
    assert vmm.ask("digest", fd="file") == digest


def test_everybody_is_ready_and_everything_is_carried(luod: Luod) -> None:
    one, two = Participant(luod, "one"), Participant(luod, "two")
    begin(luod)
    for participant in (one, two):
        event = participant.expect("preparing")
        assert (event["state"], event["generation"]) == ("preparing", 1)
        assert 0 < event["deadline"] <= 31
        participant.vote("preparing")
    digests = {}
    for participant in (one, two):
        participant.expect("freezing")
        digests[participant.name] = participant.freeze(1)
    jump_with(luod, one, two)
    assert luod.status()["state"] == "restoring"
    for participant in (one, two):
        resumable(luod, participant.name, participant.digest)
        resumable(luod, f"{participant.name}#1", digests[participant.name])


def test_the_operator_sees_who_is_awaited_and_how_it_goes_on(luod: Luod) -> None:
    one, two = Participant(luod, "one"), Participant(luod, "two")
    operator = begin(luod, deadline=60)
    first = operator.until("preparing")
    while not first["participants"]:
        first = operator.until("preparing")
    assert {entry["name"]: entry["standing"] for entry in first["participants"]} == {"one": "awaited", "two": "awaited"}
    assert first["participants"][0]["sessions"] == ["one"]
    assert 0 < first["seconds_left"] <= 60
    prepare(one)
    (entry,) = operator.until("preparing")["participants"]
    assert (entry["name"], entry["standing"]) == ("one", "ready")
    two.expect("preparing")
    two.vote("preparing", "veto", "a backup is running")
    last = operator.until("cancelled")
    assert last["reason"] == "two vetoes: a backup is running"
    assert operator.next() is None


def test_a_veto_cancels_everybody_resumes_and_a_later_update_works(luod: Luod) -> None:
    """Also H14: what was written while frozen is closed, and longer state of the next update finds room."""
    one, two = Participant(luod, "one"), Participant(luod, "two")
    operator = begin(luod)
    prepare(one, two)
    one.expect("freezing")
    one.freeze(1)
    one.vote("freezing")
    two.expect("freezing")
    assert states(one.vmm)["outgoing one#1"] == "held"
    two.vote("freezing", "veto", "a device would not stop")
    for participant in (one, two):
        event = participant.expect("cancelled")
        assert event["reason"] == "two vetoes: a device would not stop"
    assert operator.until("cancelled")["state"] == "cancelled"
    assert set(states(one.vmm)) == {"outgoing one", "outgoing two"}
    assert luod.status()["state"] == "idle"
    one.vmm.ask("close", fd="state 1")

    operator.update()
    for participant in (one, two):
        assert participant.expect("preparing")["generation"] == 2
        participant.vote("preparing")
    for participant in (one, two):
        participant.expect("freezing")
        participant.freeze(2)
    jump_with(luod, one, two)
    assert set(states(start(luod)).values()) == {"waiting"}
    assert len(states(start(luod))) == 4


def test_silence_past_the_deadline_is_a_veto(luod: Luod) -> None:
    one = Participant(luod, "one")
    operator = begin(luod, deadline=0.2)
    assert operator.until("cancelled")["reason"] == "no vote in preparing in time from one"
    one.expect("preparing", "cancelled")
    assert one.refused_vote("preparing").kind == "CallFailed"


def test_force_goes_on_without_the_late_and_says_whom_it_loses(luod: Luod) -> None:
    good, late = Participant(luod, "good"), Participant(luod, "late")
    operator = begin(luod, deadline=0.5, skip_unready=True)
    prepare(good)
    assert late.expect("preparing", "lost")["reason"] == "it did not vote in time"
    good.expect("freezing")
    with luod.machine.expect_jump():
        assert operator.until("freezing")["torn"] == ["late"]
        good.vote("freezing")
    luod.start()
    vmm = start(luod)
    assert states(vmm) == {"incoming good": "waiting", "incoming late": "torn"}
    assert vmm.refused("retrieve_session", name="late", slot="s").kind == "Torn"
    resumable(luod, "good", good.digest)
    vmm.call("release_named", name="late", direction="incoming")
    assert states(vmm) == {"incoming good": "retrieved"}


def test_the_death_of_a_participant_cancels(luod: Luod) -> None:
    one, two = Participant(luod, "one"), Participant(luod, "two")
    operator = begin(luod)
    prepare(one, two)
    one.expect("freezing")
    one.vote("freezing")
    one.vmm.program.kill()
    assert operator.until("cancelled")["reason"] == "one is gone"
    two.expect("freezing", "cancelled")
    # Its session is still there without a participant: no update begins that would tear it.
    operator.update()
    refused = operator.refused()
    assert refused.kind == "Refused"
    assert "one" in refused.message


def test_a_late_call_for_a_cancelled_update_does_not_count_for_the_next(luod: Luod) -> None:
    one = Participant(luod, "one")
    operator = begin(luod)
    one.expect("preparing")
    operator.abort()
    operator.until("cancelled")
    operator.update()
    one.expect("cancelled", "preparing")
    ballot = {"participant": one.secret, "phase": "preparing", "reason": "late"}
    declaration = {"participant": one.secret, "sessions": []}
    for method, late in (("Vote", {**ballot, "vote": "veto"}), ("Declare", declaration)):
        refused = one.vmm.refused("method", method=UPDATES + method, parameters={**late, "generation": 1})
        assert refused.message == "update 1 is over"
    one.vmm.call("method", method=UPDATES + "Vote", parameters={**ballot, "vote": "ready", "generation": 2})
    one.expect("freezing")
    jump_with(luod, one)
    resumable(luod, "one", one.digest)


def test_force_gives_up_what_nobody_follows_for(luod: Luod) -> None:
    one, two = Participant(luod, "one"), Participant(luod, "two")
    two.vmm.program.kill()
    operator = begin(luod)
    assert operator.refused().message == "participant-missing: declared sessions have no participant: two"
    operator.update(dry_run=True, skip_unready=True)
    assert operator.until("checked")["torn"] == ["two"]
    operator.update(skip_unready=True)
    prepare(one)
    one.expect("freezing")
    jump_with(luod, one)
    assert states(start(luod)) == {"incoming one": "waiting", "incoming two": "torn"}


def test_one_that_was_started_again_takes_its_session_over(luod: Luod) -> None:
    one = Participant(luod, "one")
    one.vmm.program.kill()
    again = Participant.__new__(Participant)
    again.name, again.vmm = "one", start(luod)
    again.follow()
    again.declare()
    begin(luod)
    prepare(again)
    again.expect("freezing")
    jump_with(luod, again)
    resumable(luod, "one", one.digest)


def test_abort_and_who_may_not(luod: Luod) -> None:
    one = Participant(luod, "one")
    luod.load()
    operator, other = Operator(luod), Operator(luod)
    assert other.refused_abort().kind == "CallFailed"
    operator.update()
    one.expect("preparing")
    second = Operator(luod)
    second.update()
    assert "an update is running" in second.refused().message
    other.abort()
    assert one.expect("cancelled")["reason"] == "the operator aborted it"
    assert operator.until("cancelled")["reason"] == "the operator aborted it"
    second.update()
    one.expect("preparing")


def test_an_operator_who_hangs_up_cancels(luod: Luod) -> None:
    one = Participant(luod, "one")
    operator = begin(luod)
    one.expect("preparing")
    operator.vmm.call("hang_up", slot="update")
    assert "closed" in one.expect("cancelled")["reason"]


def test_preserving_is_granted_to_one_at_a_time(luod: Luod) -> None:
    """H2."""
    one, two = Participant(luod, "one"), Participant(luod, "two")
    operator = begin(luod, deadline=50)
    for participant in (one, two):
        participant.expect("preparing")
        left = participant.declare(file(1), file(2, size=200 << 20, allocated=200 << 20, when="preparing"))
        assert left is not None
        assert left > 51
    assert two.refused_vote("preparing").kind == "CallFailed"
    one.expect("granted")
    one.vmm.memfd("more", seed=7)
    one.vmm.call("preserve", session="one", file="more", token=2)
    standings: dict[str, str] = {}
    while standings.get("two") != "granted":
        progress = operator.until("preparing")
        standings |= {entry["name"]: entry["standing"] for entry in progress["participants"]}
        assert list(standings.values()).count("granted") <= 1
        if standings.get("one") == "granted":
            one.vote("preparing")
            standings["one"] = "voting"
    two.expect("granted")
    two.vote("preparing")
    one.expect("freezing")


def test_preserving_is_granted_when_one_of_a_cancelled_update_has_ended_to_preserve(luod: Luod) -> None:
    """H2. The ioctl of the one runs on when its update is cancelled."""
    one, two = Participant(luod, "one"), Participant(luod, "two")
    operator = begin(luod)
    one.expect("preparing")
    one.declare(file(1), file(2, when="preparing"))
    one.expect("granted")
    Operator(luod).abort()
    two.expect("preparing", "cancelled")
    operator.until("cancelled")
    operator.update()
    two.expect("preparing")
    two.declare(file(1), file(2, when="preparing"))
    one.expect("cancelled", "preparing")
    one.vote("preparing")
    standings: dict[str, str] = {}
    while standings.get("two") != "granted":
        progress = operator.until("preparing")
        standings |= {entry["name"]: entry["standing"] for entry in progress["participants"]}
    assert standings["one"] == "ready"
    two.expect("granted")


def test_what_memory_does_not_allow_cancels_before_anybody_is_killed(luod: Luod) -> None:
    """H1, H2: a memfd full of holes, which PRESERVE would fill."""
    one = Participant(luod, "one")
    operator = begin(luod)
    one.expect("preparing")
    one.declare(file(1), file(2, size=1 << 50, allocated=0, when="preparing"))
    reason = operator.until("cancelled")["reason"]
    assert "PRESERVE for one" in reason
    one.expect("cancelled")
    one.declare()
    operator.update()
    one.expect("preparing")
    one.declare(file(1), file(2, size=1 << 50, allocated=0, when="freezing"))
    one.vote("preparing")
    one.expect("cancelled")


def test_force_leaves_behind_for_whom_memory_is_short(luod: Luod) -> None:
    """They take no memory, so the others have what they need."""
    one, two, three, four = (Participant(luod, name) for name in ("one", "two", "three", "four"))
    operator = begin(luod, skip_unready=True)
    two.expect("preparing")
    two.declare(file(1), file(2, size=1 << 50, allocated=0, when="preparing"))
    assert "PRESERVE for two" in two.expect("lost")["reason"]
    three.expect("preparing")
    three.declare(file(1), file(2, size=1 << 50, allocated=0, when="freezing"))
    four.expect("preparing")
    four.declare(file(1), file(2, when="preparing"))
    four.expect("granted")
    for participant in (three, four):
        participant.vote("preparing")
    prepare(one)
    assert "PRESERVE for three" in three.expect("lost")["reason"]
    one.expect("freezing")
    four.expect("freezing")
    assert operator.until("freezing")["torn"] == ["two", "three"]
    jump_with(luod, one, four)
    carried = {"incoming one": "waiting", "incoming four": "waiting"}
    assert states(start(luod)) == carried | {"incoming two": "torn", "incoming three": "torn"}


def test_what_fits_alone_and_not_together_is_left_behind_from_the_first_that_does_not(luod: Luod) -> None:
    participants = [Participant(luod, name) for name in ("one", "two")]
    free = "from pathlib import Path; from luod import memory; print(memory.free(Path('/'), 1).available)"
    python = luod.python()
    size = int(luod.machine.run([python.executable, "-c", free], env=python.environment, forked=True).text) * 6 // 10
    begin(luod, skip_unready=True)
    for participant in participants:
        participant.expect("preparing")
        participant.declare(file(1), file(2, size=size, allocated=0, when="freezing"))
        participant.vote("preparing")
    participants[0].expect("freezing")
    assert "two and those before it" in participants[1].expect("lost")["reason"]


def test_a_dry_run_asks_nobody(luod: Luod) -> None:
    one = Participant(luod, "one")
    operator = Operator(luod)
    operator.update(dry_run=True)
    assert operator.refused().kind == "NoImageLoaded"
    luod.load()
    operator.update(dry_run=True)
    checked = operator.until("checked")
    assert [entry["name"] for entry in checked["participants"]] == ["one"]
    assert luod.status()["generation"] == 0
    operator.update()
    assert one.expect("preparing")["generation"] == 1


def test_what_is_made_while_it_prepares_and_not_declared_is_not_carried_as_if_whole(luod: Luod) -> None:
    """The check before the update could not see it, and its guest runs."""
    one, stranger = Participant(luod, "one"), start(luod)
    operator = begin(luod)
    one.expect("preparing")
    stranger.call("create", name="early", slot="early")
    one.vote("preparing")
    assert (
        "contents-undeclared: sessions without a participant: contents not declared: early"
        in (one.expect("cancelled")["reason"])
    )
    operator.until("cancelled")


def test_who_follows_without_a_session_cannot_stop_an_update(luod: Luod) -> None:
    one, idle = Participant(luod, "one"), start(luod, BOB)
    idle.call("more", slot="follow", method=UPDATES + "Follow", parameters={"name": "idle"})
    secret = idle.call("next", slot="follow")["participant"]
    begin(luod, deadline=1)
    assert idle.call("next", slot="follow")["event"] == "preparing"
    ballot = {"participant": secret, "phase": "preparing", "vote": "veto", "reason": "no"}
    assert "declared no session" in idle.refused("method", method=UPDATES + "Vote", parameters=ballot).message
    prepare(one)
    # Silent past the deadline it is not waited for, and while guests are frozen it is not asked.
    one.expect("freezing")
    assert idle.call("next", slot="follow")["event"] == "lost"
    with luod.machine.expect_jump():
        one.vote("freezing")


def test_while_it_freezes_only_participants_create_and_only_what_is_theirs(luod: Luod) -> None:
    one = Participant(luod, "one")
    stranger = start(luod)
    operator = begin(luod, findings=["contents-undeclared"])
    one.expect("preparing")
    stranger.call("create", name="early", slot="early")
    one.vote("preparing")
    one.expect("freezing")
    for name, kind in {
        "late": "Busy",
        "one#": "Busy",
        "one#2": "WrongPhase",
        "early#1": "WrongPhase",
    }.items():
        assert one.vmm.refused("create", name=name, slot="x").kind == kind, name
    one.vmm.call("create", name="one#1", slot="one#1")
    operator.abort()
    one.expect("cancelled")
    stranger.call("create", name="late", slot="late")


def test_a_session_that_is_being_made_when_it_is_cancelled_is_closed_too(luod: Luod) -> None:
    one, two = Participant(luod, "one"), Participant(luod, "two")
    stranger = start(luod)
    operator = begin(luod)
    prepare(one, two)
    two.expect("freezing")
    stranger.ask("open", path="/dev/liveupdate", flags=os.O_RDWR, slot="device")
    call = {"do": "library", "in": [], "call": "create", "name": "one#1", "slot": "made"}
    serve = luod.serve_pid()
    known = luod.sockets(serve)
    question = one.vmm.program.send(call)
    # A call that came after the end would be about any other session.
    eventually(lambda: luod.sockets(serve) - known, describe="serve has the call")
    two.vote("freezing", "veto")
    stranger.ask("close", fd="device")
    one.vmm.program.answer(question)
    two.expect("cancelled")
    operator.until("cancelled")
    assert set(states(two.vmm)) == {"outgoing one", "outgoing two"}
    assert luod.status()["state"] == "idle"


def test_a_jump_behind_luods_back_tears_what_was_declared(luod: Luod, machine: Machine) -> None:
    """H13. A session that never had a participant is not judged: luod cannot know when it is complete."""
    one = Participant(luod, "one")
    plain = luod.vmm()
    plain.call("create", name="plain", slot="s")
    luod.load()
    with machine.expect_jump():
        one.vmm.ask("library", call="jump")
    luod.start()
    vmm = start(luod)
    assert states(vmm) == {"incoming one": "torn", "incoming plain": "waiting"}
    assert vmm.refused("retrieve_session", name="one", slot="s").kind == "Torn"
    assert luod.status()["torn"] == 1


def test_after_a_cancelled_update_a_jump_behind_luods_back_tears(luod: Luod, machine: Machine) -> None:
    """H13: that it was ready once says nothing about now."""
    one = Participant(luod, "one")
    two = Participant(luod, "two")
    begin(luod)
    prepare(one, two)
    one.expect("freezing")
    one.vote("freezing")
    two.expect("freezing")
    two.vote("freezing", "veto")
    one.expect("cancelled")
    luod.load()
    with machine.expect_jump():
        one.vmm.ask("library", call="jump")
    luod.start()
    assert set(states(start(luod)).values()) == {"torn"}


def test_what_is_withdrawn_is_judged_no_more(luod: Luod, machine: Machine) -> None:
    one = Participant(luod, "one")
    one.declare(sessions=[])
    luod.load()
    with machine.expect_jump():
        one.vmm.ask("library", call="jump")
    luod.start()
    assert states(start(luod)) == {"incoming one": "waiting"}


def test_a_disk_that_hangs_cancels_the_update_and_everybody_resumes(luod: Luod) -> None:
    """Guests are frozen while the registry is written to it."""
    one = Participant(luod, "one")
    operator = begin(luod)
    strace, serve = require_tool("strace", package="strace"), luod.serve_pid()
    hang = ["-e", "trace=fsync", "-e", "inject=fsync:delay_enter=8s", "-p", str(serve)]
    tracer = luod.machine.spawn([strace, "-f", "-qq", *hang])
    until_traced(luod, serve)
    prepare(one)
    one.expect("freezing")
    one.freeze(1)
    one.vote("freezing")
    assert "the write of luod's registry" in one.expect("jumping", "cancelled")["reason"]
    assert "the write of luod's registry" in operator.until("cancelled")["reason"]
    luod.machine.signal(tracer.pid, signal.SIGTERM)
    tracer.wait()
    begin(luod)
    prepare(one)
    one.expect("freezing")
    jump_with(luod, one)
