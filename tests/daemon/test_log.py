"""One line an event, whatever a client put into it."""

from __future__ import annotations

import os

import pytest

from luod.daemon.log import Log


def test_an_event_is_a_line_of_words(capfd: pytest.CaptureFixture[str]) -> None:
    Log("serve")("created", name="vm/1", owner=1000, reason="it hung up", evil='a\nb "c" \x1b[31m ü')
    (line,) = capfd.readouterr().err.splitlines()
    clock, *words = line.split(" ", 4)
    assert clock.endswith("Z")
    assert words[:3] == ["info", "serve", "created"]
    assert words[3] == r'name=vm/1 owner=1000 reason="it hung up" evil="a\nb \"c\" \u001b[31m \u00fc"'


def test_what_is_below_the_level_is_not_written(capfd: pytest.CaptureFixture[str]) -> None:
    log = Log("serve", "warning")
    log("nothing")
    log.debug("nothing")
    log.warning("something")
    log.error("more")
    assert [line.split()[3] for line in capfd.readouterr().err.splitlines()] == ["something", "more"]


def all_levels() -> None:
    log = Log("serve", "debug")
    log.debug("a")
    log("b")
    log.warning("c")
    log.error("d")


def test_in_the_journal_a_line_begins_with_its_priority(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{stderr.st_dev}:{stderr.st_ino}")
    all_levels()
    lines = capfd.readouterr().err.splitlines()
    assert [line[:3] for line in lines] == ["<7>", "<6>", "<4>", "<3>"]
    assert [line.split()[1] for line in lines] == ["debug", "info", "warning", "error"]


def test_where_stderr_is_not_the_journal_of_the_environment_there_is_no_priority(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{stderr.st_dev}:{stderr.st_ino + 1}")
    all_levels()
    assert "<" not in capfd.readouterr().err
