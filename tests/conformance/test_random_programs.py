"""Some random programs: two machines answer them alike; and a difference is found and shrunk.

tests/kernel/test_random_programs.py has many of them. Here the reference is the machine under test, so that `make test`
compares two emulated machines and `make test-kernel` an emulated one with the real kernel.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from textwrap import dedent

import pytest

from luod.testing.interpreter import Interpreter
from tests.conformance.conftest import ROOT
from tests.conformance.random_programs.compare import ALLOWED, Difference, allowed
from tests.conformance.random_programs.contest import contest
from tests.conformance.random_programs.generate import generate
from tests.conformance.random_programs.program import Boot, Program, from_json
from tests.conformance.random_programs.report import record
from tests.conformance.random_programs.shrink import Differs, shrink

ROOT_USER = os.geteuid() == 0

WRONG_ERRNO = """
    import errno
    import os
    from luod.emulator.model import ports, session

    right = session.OutgoingSession.preserve

    def preserve(self, token, open_file, **given):
        try:
            right(self, token, open_file, **given)
        except ports.Errno as error:
            raise ports.Errno(errno.EBUSY if error.code == errno.EEXIST else error.code) from None

    session.OutgoingSession.preserve = preserve
"""
SEALS_FORGOTTEN = """
    from luod.emulator.model import memfd

    memfd.seals_on_return = lambda seals: 0
