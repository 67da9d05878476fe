"""Fixtures of the rows: a machine and a question program for each module, a process for each row.

`pytest.mark.divergence(NAME)` marks a row that the emulated machine cannot meet. It is a strict expected failure there,
so that the mark must go when the machine learns it. NAME is the test that shows the divergence, as in
docs/divergences.md. With `when` it holds only where the device is a FUSE node (FUSE), or only where it cannot be one
(NO_FUSE).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from luod.testing import Machine
from luod.testing.interpreter import Interpreter
from luod.testing.plugin import booting_machines
from tests.conformance.caller import Caller, start
from tests.conformance.voyage import Outcomes, rows_of, travel

ROOT = Path(__file__).parents[2]
FUSE, NO_FUSE = "FUSE", "no FUSE"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "divergence(name, when=): the emulated machine cannot; see docs/divergences.md")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    way = FUSE if os.access("/dev/fuse", os.R_OK | os.W_OK) else NO_FUSE
    for item in items:
        if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
            continue
        if item.callspec.params.get("luod_machine_kind") != "emulated":
            continue
        for marker in item.iter_markers("divergence"):
            if marker.kwargs.get("when", way) == way:
                reason = f"docs/divergences.md: {marker.args[0]}"
                item.add_marker(pytest.mark.xfail(strict=True, reason=reason, raises=AssertionError))


@pytest.fixture(scope="module")
def shared_machine(machine_kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Yields one machine for all rows of a module."""
    with booting_machines(machine_kind, scratch=tmp_path_factory.getbasetemp()) as boot:
        yield boot()


@pytest.fixture(scope="module")
def questions(shared_machine: Machine, machine_python: Interpreter) -> Caller:
    """Returns the question program of `shared_machine`. It holds nothing itself."""
    return start(shared_machine, machine_python.module("tests.programs.questions"), root=str(ROOT))


_numbers = itertools.count()


@pytest.fixture
def caller(questions: Caller) -> Iterator[Caller]:
    """Yields a process of the row's own, which ends with the row."""
    number = next(_numbers)
    yield questions.fork(str(number), row=f"row {number}".encode())
    questions.ask("end", kid=str(number))


@pytest.fixture(scope="module")
def voyages(
    request: pytest.FixtureRequest,
    machine_kind: str,
    machine_python: Interpreter,
    tmp_path_factory: pytest.TempPathFactory,
) -> Outcomes:
    """Takes all selected rows of the module that reach over a kexec through it, together."""
    program = machine_python.module("tests.programs.questions")
    rows = rows_of(request, luod_machine_kind=machine_kind)
    with booting_machines(machine_kind, scratch=tmp_path_factory.getbasetemp()) as boot:
        machine = boot()
        return travel(rows, machine, lambda: start(machine, program, root=str(ROOT)))
