"""One line an event, whatever a client put into it."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from luod.daemon import journald
from luod.daemon.log import Log

ROOT: Final = Path(__file__).parents[2]


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


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Yields the journal's socket."""
    monkeypatch.setattr(journald, "SOCKET", f"{tmp_path}/socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(journald.SOCKET)
        journal.settimeout(10)
        yield journal


def in_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes stderr the journal's. Not in a fixture: pytest gives each phase of a test another stderr."""
    stderr = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{stderr.st_dev}:{stderr.st_ino}")


def fields(datagram: bytes) -> dict[str, str]:
    return dict(line.split("=", 1) for line in datagram.decode().splitlines())


def test_the_journal_gets_an_event_with_its_fields(
    journal: socket.socket, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    in_journal(monkeypatch)
    log = Log("serve")
    log.context = {"update": "u1"}
    log.warning("session-torn", name="vm/1", reason="it was not ready")

    assert fields(journal.recv(10000)) == {
        "MESSAGE": 'session-torn name=vm/1 reason="it was not ready"',
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "luod",
        "LUOD_PROGRAM": "serve",
        "LUOD_EVENT": "session-torn",
        "MESSAGE_ID": journald.MESSAGE_IDS["session-torn"],
        "LUOD_UPDATE": "u1",
        "LUOD_SESSION": "vm/1",
        "LUOD_REASON": "it was not ready",
    }
    assert capfd.readouterr().err == ""


def test_an_event_between_a_kexec_and_the_last_restored_session_is_of_that_update(
    journal: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_journal(monkeypatch)
    log = Log("serve")
    log.restoring = "u1"

    log("retrieved", name="vm")
    log.context = {"update": "u2", "phase": "preparing"}
    log("created", name="vm")
    log.context, log.restoring = {}, None
    log("released", name="vm")

    told = [fields(journal.recv(10000)) for _ in range(3)]
    assert [(each.get("LUOD_UPDATE"), each.get("LUOD_PHASE")) for each in told] == [
        ("u1", "restoring"),
        ("u2", "preparing"),
        (None, None),
    ]


def test_a_value_of_several_lines_is_one_field(journal: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    in_journal(monkeypatch)
    Log("serve")("created", name="vm", evil="a\nMESSAGE=b")

    assert journal.recv(10000).endswith(b"\nLUOD_EVIL\n" + (11).to_bytes(8, "little") + b"a\nMESSAGE=b\n")


def test_events_that_a_full_journal_does_not_take_are_counted(
    journal: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_journal(monkeypatch)
    log = Log("serve")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other, contextlib.suppress(BlockingIOError):
        while True:
            other.sendto(b"x", socket.MSG_DONTWAIT, journald.SOCKET)
    log("created", name="vm")
    log("created", name="vm")
    journal.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            journal.recv(10000)

    log("created", name="vm")

    assert fields(journal.recv(10000))["LUOD_MISSED"] == "2"


def test_each_event_with_an_explanation_is_written_and_in_the_catalog() -> None:
    catalog = (ROOT / "systemd" / "luod.catalog").read_text(encoding="utf-8")
    code = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "src" / "luod" / "daemon").rglob("*.py"))

    assert re.findall(r"(?m)^-- ([0-9a-f]{32})$", catalog) == list(journald.MESSAGE_IDS.values())
    assert [event for event in journald.MESSAGE_IDS if code.count(f'"{event}"') < 2] == []


def test_where_the_journal_does_not_run_a_line_on_stderr_begins_with_its_priority(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journald, "SOCKET", f"{tmp_path}/nothing")
    in_journal(monkeypatch)
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
