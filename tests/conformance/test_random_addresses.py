"""Random programs about IO address spaces, on two emulated machines: the questions mean the same on both.

The generator is for questions to a real kernel, too.
"""

from __future__ import annotations

import os

import pytest

from luod.testing import EmulatedMachine
from luod.testing.interpreter import Interpreter
from luod.testing.tools import cannot_run
from tests.conformance.random_programs.addresses import generate
from tests.conformance.random_programs.contest import Contest
from tests.conformance.random_programs.play import Stage
from tests.devices import FIRST, give_to_vfio


@pytest.mark.parametrize("device", [False, True])
def test_a_seed_is_a_program(device: bool) -> None:
    program = generate(5, questions=200, device=device)
    assert program == generate(5, questions=200, device=device)
    assert program != generate(6, questions=200, device=device)
    assert len(program) >= 200


def test_two_machines_answer_alike(machine_python: Interpreter) -> None:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        cannot_run("no /dev/fuse that this uid may use, and devices need it: modprobe fuse, as root")
    arguments = ("--vfio", FIRST)
    with EmulatedMachine(arguments=arguments) as one, EmulatedMachine(arguments=arguments) as other:
        for machine in (one, other):
            give_to_vfio(machine)
        both = Contest("emulated", Stage(one, machine_python), Stage(other, machine_python))
        verdict = both.hold(generate(2, questions=500, device=True), seconds=20)
        answers = both.one.play(generate(3, questions=500, device=True)).boots[0]
    assert not verdict.text, verdict.text
    # Most programs get far: calls of every kind succeed, and few questions make no sense.
    assert sum("wrong" in answer for answer in answers) < 150
    assert sum(isinstance(said := answer.get("ok"), dict) and said.get("returned") == 0 for answer in answers) > 100
