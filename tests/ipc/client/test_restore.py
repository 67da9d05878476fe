"""What a workload asks for in the next kernel, step by step, with answers of any kind and no luod."""

from __future__ import annotations

from typing import Any, cast

import pytest

from luod.errors import (
    AlreadyResumed,
    Busy,
    CallFailed,
    DaemonUnreachable,
    LuodError,
    NoSuchSession,
    Refused,
    Torn,
)
from luod.ipc.client import restore
from luod.ipc.framing import Reply

ROOT, ALICE, BOB = 0, 1000, 1001


def discarded(*listed: tuple[str, int]) -> list[str]:
    """Returns what `discard("vm")` releases of the incoming sessions that luod lists, by name and owner."""
    sessions = [{"name": n, "owner": owner, "direction": "incoming", "state": "waiting"} for n, owner in listed]
    released: list[str] = []
    steps = restore.discard("vm", {})
    assert next(steps).method == "GiveUp"
    call = steps.throw(NoSuchSession(2, "luod"))
    assert call.method == "List"
    reply = Reply({"sessions": sessions})
    while True:
        try:
            call = steps.send(reply)
        except StopIteration:
            return released
        assert call.method == "Release"
        released.append((call.parameters or {})["name"])
        reply = Reply({})


def test_a_workload_has_its_session_and_what_was_written_while_frozen() -> None:
    assert discarded(("vm", ALICE), ("vm#2", ALICE), ("vm#10", ROOT), ("vm#x", ALICE), ("wm#3", ALICE)) == [
        "vm",
        "vm#2",
        "vm#10",
    ]


def test_what_another_user_named_so_is_no_part_of_it() -> None:
    """Root is shown everybody's sessions, and the newest generation is what a guest is resumed from."""
    assert discarded(("vm", ROOT), ("vm#1", ROOT), ("vm#99", BOB)) == ["vm", "vm#1"]
    assert discarded(("vm", ALICE), ("vm#1", ALICE), ("vm#99", BOB)) == ["vm", "vm#1"]


def restoring(*listed: tuple[str, str]) -> Any:
    """Returns `restore("vm")` after luod has listed these sessions, by direction and name, and its next call."""
    sessions = [{"name": n, "owner": ALICE, "direction": direction, "state": "held"} for direction, n in listed]
    steps = restore.restore("vm", {}, "/socket")
    assert next(steps).method == "List"
    return steps, steps.send(Reply({"sessions": sessions}))


def test_a_workload_of_which_nothing_came_is_not_asked_for() -> None:
    with pytest.raises(StopIteration) as ended:
        restoring()
    assert ended.value.value is None


def test_an_outgoing_session_of_an_earlier_process_is_nothing_to_restore() -> None:
    steps, call = restoring(("outgoing", "vm"))
    assert (call.method, call.parameters) == ("Retrieve", {"name": "vm"})
    with pytest.raises(StopIteration) as ended:
        steps.throw(NoSuchSession(2, "luod"))
    assert ended.value.value is None


def test_a_workload_that_was_carried_over_is_no_cold_start() -> None:
    """A VMM discards the sessions of an earlier process before a cold start: the guest would be lost."""
    steps, _call = restoring(("outgoing", "vm"), ("outgoing", "vm#1"))
    with pytest.raises(Busy):
        steps.throw(Busy("io.luod.Sessions.Busy", "carried over"))


def of_vm() -> restore.RestoredFiles[Any]:
    return restore.RestoredFiles("vm", cast(Any, None), None)


def answered(steps: Any) -> None:
    with pytest.raises(StopIteration):
        steps.send(Reply({}))


def test_h12_a_lost_answer_to_resuming_is_asked_for_once_more() -> None:
    steps = restore.resume(of_vm())
    first = next(steps)
    again = steps.throw(DaemonUnreachable("killed"))
    assert (first.method, again.method, again.parameters) == ("Resuming", "Resuming", {"names": ["vm"]})
    answered(steps)


def test_h12_when_luod_did_not_answer_it_can_be_asked_again_later() -> None:
    vm = of_vm()
    steps = restore.resume(vm)
    next(steps)
    steps.throw(DaemonUnreachable("killed"))
    with pytest.raises(DaemonUnreachable):
        steps.throw(DaemonUnreachable("killed"))
    steps = restore.resume(vm)
    assert next(steps).method == "Resuming"
    answered(steps)


def test_h12_after_luods_answer_and_while_luod_is_asked_it_is_not_asked_a_second_time() -> None:
    vm = of_vm()
    steps = restore.resume(vm)
    next(steps)
    with pytest.raises(AlreadyResumed):
        next(restore.resume(vm))
    answered(steps)
    with pytest.raises(AlreadyResumed):
        next(restore.resume(vm))


def test_h12_a_refusal_after_a_lost_answer_leaves_open_which_process_resumed_it() -> None:
    steps = restore.resume(of_vm())
    next(steps)
    steps.throw(DaemonUnreachable("killed"))
    with pytest.raises(DaemonUnreachable):
        steps.throw(CallFailed("io.luod.Updates.WrongPhase", "already"))


@pytest.mark.parametrize("error", [Busy("io.luod.TooManyConnections", "full"), Refused("its registry is newer")])
def test_h12_a_luod_that_answers_only_that_it_cannot_leaves_open_whether_the_lost_call_was_recorded(
    error: LuodError,
) -> None:
    steps = restore.resume(of_vm())
    next(steps)
    steps.throw(DaemonUnreachable("killed"))
    with pytest.raises(DaemonUnreachable):
        steps.throw(error)


@pytest.mark.parametrize("error", [Torn("torn"), NoSuchSession(2, "luod")])
def test_h12_an_answer_about_the_session_after_a_lost_one_is_raised(error: LuodError) -> None:
    steps = restore.resume(of_vm())
    next(steps)
    steps.throw(DaemonUnreachable("killed"))
    with pytest.raises(type(error)):
        steps.throw(error)


def test_h12_a_guest_that_another_process_resumed_meanwhile_is_not_started_from_the_beginning() -> None:
    steps = restore.resume(of_vm())
    next(steps)
    with pytest.raises(AlreadyResumed) as caught:
        steps.throw(CallFailed("io.luod.Updates.WrongPhase", "already"))
    assert "end this one" in caught.value.hint
