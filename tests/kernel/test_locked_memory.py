"""RLIMIT_MEMLOCK and memory for DMA: the real kernel and luoemu alike."""

from __future__ import annotations

import pytest

from luod.testing.interpreter import Interpreter
from tests.kernel.asked import ask_both


def test_what_a_process_may_lock(tmp_path_factory: pytest.TempPathFactory, machine_python: Interpreter) -> None:
    expected, found = ask_both(tmp_path_factory, machine_python, "locked_memory")
    assert found == expected
    assert "ENOMEM" in expected["an iommufd"]
    assert len(expected["changes of the process"]) == 12
