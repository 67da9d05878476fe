"""luod on a machine: `Host` keeps hold of the luod that runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from luod.errors import MachineUnavailable
from luod.testing import Host, Machine
from luod.testing.host import SOCKET


def test_a_start_that_fails_leaves_the_luod_that_runs_to_stop(machine: Machine, tmp_path: Path) -> None:
    host = Host(machine, state_directory=tmp_path)
    running = host.start()
    with pytest.raises(MachineUnavailable, match="luod ended"):
        host.start()
    assert host.keep is running

    host.stop()

    assert running.returncode is not None
    assert machine.run(["test", "-e", SOCKET], check=False).returncode == 1
