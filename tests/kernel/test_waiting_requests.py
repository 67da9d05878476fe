"""Writes to sysfs while an unbind or a removal waits for the files of a device: the real kernel and luoemu alike."""

from __future__ import annotations

import pytest

from luod.testing.interpreter import Interpreter
from tests.kernel.asked import ask_both


def test_requests_that_wait_for_a_device(tmp_path_factory: pytest.TempPathFactory, machine_python: Interpreter) -> None:
    expected, found = ask_both(tmp_path_factory, machine_python, "waiting_writes")
    assert len(expected) == 27
    assert found == expected
