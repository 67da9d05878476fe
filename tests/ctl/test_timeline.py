"""`luoctl timeline`: what it makes of what luod tells. With a real luod:
tests/daemon/timeline/test_timeline_machine.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import pytest

from luod.ctl.timeline import duration
from tests.impostor import Answer, Impostor, reply

SESSION: Final[dict[str, Any]] = {
    "name": "vm-1",
    "owner": 1000,
    "bytes": 4096,
    "standing": "ready",
    "reason": None,
    "prepared": 0.5,
    "frozen": 1.5,
    "retrieved": 4.25,
    "resumed": 4.5,
    "gone": 5.5,
    "outcome": "finished",
    "blackout": 3.5,
}
NEVER: Final = dict.fromkeys(("prepared", "frozen", "retrieved", "resumed", "outcome", "blackout"))
LOST: Final = {**SESSION, **NEVER, "name": "vm-2", "standing": "torn", "outcome": "given_up"}
TOLD: Final[dict[str, Any]] = {
    "update": "9f2c01ab",
    "generation": 7,
    "skip_unready": True,
    "asked": 1795434757.25,
    "state": "done",
    "reason": None,
    "freezing": 1.0,
    "jumping": 2.0,
    "arrived": 4.0,
    "ended": 5.5,
    "now": None,
    "clock": "tsc",
    "error": 0.0000021,
    "blackout": 3.5,
    "sessions": [SESSION, LOST],
}


def luoctl(folder: Path, told: Any, *arguments: str) -> subprocess.CompletedProcess[str]:
    with Impostor(folder, Answer(reply({"timeline": told}))) as impostor:
        command = [sys.executable, "-m", "luod.ctl.main", "--admin-socket", impostor.path, "--socket", impostor.path]
        return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)


def shown(folder: Path, told: Any) -> list[str]:
    done = luoctl(folder, told, "timeline")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def bars(lines: list[str]) -> dict[str, str]:
    """Returns the bars by the session's name."""
    return {line.split()[0]: line.split()[1] for line in lines if line.startswith("vm-")}


def test_the_phases_in_words_and_a_bar_a_session_with_the_blackout_in_capitals(tmp_path: Path) -> None:
    lines = shown(tmp_path, TOLD)
    assert lines[:6] == [
        "update 9f2c01ab, generation 7, of 2026-11-23 11:52:37 UTC: done, --skip-unready",
        "  preparing  1 s",
        "  freezing   1 s",
        "  jumping    2 s, measured with the processor's counter, ±2.1 µs",
        "  restoring  1.5 s",
        "  blackout   3.5 s at most, of vm-1",
    ]
    assert bars(lines)["vm-1"] == "p" * 13 + "F" * 14 + "J" * 26 + "R" * 7
    assert lines[9].endswith("torn, given up")


def test_a_short_phase_is_seen_too(tmp_path: Path) -> None:
    moments = {"freezing": 0.001, "jumping": 0.002, "arrived": 100.0}
    bar = bars(shown(tmp_path, {**TOLD, **moments, "sessions": [{**SESSION, "resumed": 100.001}]}))["vm-1"]
    assert (len(bar), bar[:2], bar[-1], set(bar[2:-1])) == (60, "pF", "R", {"J"})


def test_one_guest_runs_while_another_is_awaited(tmp_path: Path) -> None:
    waits = {**SESSION, **NEVER, "gone": None, "name": "vm-2"}
    told = {**TOLD, "state": "restoring", "ended": None, "now": 10.0, "sessions": [SESSION, waits]}
    lines = shown(tmp_path, told)
    assert bars(lines)["vm-1"].endswith("R....." + "." * 28)
    assert bars(lines)["vm-2"].endswith("R")
    assert any(line.endswith("not resumed yet") for line in lines)
    assert "  blackout   3.5 s at most, of vm-1, not over of vm-2" in lines


def test_who_takes_no_part_has_no_blackout_that_luod_knows_of(tmp_path: Path) -> None:
    other = {**SESSION, **NEVER, "standing": "unasked"}
    assert bars(shown(tmp_path, {**TOLD, "sessions": [other]}))["vm-1"].islower()


def test_the_wall_clocks_error_is_shown(tmp_path: Path) -> None:
    lines = shown(tmp_path, {**TOLD, "clock": "wall", "error": 1.0})
    assert "  jumping    2 s, measured with the wall clock, ±1 s" in lines