"""


def test_a_seed_is_a_program() -> None:
    program = generate(5, boots=3, questions=200)
    assert program == generate(5, boots=3, questions=200)
    assert program != generate(6, boots=3, questions=200)
    assert len(program) >= 600
    assert from_json(program.json()) == program


def test_two_machines_answer_alike(
    machine_kind: str,
    machine_python: Interpreter,
    tmp_path_factory: pytest.TempPathFactory,
    record_property: Callable[[str, object], None],
) -> None:
    program = generate(2, boots=4, questions=300, several_uids=ROOT_USER)
    with contest(machine_kind, machine_python, scratch=tmp_path_factory.getbasetemp()) as both:
        verdict = both.hold(program, seconds=60)
    if machine_kind == "kernel":
        record(record_property, verdict.tally)
    assert not verdict.text, verdict.text
    assert verdict.tally.jumps >= 3


@pytest.mark.parametrize(
    ("mistake", "boots", "last", "real", "planted"),
    [
        pytest.param(WRONG_ERRNO, 1, "preserve", "EEXIST", "EBUSY", id="a wrong errno"),
        pytest.param(SEALS_FORGOTTEN, 2, "about", "ok", "ok", id="something lost over a jump"),
    ],
)
def test_a_planted_mistake_is_found_and_cut_down(
    machine_kind: str,
    machine_python: Interpreter,
    tmp_path_factory: pytest.TempPathFactory,
    mistake: str,
    boots: int,
    last: str,
    real: str,
    planted: str,
) -> None:
    folder = tmp_path_factory.mktemp("planted")
    (folder / "sitecustomize.py").write_text(dedent(mistake))
    scratch = tmp_path_factory.getbasetemp()
    with contest(machine_kind, machine_python, scratch=scratch, planted=folder) as both:
        seconds = 40 if machine_kind == "emulated" else 10
        found = (both.hold(generate(seed, boots=boots, questions=100), seconds=seconds) for seed in range(1, 16))
        verdict = next(verdict for verdict in found if verdict.shrunk is not None)
    assert verdict.shrunk is not None
    assert (verdict.shrunk.difference.kind) == (last, real, planted)
    # On a busy machine, or if each try costs a real kernel's kexec, the time is up before it is small.
    assert len(verdict.shrunk.program) < (60 if verdict.shrunk.minimal else 100 * boots)
    assert f"{last} " in verdict.text
    print(verdict.text)


def test_a_mistake_made_but_once_is_told_and_is_no_difference(
    machine_python: Interpreter, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("planted")
    first = f"error.code == errno.EEXIST and not (os.path.exists('{folder}/made') or os.mkdir('{folder}/made'))"
    mistake = dedent(WRONG_ERRNO).replace("error.code == errno.EEXIST", first)
    (folder / "sitecustomize.py").write_text(mistake)
    with contest("emulated", machine_python, planted=folder) as both:
        verdicts = [both.hold(generate(seed, boots=1, questions=300), seconds=10) for seed in range(1, 4)]
    assert [(verdict.text, verdict.tally.differences) for verdict in verdicts] == [("", 0)] * 3
    told = [line for verdict in verdicts for line in verdict.tally.lines() if line.startswith("seen once")]
    assert len(told) == 1
    assert "EEXIST" in told[0]


# -- the comparison and the shrinker themselves ------------------------------------------------------------------


def test_every_allowed_difference_stands_in_the_list() -> None:
    page = (ROOT / "docs" / "divergences.md").read_text()
    assert {rule.row for rule in ALLOWED} == {rule.row for rule in ALLOWED if f"| `{rule.row}` |" in page}


@pytest.mark.parametrize("rule", ALLOWED, ids=lambda rule: f"{rule.on} {rule.what}")
def test_a_rule_allows_nothing_wider_than_it_says(rule: object) -> None:
    assert rule in ALLOWED
    (rule,) = (each for each in ALLOWED if each is rule)
    question = {"do": "probe", "fd": "s", "what": rule.what}
    real = {"ok": {"on": rule.on, **rule.real}}
    emulated = {"ok": {"on": rule.on, **rule.emulated}}
    assert allowed(question, real, emulated) == rule.row
    assert allowed(question, emulated, real) is None
    assert allowed({**question, "do": "about"}, real, emulated) is None
    assert allowed(question, real, {"ok": {"on": rule.on, "errno": "EIO"}}) is None
    assert allowed(question, {"ok": {"on": rule.on, "errno": "EIO"}}, emulated) is None
    assert allowed(question, {"ok": {"on": "other", **rule.real}}, {"ok": {"on": "other", **rule.emulated}}) is None


def test_the_link_of_a_session_may_differ_but_not_its_name() -> None:
    question = {"do": "probe", "fd": "s", "what": "link"}
    real = {"ok": {"on": "session", "ok": "anon_inode:[luo_session] vm"}}
    assert allowed(question, real, {"ok": {"on": "session", "ok": "/memfd:[luo_session] vm (deleted)"}})
    assert not allowed(question, real, {"ok": {"on": "session", "ok": "/memfd:[luo_session] vmm (deleted)"}})


def each(differs: Callable[[Program], Difference | None]) -> Differs:
    return lambda programs: [differs(program) for program in programs]


def numbered(program: Program) -> list[int]:
    return [question["fd"] for _, question in program.flat()]


@pytest.mark.parametrize("needed", [(), (3,), (0, 41), (7, 8, 9, 30), (20, 41, 43, 59)], ids=str)
def test_shrinking_leaves_what_is_needed_and_nothing_else(needed: tuple[int, ...]) -> None:
    boots = tuple(Boot(tuple({"do": "close", "fd": 20 * boot + number} for number in range(20))) for boot in range(4))
    program = Program(0, boots)

    def differs(played: Program) -> Difference | None:
        seen: list[int] = []
        for boot, questions in enumerate(played.boots):
            for number, question in enumerate(questions.questions):
                if question["fd"] == 61 and set(needed) <= set(seen):
                    return Difference(boot, number, question, {"errno": "EBADF"}, {"ok": None})
                seen.append(question["fd"])
        return None

    found = differs(program)
    assert found is not None
    shrunk = shrink(program, found, each(differs), seconds=60)
    assert shrunk.minimal
    assert numbered(shrunk.program) == [*needed, 61]
    assert differs(shrunk.program) == shrunk.difference


def test_shrinking_ends_when_its_time_is_up() -> None:
    program = Program(0, (Boot(tuple({"do": "close", "fd": number} for number in range(50))),))
    found = Difference(0, 49, program.boots[0].questions[49], {"errno": "EBADF"}, {"ok": None})
    shrunk = shrink(program, found, lambda programs: pytest.fail("played"), seconds=0)
    assert (shrunk.program, shrunk.plays, shrunk.minimal) == (program, 0, False)


def test_shrinking_does_not_take_another_difference_for_this_one() -> None:
    program = Program(0, (Boot(tuple({"do": "close", "fd": number} for number in range(8))),))
    found = Difference(0, 7, program.boots[0].questions[7], {"errno": "EBADF"}, {"ok": None})

    def differs(played: Program) -> Difference | None:
        return found if len(played) == 8 else replace(found, number=len(played) - 1, real={"errno": "EIO"})

    assert shrink(program, found, each(differs), seconds=60).program == program
