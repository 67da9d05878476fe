"""The lines of `luoctl update` where no terminal is."""

from __future__ import annotations

import pytest

from luod.ctl.admin import Participant, Progress
from luod.ctl.output import Output
from luod.ctl.progress import view


def participant(id: int, *sessions: str) -> Participant:
    return Participant(id, f"name-{id}", 1000, 1, sessions, 0, "lost", "it did not vote in time", 1.0)


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