def test_a_cancelled_update_says_why(tmp_path: Path) -> None:
    times = {"jumping": None, "arrived": None, "clock": None, "error": None, "ended": 1.5}
    session = {**SESSION, "standing": "vetoed", "reason": "\x1b no", "frozen": None, "blackout": 0.5}
    session |= {"retrieved": None, "resumed": None, "gone": None, "outcome": None}
    told = {**TOLD, **times, "state": "cancelled", "reason": "vm-1 vetoes: \x1b no", "sessions": [session]}
    lines = shown(tmp_path, told)
    assert lines[1] == "  reason     vm-1 vetoes: \\x1b no"
    assert [line.split()[0] for line in lines[2:4]] == ["preparing", "freezing"]
    assert bars(lines)["vm-1"] == "p" * 40 + "F" * 20
    assert lines[-3].endswith("500 ms, vetoed: \\x1b no")


def test_where_nobody_froze_there_was_no_blackout(tmp_path: Path) -> None:
    times = {"freezing": None, "jumping": None, "arrived": None, "clock": None, "error": None}
    session = {**SESSION, **NEVER, "gone": None, "frozen": None, "blackout": None, "outcome": None}
    told = {**TOLD, **times, "blackout": None, "sessions": [session]}
    for state in ({"state": "preparing", "ended": None, "now": 1.0}, {"state": "cancelled"}):
        assert shown(tmp_path, {**told, **state})[-3].endswith("p  none")


def test_as_json(tmp_path: Path) -> None:
    told = json.loads(luoctl(tmp_path, TOLD, "--json", "timeline").stdout)
    assert told["version"] == 1
    assert told["timeline"]["sessions"][0] == {
        "name": "vm-1",
        "owner": 1000,
        "bytes": 4096,
        "standing": "ready",
        "reason": None,
        "prepared": 0.5,
        "frozen": 1.5,
        "retrieved": 4.25,
        "resumed": 4.5,
        "gone": 5.5,
        "outcome": "finished",
        "blackout": 3.5,
    }
    assert (told["timeline"]["arrived"], told["timeline"]["error"]) == (4.0, 0.0000021)


SVG: Final = "{http://www.w3.org/2000/svg}"


def test_a_picture_with_a_bar_a_session_and_its_blackout_framed(tmp_path: Path) -> None:
    evil = {**SESSION, "name": '</text><b>&"\x1b\udcff'}
    path = tmp_path / "update.svg"
    path.write_text("the one of before")
    done = luoctl(tmp_path, {**TOLD, "sessions": [evil, LOST], "reason": "<&\x00>"}, "timeline", "--svg", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
    first, second = root.findall(f"{SVG}g")
    kinds = [rect.get("class") for rect in first.findall(f"{SVG}rect")]
    assert kinds == ["preparing", "freezing", "jumping", "restoring", "blackout"]
    *bars, frame = ((float(r.get("x", "")), float(r.get("width", ""))) for r in first.findall(f"{SVG}rect"))
    assert sum(width for _, width in bars) == pytest.approx(810 - 190, abs=0.1)
    assert frame == pytest.approx((bars[1][0], sum(width for _, width in bars[1:])), abs=0.1)
    assert "".join(first.itertext()).strip().startswith('</text><b>&"\\x1b\\udcff: preparing 1 s, freezing 1 s')
    assert "torn" in "".join(second.itertext())
    assert path.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in tmp_path.iterdir() if entry.suffix != ".sock"] == ["update.svg"]


def test_no_update_is_no_picture(tmp_path: Path) -> None:
    assert luoctl(tmp_path, None, "timeline", "--svg", str(tmp_path / "update.svg")).returncode == 0
    assert not (tmp_path / "update.svg").exists()


@pytest.mark.parametrize("member", ["update", "asked", "sessions", "freezing"])
def test_what_is_no_timeline_is_said(tmp_path: Path, member: str) -> None:
    done = luoctl(tmp_path, {**TOLD, member: {}}, "--json", "timeline")
    assert (done.returncode, json.loads(done.stdout)["error"]) == (1, "ProtocolError")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0 s"),
        (2e-7, "under 1 µs"),
        (0.0000021, "2.1 µs"),
        (0.0123, "12.3 ms"),
        (0.9996, "1 s"),
        (2.614, "2.61 s"),
        (59.96, "60 s"),
        (63.0, "1 min 3 s"),
        (119.9, "2 min 0 s"),
        (7500.0, "2 h 5 min"),
    ],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
