"""Whether systemd may be about to end this kernel, by what `systemctl` and `busctl` print. Both are programs here."""

from __future__ import annotations

from pathlib import Path

import pytest

from luod.daemon.systemd import units

JOB = "echo '  12 kexec.target start waiting'"
OTHER = "echo '  12 reboot.target start waiting'"
FAILS = "echo 'Failed to connect to bus' >&2; exit 1"


def program(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("jobs", "logind", "may_end"),
    [
        ("true", "echo b false", False),
        (OTHER, "echo b false", False),
        (JOB, "echo b false", True),
        ("true", "echo b true", True),
        ("true", FAILS, False),
        (JOB, FAILS, True),
        (FAILS, "echo b false", True),
        ("exec sleep 30", "echo b false", True),
        ("true", "exec sleep 30", True),
    ],
)
def test_systemd_may_end_this_kernel_unless_it_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: str, logind: str, may_end: bool
) -> None:
    program(tmp_path, "systemctl", jobs)
    program(tmp_path, "busctl", logind)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    hangs = "exec sleep" in jobs + logind
    monkeypatch.setattr(units, "_ANSWER_SECONDS", 0.5 if hangs else 30.0)

    assert units.may_end_kernel() is may_end
