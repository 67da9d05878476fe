"""Machines that are forked for a test have a time limit, as those of subprocess.run()."""

from __future__ import annotations

import select
import signal
import subprocess

import pytest

from tests.emulator.machine import forks
from tests.emulator.machine.conftest import environment, interpreter, python


def test_a_machine_that_does_not_end_in_time_is_killed_and_its_words_are_known() -> None:
    source = "print('err', file=sys.stderr, flush=True); print('out', flush=True)\nwhile True: signal.pause()"
    command = python(source)
    with forks.started(interpreter(None), [], command, environment()) as machine:
        select.select([machine.stdout], [], [], 30)
        with pytest.raises(subprocess.TimeoutExpired) as caught:
            forks.finished(machine, command, 0.2)
    assert "--- stdout\nout\n\n--- stderr\n" in caught.value.__notes__[0]
    assert caught.value.__notes__[0].endswith("err\n")
    assert machine.process.returncode == -signal.SIGKILL
