"""Machines that are forked for a test have a time limit, as those of subprocess.run()."""

from __future__ import annotations

import signal
import subprocess

import pytest

from tests.emulator.machine import forks
from tests.emulator.machine.conftest import environment, interpreter, python


def test_a_machine_that_does_not_end_in_time_is_killed() -> None:
    command = python("while True: signal.pause()")
    with (
        forks.started(interpreter(None), [], command, environment()) as machine,
        pytest.raises(subprocess.TimeoutExpired),
    ):
        forks.finished(machine, command, 0.2)
    assert machine.process.returncode == -signal.SIGKILL
