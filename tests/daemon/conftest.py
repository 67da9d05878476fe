"""The fixture `luod`: a machine with luod running."""

from __future__ import annotations

from pathlib import Path

import pytest

from luod.testing import Machine
from tests.daemon.host import Luod


@pytest.fixture
def luod(machine: Machine, tmp_path: Path) -> Luod:
    luod = Luod(machine, state_directory=tmp_path / "state")
    luod.start()
    return luod
