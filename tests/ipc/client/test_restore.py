"""What a workload asks for in the next kernel, step by step, with answers of any kind and no luod."""

from __future__ import annotations

from luod.errors import NoSuchSession
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
