"""`luoctl status --nagios`: the line and the exit status that a monitoring system reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from luod.ctl.nagios import Level, judge
from luod.frozen import replace
from luod.ipc.types.admin import Problem, Stuck
from luod.version import __version__
from tests.ctl.test_luoctl import STATUS as ANSWER
from tests.ctl.test_luoctl import asked, luoctl
from tests.ctl.test_metrics import STATUS
from tests.impostor import Answer, Impostor, reply

WELL = replace(
    STATUS,
    version=__version__,
    state="idle",
    waiting=0,
    retrieved=0,
    stuck=[],
    restore_seconds_left=None,
    policy_error=None,
    state_directory=[],
)


def test_a_luod_without_a_problem_is_ok() -> None:
    expected = "LUOD OK - idle, 4 sessions | sessions=4 participants=5 waiting=0 retrieved=0 torn=0"
    assert judge(WELL) == (Level.OK, expected)


@pytest.mark.parametrize(
    ("members", "level", "words"),
    [
        ({"state": "broken"}, Level.CRITICAL, "broken"),
        ({"torn": 2}, Level.CRITICAL, "2 torn sessions"),
        ({"stuck": [Stuck("vm", "it hung")]}, Level.CRITICAL, "1 session that the reaper could not discard"),
        ({"state_directory": [Problem("/s", "it is full", "")]}, Level.CRITICAL, "/s: it is full"),
        ({"registry": [Problem("", "it is damaged", "")]}, Level.CRITICAL, "- it is damaged"),
        ({"policy_error": "a|b"}, Level.CRITICAL, "not in force: a/b"),
        ({"waiting": 1, "restore_seconds_left": 7.5}, Level.WARNING, "not restored yet, discarded in 8 s"),
        ({"held_files": 1}, Level.WARNING, "1 stashed file"),
        ({"version": "0.0"}, Level.WARNING, "luod 0.0 runs"),
    ],
)
def test_each_problem_has_its_level_and_is_named(members: dict[str, Any], level: Level, words: str) -> None:
    found, text = judge(replace(WELL, **members))
    assert found == level
    assert words in text
    assert text.count("|") == 1
    assert "\n" not in text


def test_the_worst_reason_decides_and_comes_first() -> None:
    level, text = judge(replace(WELL, held_files=1, torn=1))
    assert level == Level.CRITICAL
    assert text.startswith("LUOD CRITICAL - 1 torn session")
    assert "stashed" in text


def test_luoctl_ends_with_the_level(tmp_path: Path) -> None:
    with Impostor(tmp_path, Answer(reply(ANSWER))) as impostor:
        result = asked(impostor, "status", "--nagios")
    assert (result.returncode, result.stderr) == (2, "")
    assert result.stdout.startswith("LUOD CRITICAL - 4 torn sessions")


def test_a_luod_that_is_gone_is_critical_and_an_answer_that_is_not_of_luod_is_unknown(tmp_path: Path) -> None:
    gone = luoctl("--admin-socket", "/nowhere", "status", "--nagios")
    assert (gone.returncode, gone.stdout) == (2, "LUOD CRITICAL - there is no luod at /nowhere\n")
    with Impostor(tmp_path, Answer(b"oops\0")) as impostor:
        assert asked(impostor, "status", "--nagios").returncode == 3


def test_json_is_another_form() -> None:
    result = luoctl("--json", "status", "--nagios")
    assert result.returncode == 2
    assert "cannot be combined" in result.stdout
