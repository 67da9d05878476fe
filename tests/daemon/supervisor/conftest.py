"""luod as the programs of a host start it, by exec: its own imports are part of what the supervisor's tests promise."""

from __future__ import annotations

from pathlib import Path

import pytest

from luod.testing import Machine
from tests.daemon.host import Luod


@pytest.fixture
def luod(machine: Machine, tmp_path: Path) -> Luod:
    """Boots a machine with luod running, which is started by exec in every boot."""
    luod = Luod(machine, state_directory=tmp_path / "state")
    luod.forked = False
    luod.start()
    return luod
