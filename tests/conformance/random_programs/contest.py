"""Two machines, one program: whether they answer alike, and if not, the smallest program that shows it.

The first machine is the reference: a real kernel, or another emulated machine, which may differ in nothing then.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from luod.errors import MachineError
from luod.testing import EmulatedMachine
from luod.testing.interpreter import Interpreter
from luod.testing.plugin import booting_machines
from tests.conformance.random_programs.compare import Comparison, Difference, compare
from tests.conformance.random_programs.play import Stage
from tests.conformance.random_programs.program import Program, listing, short
from tests.conformance.random_programs.report import Tally
from tests.conformance.random_programs.shrink import Shrunk, shrink


@dataclass(frozen=True)
class Verdict:
    """The result of a program. `text` is for people, "" when the machines answered alike."""

    tally: Tally
    text: str = ""
    shrunk: Shrunk | None = None


@dataclass(frozen=True)
class Contest:
    """`reference` names the kind of the first machine."""

    reference: str
    one: Stage
    other: Stage

    def hold(self, program: Program, *, seconds: float) -> Verdict:
        """Plays `program`; shrinks a difference for about `seconds`. Raises MachineError with the seed in its notes.

        A difference that does not show in a second play is in the report and does not count: it depended on the order
        of two processes. A file ends some time after its last fd, if that is in flight.
        """
        before = self.one.questions, self.one.jumps
        comparison = self._compare(program)
        tally = Tally(
            programs=1,
            questions=self.one.questions - before[0],
            jumps=self.one.jumps - before[1],
            differences=len(comparison.differences),
            allowed=comparison.allowed,
        )
        if not comparison.differences:
            return Verdict(tally)
        fleeting = f"seed {program.seed}: {comparison.differences[0]}"
        comparison = self._compare(program)
        if not comparison.differences:
            return Verdict(replace(tally, differences=0, fleeting=(fleeting,)))
        shrunk = shrink(program, comparison.differences[0], self._differs, seconds=seconds)
        return Verdict(tally, self._text(program, comparison, shrunk), shrunk)

    def _compare(self, program: Program) -> Comparison:
        try:
            answers = self.one.play(program), self.other.play(program)
        except MachineError as error:
            error.add_note(f"in a random program: {program.json() if len(program) < 100 else f'seed {program.seed}'}")
            raise
        return compare(program, *answers, strict=self._strict)

    @property
    def _strict(self) -> bool:
        return self.reference == "emulated"

    def _differs(self, programs: Sequence[Program]) -> list[Difference | None]:
        if len(programs) == 1:
            return [_first(self._compare(programs[0]))]
        answers = zip(programs, self.one.play_together(programs), self.other.play_together(programs), strict=True)
        return [_first(compare(*each, strict=self._strict)) for each in answers]

    def _text(self, program: Program, comparison: Comparison, shrunk: Shrunk) -> str:
        found = shrunk.difference
        answers = self.one.play(shrunk.program).boots
        note = f"{self.reference}: {short(found.real)}\nemulated: {short(found.emulated)}"
        how = "no question can be left out" if shrunk.minimal else "time was up, it may be smaller"
        return (
            f"{len(comparison.differences)} answers differ in the program of seed {program.seed} "
            f"({len(program)} questions, {program.jumps} jumps). The first, with what leads to it "
            f"({len(shrunk.program)} questions; {how}; {shrunk.plays} plays):\n"
            f"{listing(shrunk.program, answers, (found.boot, found.number), note)}\n"
            f"To play it again: pytest --random-program FILE, with this in FILE:\n{shrunk.program.json()}"
        )


def _first(comparison: Comparison) -> Difference | None:
    return next(iter(comparison.differences), None)


@contextlib.contextmanager
def contest(
    reference: str,
    python: Interpreter,
    *,
    scratch: Path | None = None,
    planted: Path | None = None,
    arguments: Sequence[str] = (),
) -> Iterator[Contest]:
    """Yields a machine of the kind `reference` and an emulated one, with the sitecustomize.py of the directory
    `planted` and with the `arguments` of luoemu.
    """
    source = python.environment["PYTHONPATH"]
    env = {"PYTHONPATH": os.pathsep.join([str(planted), source])} if planted else {}
    with (
        booting_machines(reference, scratch=scratch) as boot,
        EmulatedMachine(env=env, arguments=arguments) as emulated,
    ):
        yield Contest(reference, Stage(boot(), python), Stage(emulated, python))
