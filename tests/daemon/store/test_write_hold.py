"""Writes to the state directory wait while guests are paused, and then each file is written once, as it is then."""

from __future__ import annotations

from luod.daemon.store.write_hold import WriteHold


def test_without_a_hold_nothing_waits() -> None:
    written: list[str] = []
    hold = WriteHold()

    assert not hold.waits("registry", lambda: written.append("late"))

    hold.end()
    assert written == []


def test_each_file_is_written_once_at_the_end() -> None:
    written: list[str] = []
    hold = WriteHold()
    hold.begin()

    assert hold.waits("registry", lambda: written.append("first"))
    assert hold.waits("timeline", lambda: written.append("timeline"))
    assert hold.waits("registry", lambda: written.append("last"))
    assert written == []
    hold.end()
    hold.end()

    assert sorted(written) == ["last", "timeline"]
    assert not hold.holds


def test_a_write_at_the_end_does_not_wait() -> None:
    hold = WriteHold()
    hold.begin()
    waited: list[bool] = []
    hold.waits("registry", lambda: waited.append(hold.waits("registry", lambda: None)))

    hold.end()

    assert waited == [False]


def test_a_write_is_made_at_once_without_a_hold_and_otherwise_at_its_end() -> None:
    written: list[str] = []
    hold = WriteHold()

    hold.write("policy", lambda: written.append("now"))
    hold.begin()
    hold.write("policy", lambda: written.append("late"))

    assert written == ["now"]
    hold.end()
    assert written == ["now", "late"]


def test_a_dropped_write_is_not_made() -> None:
    written: list[str] = []
    hold = WriteHold()
    hold.begin()
    hold.write("policy", lambda: written.append("policy"))

    hold.drop("policy")
    hold.end()

    assert written == []


def test_the_reason_of_a_hold_is_told_until_its_end() -> None:
    hold = WriteHold()
    hold.begin()
    assert hold.why == ""

    hold.begin("the disk hangs")

    assert hold.why == "the disk hangs"
    hold.end()
    assert hold.why == ""
