"""The page of a rehearsal: one file without scripts, that says what the report says."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from luod.fleet import page
from luod.fleet.ansible import Recap
from luod.fleet.outcome import Report, Seen, judge, stopped_at
from luod.ipc.types.admin import SessionTimes, UpdateTimes

OPEN_ENDED = {"meta"}


class Reader(HTMLParser):
    """Collects the text, the classes and the styles, and checks that elements are nested."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.styles: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.styles += [value for name, value in attrs if name == "style" and value]
        if tag not in OPEN_ENDED:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def report(name: str = "b") -> Report:
    sessions = tuple(SessionTimes(f"guest-{n}", 0, 4096, "ready", blackout=n / 2) for n in (1, 2, 3))
    told = UpdateTimes(
        "9f2c01ab",
        1,
        False,
        1000.0,
        "done",
        freezing=1.0,
        jumping=1.5,
        arrived=3.0,
        ended=4.0,
        blackout=1.5,
        sessions=sessions,
    )
    failed = Recap(1, True, "<b>guest-1</b> vetoes")
    hosts = (
        judge("a", Seen(2, 0, 0, timeline=told, findings=("no-watchdog",)), Recap(2, False)),
        judge(name, Seen(1, 0, 0, findings=("no-watchdog", "no-panic")), failed, "veto"),
        judge("c", Seen(1, 0, 0), None),
    )
    return Report(990.0, 40.0, "update.yml", 2, hosts, stopped_at(hosts))


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    return reader


def test_it_is_one_file_without_scripts_and_without_anything_from_elsewhere() -> None:
    text = page.html(report())
    assert read(text).tags.isdisjoint({"script", "link", "img", "iframe", "object"})
    assert not re.search(r"https?:|url\(|@import", text)
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text


def test_it_says_what_became_of_hosts_and_why() -> None:
    words = " ".join(read(page.html(report())).words)
    for part in (
        "Rehearsal of update.yml",
        "and stopped at b",
        "blackout 1.5 s",
        "fault: veto; <b>guest-1</b> vetoes",
        "Blackouts of 3 guests",
        "no-watchdog",
    ):
        assert part in words


def test_each_phase_is_where_it_was_in_the_roll_out() -> None:
    styles = read(page.html(report())).styles
    bars = [re.findall(r"left: ([0-9.]+)%; width: ([0-9.]+)%; .*--(\w+)", style) for style in styles]
    found = [(phase, float(left), float(width)) for ((left, width, phase),) in filter(None, bars)]
    # The update was asked for 10 s after the beginning of 40 s.
    assert found == [
        ("preparing", 25.0, 2.5),
        ("freezing", 27.5, 1.25),
        ("jumping", 28.75, 3.75),
        ("restoring", 32.5, 2.5),
    ]


def test_names_from_outside_are_text() -> None:
    text = page.html(report('<script>alert("x")</script>\x1b'))
    assert "script" not in read(text).tags
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("blackouts", "expected"),
    [
        ([2.1], [("2 s to 2.5 s", 1)]),
        (
            [0.1, 0.12, 0.31],
            [("100 ms to 200 ms", 2), ("200 ms to 300 ms", 0), ("300 ms to 400 ms", 1)],
        ),
    ],
)
def test_blackouts_are_counted_in_round_steps(blackouts: list[float], expected: list[tuple[str, int]]) -> None:
    assert page.groups(blackouts) == expected
