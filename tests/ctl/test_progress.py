"""The lines of `luoctl update` where no terminal is."""

from __future__ import annotations

import pytest

from luod.ctl.output import Output
from luod.ctl.progress import view
from luod.ipc.types.admin import Finding, Participant, Progress


def participant(id: int, *sessions: str) -> Participant:
    return Participant(id, f"name-{id}", 1000, 1, list(sessions), 0, "lost", "it did not vote in time", 1.0)


def test_many_participants_without_a_session_are_counted_and_those_with_one_are_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Anybody may follow: an operator must find the line that counts."""
    participants = (*(participant(id) for id in range(100)), participant(100, "vm"))
    with view(Output(json=False)) as shown:
        shown.show(Progress("preparing", participants=participants))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 10
    assert any("name-100 lost: it did not vote in time" in line for line in lines)
    assert any("and 95 more participants without a session lost" in line for line in lines)


@pytest.mark.parametrize(("forced", "last"), [(False, "the update would be refused"), (True, "checked")])
def test_a_dry_run_ends_with_whether_the_update_would_be_refused(
    capsys: pytest.CaptureFixture[str], forced: bool, last: str
) -> None:
    finding = Finding("luo-missing", "refusal", "the kernel has no LUO", "all would be lost", "load another", forced)
    with view(Output(json=False)) as shown:
        shown.show(Progress("checked", findings=(finding,), participants=(participant(1, "vm"),), seconds_left=30.0))
    assert capsys.readouterr().out.splitlines()[-1].endswith(f" s  {last}: 1 participant")


def test_with_json_the_reason_of_a_cancelled_update_is_also_a_line_for_people(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with view(Output(json=True)) as shown:
        shown.show(Progress("preparing"))
        shown.show(Progress("cancelled", reason="vm-1 vetoes: a backup\nis running"))
    assert capsys.readouterr().err == "luoctl: cancelled: vm-1 vetoes: a backup\\nis running\n"


def test_a_detached_update_ends_with_the_command_that_waits_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    with view(Output(json=False)) as shown:
        shown.show(Progress("preparing", update="3e66d47f"))
        shown.show(Progress("prepared", update="3e66d47f"))
    assert "`luoctl wait --update 3e66d47f` waits" in capsys.readouterr().out.splitlines()[-1]
