"""luod on a machine: `Host` keeps hold of the luod that runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from luod.errors import MachineUnavailable, ProgramFailed
from luod.testing import Host, Machine
from luod.testing.host import SOCKET


def test_a_start_that_fails_leaves_the_luod_that_runs_to_stop(machine: Machine, tmp_path: Path) -> None:
    host = Host(machine, state_directory=tmp_path)
    running = host.start()
    with pytest.raises(MachineUnavailable, match="luod ended"):
        host.start()
    assert host.supervisor is running

    host.stop()

    assert running.returncode is not None
    assert machine.run(["test", "-e", SOCKET], check=False).returncode == 1


def test_an_update_is_what_an_operator_types_and_forcing_it_is_said(machine: Machine, tmp_path: Path) -> None:
    host = Host(machine, state_directory=tmp_path)
    python = host.python()
    host.start()
    machine.run([python.executable, "-c", 'import luod; luod.Client().create("vm").close()'], env=python.environment)
    host.load()

    with pytest.raises(ProgramFailed, match="contents-undeclared"):
        host.update()
    assert machine.boot == 1

    host.update(ignore=("contents-undeclared",))
    assert machine.boot == 2
