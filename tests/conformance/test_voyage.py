"""The rows of a module that share their boots: what becomes of each when the machine does not live."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path

from luod.errors import MachineEnded
from luod.testing import EmulatedMachine
from luod.testing.interpreter import Interpreter
from tests.conformance.caller import Caller, Refusal, start
from tests.conformance.voyage import Row, Voyage, travel

ROOT = Path(__file__).parents[2]


def ends_in_the_first_boot(caller: Caller) -> Voyage:
    caller.create()
    yield from ()


def goes_on_in_the_next(caller: Caller) -> Voyage:
    caller.create()
    yield


def kills(machine: EmulatedMachine, caller: Caller) -> Voyage:
    os.kill(machine.pid, signal.SIGKILL)
    for _ in itertools.count():  # the machine follows its supervisor, not at once, and its calls fail meanwhile
        with contextlib.suppress(Refusal):
            caller.create()
            caller.ask("close", fd="s")
    yield


def test_when_the_machine_dies_only_rows_that_were_not_over_fail(machine_python: Interpreter) -> None:
    with EmulatedMachine() as machine:
        killing = functools.partial(kills, machine)
        parts: list[Callable[[Caller], Voyage]]
        parts = [ends_in_the_first_boot, goes_on_in_the_next, killing, ends_in_the_first_boot]
        rows = [Row(str(number), part) for number, part in enumerate(parts)]
        program = machine_python.module("tests.programs.questions")

        outcomes = travel(rows, machine, lambda: start(machine, program, root=str(ROOT)))

    over, *failed = (outcomes.of(row.identity) for row in rows)
    assert over is None
    assert [type(outcome) for outcome in failed] == [MachineEnded] * 3
