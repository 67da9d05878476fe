"""A random program as data: boots, and in each the questions to `tests.programs.driver`, in order.

The same program is played on any machine. It is JSON, so that one with a difference can be kept, mailed and played
again. `generate` makes it, `play` plays it, `shrink` shrinks it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Question = dict[str, Any]
"""{"do": verb, …} for the driver; "in": the child that is asked."""
Answer = dict[str, Any]
"""{"ok": value}, {"errno": name}, {"wrong": text} or {"gone": status}."""


@dataclass(frozen=True)
class Jump:
    """How a boot ends. `segments`: by kexec_load, which carries nothing; else by kexec_file_load.

    `again`: load right before the kexec, even if something is loaded. `by`: the child that calls reboot; without it the
    driver itself.
    """

    segments: bool = False
    again: bool = True
    by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Boot:
    """The questions of one boot, and the kexec that follows if there is another boot."""

    questions: tuple[Question, ...]
    jump: Jump = Jump()


@dataclass(frozen=True)
class Program:
    """`seed` is its source; a program that was shrunk keeps it."""

    seed: int
    boots: tuple[Boot, ...]

    def __len__(self) -> int:
        return sum(len(boot.questions) for boot in self.boots)

    @property
    def jumps(self) -> int:
        return len(self.boots) - 1

    def flat(self) -> list[tuple[int, Question]]:
        """Returns every question with the index of its boot."""
        return [(index, question) for index, boot in enumerate(self.boots) for question in boot.questions]

    def with_questions(self, flat: Iterable[tuple[int, Question]]) -> Program:
        """Returns the same boots and kexecs with other questions."""
        questions: list[list[Question]] = [[] for _ in self.boots]
        for index, question in flat:
            questions[index].append(question)
        boots = zip(questions, self.boots, strict=True)
        return Program(self.seed, tuple(Boot(tuple(own), boot.jump) for own, boot in boots))

    def from_boot(self, first: int) -> Program:
        """Returns the program without the boots before `first`."""
        return Program(self.seed, self.boots[first:])

    def json(self) -> str:
        return json.dumps(dataclasses.asdict(self))


def from_json(text: str) -> Program:
    """Returns the program in the text of `Program.json`."""
    data = json.loads(text)
    boots = []
    for boot in data["boots"]:
        jump = boot["jump"]
        boots.append(Boot(tuple(boot["questions"]), Jump(jump["segments"], jump["again"], tuple(jump["by"]))))
    return Program(data["seed"], tuple(boots))


def line(question: Question) -> str:
    """Returns a question for people: `k1: preserve session=s1 fd=m2 token=1`."""
    path = ".".join(question.get("in", ()))
    words = [question["do"], *(f"{name}={value!r}" for name, value in question.items() if name not in ("do", "in"))]
    return f"{path}: {' '.join(words)}" if path else " ".join(words)


def short(answer: Answer) -> str:
    """Returns an answer for people."""
    if set(answer) == {"errno"}:
        return str(answer["errno"])
    if set(answer) == {"ok"}:
        return f"ok {answer['ok']!r}"
    return json.dumps(answer)


def listing(program: Program, answers: Sequence[Sequence[Answer]], mark: tuple[int, int], note: str) -> str:
    """Returns the whole program with its answers; `note` is at the question `mark` (boot and number)."""
    lines = []
    for index, boot in enumerate(program.boots):
        lines.append(f"boot {index + 1}")
        for number, question in enumerate(boot.questions):
            if (index, number) == mark:
                lines.append(f"  > {line(question)}")
                lines.extend(f"      {part}" for part in note.splitlines())
            else:
                lines.append(f"    {line(question):<90} {short(answers[index][number])}")
        if index < program.jumps:
            jump = boot.jump
            lines.append(f"    jump{' by kexec_load' if jump.segments else ''}{f' by {jump.by[0]}' if jump.by else ''}")
    return "\n".join(lines)
