"""After the jump: what may be resumed, how often (H12), and by whom. And whose an update's sessions are."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from luod.testing import eventually
from luod.testing.tools import for_root
from tests.daemon.host import Luod, states
from tests.daemon.participant import UPDATES, Participant, begin, file, jump_with, prepare, start
from tests.library import Error, Vmm

ALICE, BOB = 1000, 1001


def carried(luod: Luod, user: int | None = None, *options: str) -> Participant:
    """Returns a participant after an update, where luod has these options."""
    one = Participant(luod, "one", user)
    begin(luod)
    prepare(one)
    one.expect("freezing")
    one.freeze(1)
    with luod.machine.expect_jump():
        one.vote("freezing")
    luod.start(*options)
    return one


def restored(luod: Luod) -> Vmm:
    """Returns a VMM that has retrieved all preserved sessions and files."""
    vmm = start(luod)
    for name in ("one", "one#1"):
        vmm.call("retrieve_session", name=name, slot=name)
        vmm.call("retrieve", session=name, file=1, slot=f"file {name}")
    return vmm


def resuming(vmm: Vmm, *names: str) -> None:
    vmm.call("method", method=UPDATES + "Resuming", parameters={"names": list(names)})


def refused(vmm: Vmm, method: str, **parameters: Any) -> Error:
    return vmm.refused("method", method=UPDATES + method, parameters=parameters)


def test_before_resuming_a_vmm_that_died_is_followed_by_one_that_tries_again(luod: Luod) -> None:
    one = carried(luod)
    for _ in range(2):
        vmm = restored(luod)
        assert vmm.ask("digest", fd="file one") == one.digest
        vmm.program.kill()


def test_who_asked_before_it_resumed_and_is_answered_after_gets_nothing(luod: Luod, tmp_path: Path) -> None:
    (tmp_path / "luod.toml").write_text("restore-deadline = 1000\n")
    carried(luod, None, "--config", str(tmp_path / "luod.toml"))
    first, second, supervisor, serve = start(luod), start(luod), luod.supervisor_pid, luod.serve_pid()
    first.call("retrieve_session", name="one", slot="s")
    luod.machine.signal(supervisor, signal.SIGSTOP)
    call = {"call": "retrieve_session", "name": "one", "slot": "s"}
    known = luod.sockets(serve)
    question = second.program.send({"do": "library", "in": [], **call})
    # With the call it then waits for the supervisor to know whose the session is now.
    eventually(lambda: luod.sockets(serve) - known, describe="serve has the connection")
    for _ in range(3):
        assert states(first)["incoming one"] == "retrieved"
    resuming(first, "one")
    luod.machine.signal(supervisor, signal.SIGCONT)
    answer = second.program.answer(question)["ok"]
    assert answer.get("error") == "AlreadyResumed", answer


def test_after_resuming_there_is_no_second_try(luod: Luod) -> None:
    carried(luod)
    vmm = restored(luod)
    resuming(vmm, "one")
    vmm.program.kill()
    luod.kill_serve()
    again = start(luod)
    assert states(again) == {"incoming one": "resumed", "incoming one#1": "resumed"}
    for name in ("one", "one#1"):
        assert again.refused("retrieve_session", name=name, slot="s").kind == "AlreadyResumed"
    assert luod.status()["retrieved"] == 2
    for name in ("one", "one#1"):
        again.call("release_named", name=name, direction="incoming")
    assert luod.status()["state"] == "idle"


def test_who_resumed_finishes_as_ever(luod: Luod) -> None:
    carried(luod)
    vmm = restored(luod)
    resuming(vmm, "one")
    for name in ("one#1", "one"):
        vmm.call("finish", session=name)
    assert states(vmm) == {}


def test_resuming_what_cannot_be_changes_nothing(luod: Luod) -> None:
    carried(luod)
    vmm = start(luod)
    assert refused(vmm, "Resuming", names=["one"]).kind == "Refused"
    vmm.call("retrieve_session", name="one", slot="s")
    assert "no incoming session 'none'" in refused(vmm, "Resuming", names=["one", "none"]).message
    assert states(vmm) == {"incoming one": "retrieved", "incoming one#1": "waiting"}
    resuming(vmm, "one")
    assert "already" in refused(start(luod), "Resuming", names=["one"]).message


def test_the_process_that_resumed_it_and_got_no_answer_asks_again(luod: Luod) -> None:
    carried(luod)
    vmm = restored(luod)
    for kill in (luod.kill_serve, luod.kill_serve, luod.kill_both):
        resuming(vmm, "one")
        kill()
    luod.start()
    resuming(vmm, "one")
    child = vmm.fork_vmm("child")
    assert "already" in refused(child, "Resuming", names=["one"]).message
    assert "already" in refused(vmm, "Resuming", names=["one", "none"]).message
    assert states(vmm) == {"incoming one": "resumed", "incoming one#1": "resumed"}


def test_a_process_that_retrieved_it_and_one_that_resumed_it_are_told_apart(luod: Luod) -> None:
    carried(luod)
    vmm = restored(luod)
    later = restored(luod)
    resuming(vmm, "one")
    assert "already" in refused(later, "Resuming", names=["one"]).message
    resuming(vmm, "one")


def test_an_update_waits_for_what_is_torn_to_be_released(luod: Luod) -> None:
    one = Participant(luod, "one")
    luod.load()
    with luod.machine.expect_jump():
        one.vmm.ask("library", call="jump")
    luod.start()
    vmm = start(luod)
    assert refused(vmm, "Resuming", names=["one"]).kind == "Torn"
    assert "is torn" in luod.luoctl_json("show", "one")["note"]
    luod.load()
    assert luod.luoctl("update", check=False).returncode == 4
    vmm.call("release_named", name="one", direction="incoming")
    luod.force_update()


def test_what_a_participant_may_declare(luod: Luod) -> None:
    one, two = Participant(luod, "one"), Participant(luod, "two")

    def declare(secret: str, *sessions: dict[str, Any]) -> Error:
        return refused(one.vmm, "Declare", participant=secret, sessions=list(sessions))

    held: dict[str, Any] = {"name": "one", "files": []}
    assert "no outgoing session" in declare(one.secret, {"name": "three", "files": []}).message
    assert "another participant" in declare(one.secret, {"name": "two", "files": []}).message
    assert "twice" in declare(one.secret, held, held).message
    for wrong in (file(-1), file(1, size=-1), file(2**64), file(1, size=2**63)):
        assert declare(one.secret, {"name": "one", "files": [wrong]}).kind in ("Refused", "CallFailed")
    assert "participant" in declare("", held).message
    assert one.refused_vote("preparing").kind == "CallFailed"
    two.vmm.call("hang_up", slot="follow")
    assert "participant" in refused(two.vmm, "Declare", participant=two.secret, sessions=[]).message
    one.declare(sessions=[held, {"name": "two", "files": []}])


def test_a_participant_needs_a_name(luod: Luod) -> None:
    vmm = start(luod)
    for name in ("", "a" * 64, "a b", "\x1b"):
        vmm.call("more", slot="follow", method=UPDATES + "Follow", parameters={"name": name})
        assert vmm.refused("next", slot="follow").kind == "Refused"


def test_nobody_speaks_for_another_user(luod: Luod) -> None:
    for_root("for several users in one machine")
    one = Participant(luod, "one", ALICE)
    stranger = start(luod, BOB)
    for method, parameters in (
        ("Declare", {"sessions": []}),
        ("Vote", {"phase": "preparing", "vote": "veto", "reason": None}),
    ):
        assert "participant" in refused(stranger, method, participant=one.secret, **parameters).message
    mine = Participant(luod, "mine", BOB)
    hers = refused(mine.vmm, "Declare", participant=mine.secret, sessions=[{"name": "one", "files": []}])
    nobodys = refused(mine.vmm, "Declare", participant=mine.secret, sessions=[{"name": "two", "files": []}])
    assert hers.message.replace("one", "two") == nobodys.message
    # Nor takes a name that another's update will need.
    assert mine.vmm.refused("create", name="one#1", slot="x").kind == "BadInput"
    begin(luod)
    one.expect("preparing")
    # While it freezes, names of a participant's are that user's to create.
    assert mine.expect("preparing")
    one.vote("preparing")
    mine.vote("preparing")
    one.expect("freezing")
    assert mine.vmm.refused("create", name="one#1", slot="x").kind == "BadInput"
    one.freeze(1)
    mine.expect("freezing")
    jump_with(luod, one, mine)
    stranger = start(luod, BOB)
    assert refused(stranger, "Resuming", names=["one"]).kind == "NoSuchSession"
    assert states(stranger) == {"incoming mine": "waiting"}


@pytest.mark.parametrize("when", ["preparing", "freezing"])
def test_who_begins_to_follow_while_others_prepare_is_asked_too(luod: Luod, when: str) -> None:
    one = Participant(luod, "one")
    begin(luod)
    one.expect("preparing")
    if when == "preparing":
        late = Participant(luod, "late", declare=False)
        late.expect("preparing")
        one.vote("preparing")
        late.declare()
        late.vote("preparing")
        one.expect("freezing")
        late.expect("freezing")
        late.vote("freezing")
    else:
        one.vote("preparing")
        one.expect("freezing")
        vmm = start(luod)
        vmm.call("more", slot="follow", method=UPDATES + "Follow", parameters={"name": "late"})
        assert vmm.call("next", slot="follow")["state"] == "freezing"
    jump_with(luod, one)
    expected = {"incoming one": "waiting"} | ({"incoming late": "waiting"} if when == "preparing" else {})
    assert states(start(luod)) == expected
