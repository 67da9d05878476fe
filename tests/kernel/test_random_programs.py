"""Many random programs: the real kernel and the emulated machine answer every question alike.

Eleven programs of three boots: more than 20,000 questions over more than 20 kexecs. `pytest --luod-machine kernel
--random-programs N --random-seed SEED` plays others; docs/divergences.md has the allowed differences.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from luod.testing.interpreter import Interpreter
from tests.conformance.random_programs.contest import Contest, contest
from tests.conformance.random_programs.generate import generate
from tests.conformance.random_programs.program import Program, from_json
from tests.conformance.random_programs.report import record

BOOTS = 3
QUESTIONS = 640
"""In a boot. A kexec takes as long as some thousand of them, and the remains of many interfere with each other."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "program" not in metafunc.fixturenames:
        return
    if file := metafunc.config.getoption("--random-program"):
        metafunc.parametrize("program", [from_json(Path(file).read_text())], ids=["from a file"])
        return
    first, number = (metafunc.config.getoption(f"--random-{name}") for name in ("seed", "programs"))
    programs = [
        generate(seed, boots=BOOTS, questions=QUESTIONS, several_uids=os.geteuid() == 0)
        for seed in range(first, first + number)
    ]
    metafunc.parametrize("program", programs, ids=[f"seed {program.seed}" for program in programs])


@pytest.fixture
def both(machine_python: Interpreter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Contest]:
    with contest("kernel", machine_python, scratch=tmp_path_factory.getbasetemp()) as machines:
        yield machines


def test_the_real_kernel_and_the_emulated_machine_answer_alike(
    both: Contest, program: Program, record_property: Callable[[str, object], None]
) -> None:
    verdict = both.hold(program, seconds=40)
    record(record_property, verdict.tally)
    assert not verdict.text, verdict.text
