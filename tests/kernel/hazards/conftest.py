"""A machine for each module: the hazards of docs/hazards.md are shown on a real kernel, several over one kexec.

A test shows the hazard by raw calls, and that luod's library or luod itself avoids it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from luod.testing import Machine
from luod.testing.interpreter import Interpreter
from tests.conformance.voyage import Outcomes, rows_of, travel
from tests.kernel.booting import booted
from tests.library import start_vmm


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Yields the module's machine. A test that does a kexec leaves it in the next boot."""
    with booted(tmp_path_factory) as machine:
        yield machine


@pytest.fixture(scope="module")
def voyages(request: pytest.FixtureRequest, shared: Machine, machine_python: Interpreter) -> Outcomes:
    """Takes the module's rows over their kexecs, together; `tests.programs.library` is their program."""
    return travel(rows_of(request), shared, lambda: start_vmm(shared, machine_python))
