"""One line an event, whatever a client put into it."""

from __future__ import annotations

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
