"""Rows that reach over a kexec. All rows of a module share their boots: a kexec is slow on a real kernel.

A row is a generator that takes a caller and gets a new one in each boot:

    @across_jumps
    def test_something(caller: Caller) -> Voyage:
        caller.create()
        caller = yield
        assert caller.can_retrieve() == "OK"

Its first part runs in boot 1, the next in boot 2; each has a process of its own, which lives until the jump, and must
leave /dev/liveupdate closed. The fixture `voyages` runs the rows of a module that were selected; each test then tells
how its row went.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import pytest

from luod.errors import MachineError
from luod.testing import Machine
from tests.conformance.caller import Caller, jump, load

Voyage = Generator[None, Caller, None]


def across_jumps(row: Callable[..., Voyage]) -> Callable[..., None]:
    """Returns a test of a row. The row's other parameters are for pytest.mark.parametrize."""

    def test(voyages: Outcomes, request: Any, **parameters: Any) -> None:
        outcome = voyages.of(request.node.nodeid)
        if outcome is not None:
            raise outcome

    own = list(inspect.signature(row).parameters.values())[1:]
    given = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("voyages", "request")]
    test.__signature__ = inspect.Signature([*given, *own])  # type: ignore[attr-defined]  # what pytest reads
    test.__name__ = row.__name__
    test.__doc__ = row.__doc__
    test.__module__ = row.__module__
    test.row = row  # type: ignore[attr-defined]  # what the fixture `voyages` finds
    return test


@dataclass
class Row:
    """A row on its way."""

    identity: str
    begin: Callable[[Caller], Voyage]
    steps: Voyage | None = None
    outcome: BaseException | None = None
    over: bool = False

    def go_on(self, caller: Caller) -> None:
        """Runs the part for this boot."""
        try:
            if self.steps is None:
                self.steps = self.begin(caller)
                next(self.steps)
            else:
                self.steps.send(caller)
        except StopIteration:
            self.over = True
        except (Exception, pytest.skip.Exception, pytest.fail.Exception) as error:  # noqa: BLE001 - raised in the row's test
            self.over, self.outcome = True, error


@dataclass
class Outcomes:
    """The results of the rows of one module."""

    rows: list[Row] = field(default_factory=list)

    def of(self, identity: str) -> BaseException | None:
        (row,) = (row for row in self.rows if row.identity == identity)
        assert row.over, "the row did not come to its end"
        return row.outcome


def rows_of(request: pytest.FixtureRequest, **chosen: str) -> list[Row]:
    """Returns the selected rows of the requesting module; only those with the parameters in `chosen`."""
    rows = []
    for item in request.session.items:
        if isinstance(item, pytest.Function) and item.module is request.module and hasattr(item.function, "row"):
            parameters = dict(item.callspec.params) if hasattr(item, "callspec") else {}
            if all(parameters.pop(name) == value for name, value in chosen.items()):
                rows.append(Row(item.nodeid, functools.partial(item.function.row, **parameters)))
    return rows


def travel(rows: list[Row], machine: Machine, start: Callable[[], Caller]) -> Outcomes:
    """Takes all rows through as many boots as they need. `start` starts the question program in the present boot."""
    while under_way := [row for row in rows if not row.over]:
        try:
            root = start()
            # Loaded first: sessions that are created and preserved afterwards must be carried nevertheless.
            load(machine, root)
            for number, row in enumerate(under_way):
                caller = root.fork(f"row {number}", row=f"row {rows.index(row)}".encode())
                row.go_on(caller)
                # A row that failed may have left it open, and would fail all others.
                caller.program.ask({"do": "close", "in": list(caller.path), "fd": "device"})
                if row.over:
                    root.ask("end", kid=f"row {number}")
            if any(not row.over for row in rows):
                jump(machine, root)
        except MachineError as error:
            for row in under_way:
                if not row.over:
                    row.over, row.outcome = True, error
    return Outcomes(rows)
