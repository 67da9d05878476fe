"""The one state of luod: its transitions are those of the table in docs/updates.md, and each is logged."""

from __future__ import annotations

from pathlib import Path

import pytest

from luod.daemon.log import Log
from luod.daemon.run_state import TRANSITIONS, Run, RunState

PAGE = Path(__file__).parents[2] / "docs/updates.md"
TO_A_STATE = ("checking", "starting", "preparing", "prepared", "freezing", "frozen", "jumping", "cancelling")


def in_state(state: str) -> Run:
    """Returns the run state, after the transitions that lead to it."""
    run = Run(Log("serve", "debug"))
    for step in TO_A_STATE[: TO_A_STATE.index(state) + 1] if state != "idle" else ():
        run.enter(RunState(step))
    return run


def test_the_table_has_the_transitions_of_the_code() -> None:
    table = PAGE.read_text().partition("| state | next | when |\n|---|---|---|\n")[2].partition("\n\n")[0]
    listed = [tuple(row.strip("| ").split(" | ")[:2]) for row in table.splitlines()]
    assert len(listed) == len(set(listed))
    assert set(listed) == {(state.value, after.value) for state, afters in TRANSITIONS.items() for after in afters}


def test_a_transition_that_is_not_there_changes_nothing() -> None:
    run = in_state("idle")
    with pytest.raises(ValueError, match="from idle to jumping there is no transition"):
        run.enter(RunState.JUMPING)
    assert run.state is RunState.IDLE


def test_each_transition_is_one_line_in_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    run = in_state("prepared")
    run.enter(RunState.FREEZING, update="9f2c01ab", after_seconds="1.000")
    lines = [line.split(" ", 2)[1:] for line in capfd.readouterr().err.splitlines()]
    assert [line[1].split()[1] for line in lines] == ["checking", "starting", "preparing", "prepared", "freezing"]
    assert lines[-1] == ["info", "serve freezing update=9f2c01ab after_seconds=1.000"]


@pytest.mark.parametrize(
    ("state", "busy", "updating", "told", "changes"),
    [
        ("idle", False, False, "idle", "all"),
        ("checking", True, False, "idle", "all"),
        ("starting", True, True, "preparing", "all"),
        ("preparing", True, True, "preparing", "all"),
        ("prepared", True, True, "preparing", "frozen"),
        ("freezing", True, True, "freezing", "frozen"),
        ("frozen", True, True, "freezing", "none"),
        ("jumping", True, True, "jumping", "none"),
        ("cancelling", True, True, "idle", "none"),
    ],
)
def test_what_a_state_means_for_others(state: str, busy: bool, updating: bool, told: str, changes: str) -> None:
    run = in_state(state)
    assert (run.busy, run.updating, run.told) == (busy, updating, told)
    assert (run.may_change(), run.may_change(frozen=True)) == (changes == "all", changes != "none")


def test_a_serve_that_follows_one_that_called_reboot_begins_in_jumping() -> None:
    run = Run(Log("serve", "error"), jumping=True)
    changes: list[RunState] = []
    run.watchers.append(lambda: changes.append(run.state))
    run.enter(RunState.CANCELLING)
    run.enter(RunState.IDLE)
    assert changes == [RunState.CANCELLING, RunState.IDLE]
