"""Writes random programs: from a seed and a size a `Program`, the same one everywhere and always.

The author's parts are `sessions`, `memory` and `processes` over `writer`. `beliefs` has the meaning of its calls, and
`garble` the garbled ones (sizes, tails, memory). Nothing here makes calls to a machine.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from tests.conformance.random_programs.beliefs import Memory, Process, Session
from tests.conformance.random_programs.processes import ProcessCalls
from tests.conformance.random_programs.program import Boot, Jump, Program

MOST_FILES: Final = 150
"""The maximum for one process: the usual limit is 1024."""


def generate(seed: int, *, boots: int, questions: int, several_uids: bool = True, tools: bool = True) -> Program:
    """Returns a program of `boots` boots with about `questions` questions each.

    `several_uids`: the machines have uids other than root. `tools`: kexec-tools are installed, for kexecs that lose
    all.
    """
    author = Author(random.Random(seed), several_uids=several_uids, tools=tools)
    return Program(seed, tuple(author.boot(questions) for _ in range(boots)))


class Author(ProcessCalls):
    """Writes one boot after the other."""

    def __init__(self, chance: random.Random, *, several_uids: bool, tools: bool) -> None:
        super().__init__(chance, several_uids=several_uids)
        self._tools = tools
        steps: dict[Callable[[Process], None], int] = {
            self.open_device: 7,
            self.create: 14,
            self.memfd: 14,
            self.preserve: 24,
            self.retrieve_session: 16,
            self.retrieve_fd: 22,
            self.finish: 7,
            self.get_name: 4,
            self.any_ioctl: 5,
            self.probe: 12,
            self.about: 8,
            self.digest: 6,
            self.scrawl: 8,
            self.seek: 4,
            self.resize: 3,
            self.seal: 4,
            self.mapping: 4,
            self.other_file: 4,
            self.duplicate: 5,
            self.reopen: 2,
            self.close: 12,
            self.socket: 5,
            self.child: 6,
            self.full: 2,
            self.kexec: 1,
        }
        self._steps, self._weights = list(steps), list(steps.values())

    def boot(self, questions: int) -> Boot:
        self.started, self.held, self.questions = [Process()], [], []
        while len(self.questions) < questions:
            # A child can do everything that the driver can. Mostly the driver does it.
            process = self.chance.choice(self.started) if self.rarely(3) else self.started[0]
            self.chance.choices(self._steps, self._weights)[0](process)
            if len(process.files) > MOST_FILES:
                self.close(process)
        jump = Jump(
            segments=self._tools and self.rarely(12),
            again=not self.rarely(3),
            by=self.chance.choice(self.started).path if self.rarely(4) else (),
        )
        self._arrive(carried=not jump.segments)
        return Boot(tuple(self.questions), jump)

    def _arrive(self, *, carried: bool) -> None:
        """Notes what the next boot may find."""
        there = {file.name: file for file in self.everywhere() if isinstance(file, Session) and file.outgoing}
        gone = set(self.arrived) - set(there)
        self.lost = sorted(gone | (set() if carried else set(there)))
        self.arrived = {
            name: Session(name, False, {token: Memory(memory.size) for token, memory in session.tokens.items()})
            for name, session in (there if carried else {}).items()
        }
