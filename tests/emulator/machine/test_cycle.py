"""A static C program, which no trick in a library could reach, carries memory over a kexec."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from tests.emulator.machine.conftest import PLAIN_USER, WAYS, options_for

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("user", [None, PLAIN_USER], ids=["own uid", "uid 1000"])
def test_full_cycle(run_machine: Run, cycle: str, way: str, user: int | None) -> None:
    done = run_machine([cycle], *options_for(way), user=user)
    assert (done.returncode, done.stdout) == (0, "carried\n"), done.stderr
