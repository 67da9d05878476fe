"""Plays random programs on a machine, one after the other, and returns every answer.

A program must meet a kernel that knows nothing of the one before it: when its driver has ended nothing is preserved. If
sessions of an earlier boot are left over, the machine does one more kexec. The tests make one for each machine.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luod.errors import MachineError
from luod.testing import Machine
from luod.testing import Program as Running
from luod.testing.interpreter import Interpreter
from luod.testing.tools import require_tool
from tests.conformance.random_programs.program import Answer, Boot, Jump, Program, Question

ROOT = Path(__file__).parents[3]
STRETCH = 250
"""Questions in a line: a machine that dies over one leaves the number of the stretch."""
LONGEST = 64
"""Bytes of a session name's field. A name of that length is invalid."""
PATIENCE = 300.0
"""The time limit of a stretch in seconds; longer than any takes."""


@dataclass(frozen=True)
class Answers:
    """The answers of one machine, by boot and question."""

    boots: tuple[tuple[Answer, ...], ...]


class Stage:
    """A machine on which programs are played, and how much of it has been used. The caller owns the machine."""

    def __init__(self, machine: Machine, python: Interpreter) -> None:
        self.machine = machine
        self.questions = 0
        self.jumps = 0
        self._python = python
        self._command_line = machine.read("/proc/cmdline").decode().rstrip("\n")
        self._source = machine.run(["printenv", "PYTHONPATH"], check=False).text
        self._left_over = False
        self._plays = 0
        self._driver: Running | None = None

    def play(self, program: Program) -> Answers:
        """Returns the answers. Raises MachineError when the machine or its driver did not live to the end of it."""
        if self._left_over:
            self._jump([], Jump())
            self._left_over = False
        boots = []
        for number, boot in enumerate(program.boots):
            player = self._fork()
            boots.append(self._questions(player, boot))
            if number < program.jumps:
                self._jump([player], boot.jump)
                self._left_over = True
            else:
                self._must({"do": "end", "kid": player})
        return Answers(tuple(boots))

    def play_together(self, programs: Sequence[Program]) -> list[Answers]:
        """Plays programs with equally many boots in the same boots, one after the other in each; they share nothing.

        For that their sessions get other names, and each closes the device at the end of a boot.
        """
        own = [_renamed(program, f"\x02{self._plays + number}") for number, program in enumerate(programs)]
        boots: list[list[tuple[Answer, ...]]] = [[] for _ in own]
        for boot in range(len(own[0].boots)):
            players = []
            for program, answers in zip(own, boots, strict=True):
                players.append(self._fork())
                answers.append(self._questions(players[-1], program.boots[boot]))
                self._must({"do": "leave", "in": players[-1:]})
            if boot < own[0].jumps:
                self._jump([], Jump(segments=own[0].boots[boot].jump.segments))
                self._left_over = True
            else:
                for player in players:
                    self._must({"do": "end", "kid": player})
        return [Answers(tuple(answers)) for answers in boots]

    def _ask(self, question: Question) -> Answer:
        """Returns the answer of the boot's driver. Each program has a child of it, whose descendants end with the
        program.
        """
        if self._driver is None or self._driver.boot != self.machine.boot:
            machine = self.machine
            arguments = [self._command_line, machine.kernel, *([machine.initrd] if machine.initrd else [])]
            path = os.pathsep.join(filter(None, [self._source, str(ROOT)]))
            program = self._python.module("tests.programs.driver", *arguments)
            self._driver = machine.spawn(program, env={"PYTHONPATH": path}, forked=True)
        answer: Answer = self._driver.ask(question, timeout=PATIENCE)
        return answer

    def _must(self, question: Question) -> Any:
        answer = self._ask(question)
        assert "ok" in answer, f"{question}: {answer}"
        return answer["ok"]

    def _fork(self) -> str:
        self._plays += 1
        player = f"program {self._plays}"
        self._must({"do": "fork", "kid": player})
        return player

    def _questions(self, player: str, boot: Boot) -> tuple[Answer, ...]:
        answers: list[Answer] = []
        for start in range(0, len(boot.questions), STRETCH):
            stretch = boot.questions[start : start + STRETCH]
            answers.extend(self._must({"do": "many", "in": [player], "questions": stretch}))
        self.questions += len(boot.questions)
        return tuple(answers)

    def _jump(self, player: list[str], jump: Jump) -> None:
        machine = self.machine
        if jump.segments:
            initrd = [f"--initrd={machine.initrd}"] if machine.initrd else []
            kexec = require_tool("kexec", package="kexec-tools")
            machine.run([kexec, "-c", "-l", machine.kernel, *initrd, f"--command-line={self._command_line}"])
        elif jump.again or self._must({"do": "loaded"}) != "1\n":
            self._must({"do": "load"})
        with machine.expect_jump():
            if jump.by:  # a missing child, or one that is not root, cannot
                self._ask({"do": "reboot", "in": [*player, *jump.by]})
            if answer := self._ask({"do": "reboot", "in": player}):
                raise MachineError(f"reboot came back: {answer}")
        self.jumps += 1


def _renamed(program: Program, tag: str) -> Program:
    """Returns the program with `tag` at the end of every session name. No long name becomes longer."""
    flat = []
    for boot, question in program.flat():
        name, end, rest = str(question.get("name", "")).partition("\0")
        if question["do"] in ("create", "retrieve") and 0 < len(name) < LONGEST:
            question = {**question, "name": name[: LONGEST - 1 - len(tag)] + tag + end + rest}
        flat.append((boot, question))
    return program.with_questions(flat)
