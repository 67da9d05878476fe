"""Plays random programs on a machine, one after the other, and brings back every answer.

A program is to meet a kernel that knows nothing of the one before it: when its driver has ended nothing is preserved,
and where sessions of an earlier boot are left over the machine jumps once more. Made by the tests for each machine.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from luod.testing import Machine
from luod.testing import Program as Running
from luod.testing.interpreter import Interpreter
from luod.testing.tools import require_tool
from tests.conformance.random_programs.program import Answer, Boot, Program, Question

ROOT = Path(__file__).parents[3]
STRETCH = 250
"""Questions in a line: a machine that dies over one leaves the number of the stretch behind."""
PATIENCE = 300.0
"""Seconds a stretch may take; longer than anything takes."""


@dataclass(frozen=True)
class Answers:
    """What one machine said, by boot and question."""

    boots: tuple[tuple[Answer, ...], ...]


class Stage:
    """A machine that programs are played on, and how much of it has been used. The machine stays the caller's."""

    def __init__(self, machine: Machine, python: Interpreter) -> None:
        self.machine = machine
        self.questions = 0
        self.jumps = 0
        self._python = python
        self._command_line = machine.read("/proc/cmdline").decode().rstrip("\n")
        self._source = machine.run(["printenv", "PYTHONPATH"], check=False).text
        self._left_over = False

    def play(self, program: Program) -> Answers:
        """MachineError when the machine or its driver did not live to the end of it."""
        driver = self._clean_driver()
        boots = []
        try:
            for number, boot in enumerate(program.boots):
                boots.append(self._ask(driver, boot))
                if number < program.jumps:
                    self._jump(driver, boot)
                    driver = self._driver()
        finally:
            if driver.boot == self.machine.boot:
                driver.kill()
        return Answers(tuple(boots))

    def _driver(self) -> Running:
        machine = self.machine
        arguments = [self._command_line, machine.kernel, *([machine.initrd] if machine.initrd else [])]
        path = os.pathsep.join(filter(None, [self._source, str(ROOT)]))
        return machine.spawn(self._python.module("tests.programs.driver", *arguments), env={"PYTHONPATH": path})

    def _clean_driver(self) -> Running:
        if self._left_over:
            self._jump(self._driver(), Boot(()))
            self._left_over = False
        return self._driver()

    def _ask(self, driver: Running, boot: Boot) -> tuple[Answer, ...]:
        answers: list[Answer] = []
        for start in range(0, len(boot.questions), STRETCH):
            stretch = boot.questions[start : start + STRETCH]
            answers.extend(driver.ask({"do": "many", "questions": stretch}, timeout=PATIENCE)["ok"])
        self.questions += len(boot.questions)
        return tuple(answers)

    def _jump(self, driver: Running, boot: Boot) -> None:
        machine, jump = self.machine, boot.jump
        if jump.segments:
            initrd = [f"--initrd={machine.initrd}"] if machine.initrd else []
            kexec = require_tool("kexec", package="kexec-tools")
            machine.run([kexec, "-c", "-l", machine.kernel, *initrd, f"--command-line={self._command_line}"])
        elif jump.again or driver.ask({"do": "loaded"})["ok"] != "1\n":
            _must(driver, {"do": "load"})
        with machine.expect_jump():
            if jump.by:  # a child that is not there, or not root, cannot
                driver.ask({"do": "reboot", "in": list(jump.by)})
            answer = driver.ask({"do": "reboot"})
            assert answer is None, f"reboot came back: {answer}"
        self.jumps += 1
        self._left_over = True


def _must(driver: Running, question: Question) -> None:
    answer = driver.ask(question)
    assert "ok" in answer, f"{question}: {answer}"
