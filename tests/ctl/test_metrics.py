"""`luoctl metrics`: what Prometheus is told."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

from luod.ctl import metrics
from luod.frozen import replace
from luod.ipc.types.admin import Problem, SessionTimes, Status, Stuck, UpdateTimes

STATUS: Final = Status(
    version="1.2",
    state="restoring",
    boot=3,
    kernel_loaded=False,
    command_line=None,
    sessions=4,
    waiting=2,
    retrieved=1,
    torn=0,
    participants=5,
    held_files=0,
    generation=7,
    stuck=[Stuck("vm", "its reaper failed")],
    restore_seconds_left=12.5,
    policy_file="/etc/luod/luod.toml",
    policy_error="rules[0]: is unknown",
    state_directory=[Problem("/state", "it is read-only", "remount it")],
    registry=[],
    outgoing_bytes=8192,
    incoming_bytes=4096,
)
SESSION: Final = SessionTimes("vm", 0, 4096, "ready", None, 0.5, 1.5, 4.0, 4.5, None, None, 3.5)
TIMELINE: Final = UpdateTimes(
    "9f2c01ab", 7, False, 1795434757.25, "done", None, 1.0, 2.0, 4.0, 5.5, None, "tsc", 2.5e-6, 3.5, (SESSION, SESSION)
)


def told(text: bytes) -> dict[str, float]:
    """Returns the samples, as Prometheus' own parser reads them: `name{label="value"}`."""
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = ",".join(f'{key}="{value}"' for key, value in sample.labels.items())
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_what_luod_holds_and_does() -> None:
    found = told(metrics.text(STATUS, None))
    assert found["luod_up"] == 1
    assert found['luod_info{version="1.2"}'] == 1
    assert found['luod_state{state="restoring"}'] == 1
    assert found['luod_state{state="idle"}'] == 0
    assert found['luod_sessions{direction="incoming",state="waiting"}'] == 2
    assert found['luod_sessions_bytes{direction="outgoing"}'] == 8192
    assert found['luod_sessions_bytes{direction="incoming"}'] == 4096
    assert found["luod_stuck_sessions"] == 1
    assert found['luod_problems{of="state_directory"}'] == 1
    assert found['luod_problems{of="registry"}'] == 0
    assert found["luod_updates_begun_total"] == 7
    assert found["luod_policy_good"] == 0
    assert found["luod_restore_seconds_left"] == 12.5
    assert not any("last_update" in name for name in found)


def test_how_the_last_update_went() -> None:
    found = told(metrics.text(STATUS, TIMELINE))
    phases = {name: value for name, value in found.items() if name.startswith("luod_last_update_phase_seconds")}
    assert list(phases.values()) == [1.0, 1.0, 2.0, 1.5]
    assert found['luod_last_update_state{state="done"}'] == 1
    assert found["luod_last_update_blackout_seconds"] == 3.5
    assert found["luod_last_update_clock_error_seconds"] == 2.5e-6
    assert found['luod_last_update_sessions{standing="ready"}'] == 2
    assert found["luod_last_update_bytes"] == 8192


def test_a_state_of_a_newer_luod_is_told_too() -> None:
    found = told(metrics.text(replace(STATUS, state="dreaming"), None))
    assert found['luod_state{state="dreaming"}'] == 1


@pytest.mark.parametrize("to_file", [False, True])
def test_a_luod_that_is_gone_is_told_as_down_and_an_error(tmp_path: Path, to_file: bool) -> None:
    target = tmp_path / "luod.prom"
    options = ["--output", str(target)] if to_file else []
    command = [sys.executable, "-m", "luod.ctl.main", "--admin-socket", str(tmp_path / "none"), "metrics", *options]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 3
    assert told(target.read_bytes() if to_file else done.stdout) == {"luod_up": 0}
    assert not to_file or stat.S_IMODE(target.stat().st_mode) == 0o644


def test_json_is_not_what_it_prints(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "luod.ctl.main", "--json", "metrics"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 2
