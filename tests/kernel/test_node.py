"""Opens of /dev/liveupdate: the real kernel and luoemu, with FUSE and without, answer alike."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from luod.testing import EmulatedMachine, Machine
from luod.testing.interpreter import Interpreter
from tests.kernel.booting import booted
from tests.library import ROOT

Answers = dict[str, Any]
OVER_PROC = {"path /proc/self/root/dev/liveupdate", "path /proc/self/cwd/../liveupdate", "resolve nothing, magic"}
"""Questions that differ without FUSE (docs/divergences.md)."""


def answers(machine: Machine, python: Interpreter) -> Answers:
    env = {"PYTHONPATH": os.pathsep.join([python.environment["PYTHONPATH"], str(ROOT)])}
    found: Answers = json.loads(machine.run(python.module("tests.programs.node_opens"), env=env).text)
    return found


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, machine_python: Interpreter) -> Answers:
    with booted(tmp_path_factory) as machine:
        found = answers(machine, machine_python)
    assert len(found) == 188
    return found


def test_opens_with_fuse(real: Answers, machine_python: Interpreter) -> None:
    with EmulatedMachine() as machine:
        assert answers(machine, machine_python) == real


def test_opens_without_fuse(real: Answers, machine_python: Interpreter) -> None:
    with EmulatedMachine(arguments=("--trap-opens",)) as machine:
        found = answers(machine, machine_python)
    assert {question for question in real if found[question] != real[question]} == OVER_PROC
