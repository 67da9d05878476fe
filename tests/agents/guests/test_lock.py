"""A guest has one agent at a time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from luod.agents.guests.lock import held
from luod.errors import QemuRefusal


def test_a_second_agent_is_told_who_has_the_guest(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with (
        held(path, "the guest web", at_its_end="the guest ends"),
        pytest.raises(QemuRefusal, match=f"the guest web is with process {os.getpid()},") as caught,
        held(path, "the guest web", at_its_end="the guest ends"),
    ):
        pass
    assert caught.value.hint == f"see `ps {os.getpid()}`; the guest ends"


def test_the_next_agent_has_it_when_the_last_has_ended(tmp_path: Path) -> None:
    for _ in range(2):
        with held(str(tmp_path / "lock"), "the guest web", at_its_end=""):
            pass
