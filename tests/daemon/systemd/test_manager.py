"""What systemd's answers mean: services and their stores, locks, and the minimum uptime."""

from __future__ import annotations

from pathlib import Path

import pytest

from luod.daemon.systemd.commands import ask, booted, require_booted
from luod.daemon.systemd.manager import NOT_BOOTED, Lock, Service, locks, minimum_uptime, observe, services
from luod.errors import Refused

SHOWN = """\
Id=luod.service
ActiveState=active
CanStart=yes
IgnoreOnIsolate=yes
FileDescriptorStorePreserve=yes
NFileDescriptorStore=4

Id=db.service
ActiveState=inactive
IgnoreOnIsolate=no
FileDescriptorStorePreserve=restart
NFileDescriptorStore=2
LUOSession=state more
"""
LOCKED = (
    '{"type":"a(ssssuu)","data":[[["shutdown:sleep","apt","an upgrade","block",0,7],'
    '["sleep","NetworkManager","networks","block",0,8],["shutdown","mail","flush","delay",0,9],'
    '["shutdown","old","weak","block-weak",0,10]]]}'
)


def machine(root: Path, *, pid_1: str, systemd: bool) -> Path:
    (root / "proc/1").mkdir(parents=True)
    (root / "proc/1/comm").write_text(f"{pid_1}\n")
    if systemd:
        (root / "run/systemd/system").mkdir(parents=True)
    return root


@pytest.mark.parametrize(
    ("pid_1", "systemd", "expected"), [("systemd", True, True), ("python3", True, False), ("systemd", False, False)]
)
def test_a_machine_runs_systemd_when_it_is_pid_1_and_left_its_mark(
    tmp_path: Path, pid_1: str, systemd: bool, expected: bool
) -> None:
    assert booted(machine(tmp_path, pid_1=pid_1, systemd=systemd)) is expected


def test_without_systemd_its_way_is_refused_and_nothing_is_asked(tmp_path: Path) -> None:
    root = machine(tmp_path, pid_1="init", systemd=False)

    with pytest.raises(Refused, match="systemd does not run this machine") as refused:
        require_booted(root)

    assert "--direct" in refused.value.hint
    assert observe(root) is NOT_BOOTED


def test_services_come_with_their_stores_and_whether_they_stay() -> None:
    assert list(services(SHOWN)) == [
        Service("luod.service", active=True, stays=True, preserves=True, stored=4, startable=True),
        Service("db.service", stored=2, sessions=("state", "more")),
    ]
    assert list(services("")) == []


def test_locks_are_those_that_block_a_shutdown() -> None:
    assert locks(LOCKED) == [Lock("apt", "an upgrade"), Lock("old", "weak")]


@pytest.mark.parametrize("text", ["", "null", "[]", '{"data":[]}', '{"data":[[["shutdown"]]]}'])
def test_an_answer_that_is_not_loginds_has_no_locks(text: str) -> None:
    assert locks(text) == []


@pytest.mark.parametrize(
    ("config", "line", "seconds"),
    [
        ("", "", 15.0),
        ("[Manager]\nMinimumUptimeSec=1min\n", "", 60.0),
        ("[Manager]\n#MinimumUptimeSec=1min\nMinimumUptimeSec = 0\n", "", 0.0),
        ("MinimumUptimeSec=20\nMinimumUptimeSec=5s", "", 5.0),
        ("MinimumUptimeSec=20", "ro systemd.minimum_uptime_sec=2s", 2.0),
        ("MinimumUptimeSec=soon", "", 15.0),
    ],
)
def test_the_minimum_uptime_is_the_last_one_given(config: str, line: str, seconds: float) -> None:
    assert minimum_uptime(config, line) == seconds


def test_a_program_that_fails_is_late_or_missing_gives_its_reason() -> None:
    assert ask(["sh", "-c", "echo first >&2; echo second >&2; exit 3"], 10.0).failure == "first"
    assert "status 3" in ask(["sh", "-c", "exit 3"], 10.0).failure
    assert "took longer than 0.1 s" in ask(["sleep", "60"], 0.1).failure
    assert "/nonexistent: No such file" in ask(["/nonexistent"], 1.0).failure
    assert ask(["echo", "yes"], 10.0).text == "yes\n"
