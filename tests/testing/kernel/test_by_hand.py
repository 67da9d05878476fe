"""A command that is run by hand, and what is said when it cannot be: here on luoemu, since it needs no real kernel."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from luod.errors import MachineEnded
from luod.testing import EmulatedMachine, Machine, Program
from luod.testing.kernel.__main__ import run_by_hand


def run(machine: EmulatedMachine, output: Path, *argv: str) -> int:
    return run_by_hand(machine, argv, output, timeout=60)


def test_output_and_status_are_those_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with EmulatedMachine() as machine:
        status = run(machine, tmp_path, "sh", "-c", "pwd; echo $LUOD_BOOT >&2; exit 7")

    assert (status, *capsys.readouterr()) == (7, f"{os.getcwd()}\n", "1\n")


def test_a_directory_that_the_machine_does_not_have_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getcwd", lambda: "/no/such/directory")
    with EmulatedMachine() as machine:
        status = run(machine, tmp_path, "echo", "not run")

    out, err = capsys.readouterr()
    assert (status != 0, out) == (True, "")
    assert "/no/such/directory" in err


def test_files_that_cannot_be_made_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with EmulatedMachine() as machine:
        status = run(machine, tmp_path / "missing", "echo", "not run")

    out, err = capsys.readouterr()
    assert (status != 0, out) == (True, "")
    assert f"{tmp_path}/missing/boot-1.out" in err


def test_a_machine_that_ends_before_is_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with EmulatedMachine() as machine:

        def spawn(_words: object, **how: Any) -> Program:
            program = Machine.spawn(machine, ["sleep", "1000"], **how)  # it does not end before the machine
            os.kill(machine.pid, signal.SIGKILL)
            return program

        monkeypatch.setattr(machine, "spawn", spawn)
        with pytest.raises(MachineEnded, match="SIGKILL"):
            run(machine, tmp_path / "missing", "echo", "not run")
