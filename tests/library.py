"""The outside of `tests.programs.library`: a process in a machine that makes the calls of luod's library.

`vmm.call("preserve", session="s", file="m", token=1)` gives the call's value; `vmm.refused(…)` the error it raised.
Raw calls as of `tests.conformance.caller.Caller` work beside them. Used by the tests of the library on a machine.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luod.testing import Machine
from luod.testing.interpreter import Interpreter
from tests.conformance.caller import Caller, Refusal

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Error:
    """An error of luod's tree, as the process inside caught it."""

    kind: str
    errno: str | None
    message: str
    hint: str
    tokens: tuple[int, ...]
    needed: int | None


class Vmm(Caller):
    """A process of a workload: it uses the library, and can make raw calls."""

    def call(self, call: str, /, **arguments: Any) -> Any:
        """Returns the value of a call that succeeds."""
        answer = self.ask("library", call=call, **arguments)
        if "error" in answer:
            raise Refusal(f"{call}({arguments}): {answer}")
        return answer["value"]

    def refused(self, call: str, /, **arguments: Any) -> Error:
        """Returns the error of a call that fails."""
        answer = self.ask("library", call=call, **arguments)
        assert "error" in answer, f"{call}({arguments}) should have been refused: {answer}"
        tokens = tuple(answer["tokens"])
        return Error(answer["error"], answer["errno"], answer["message"], answer["hint"], tokens, answer["needed"])

    def memfd(self, slot: str, *, size: int = 4096, seed: int = 0) -> str:
        """Makes a memfd full of data and returns the sha256 of its contents."""
        self.ask("memfd", slot=slot, size=size)
        digest: str = self.ask("fill", fd=slot, length=size, seed=seed)
        return digest

    def fork_vmm(self, name: str) -> Vmm:
        """Forks a child with duplicates of every fd and every object."""
        self.ask("fork", kid=name)
        return Vmm(self.program, (*self.path, name))


def start_vmm(
    machine: Machine, python: Interpreter, program: str = "library", arguments: tuple[str, ...] = (), **how: Any
) -> Vmm:
    """Starts a program of tests/programs in `machine`; `how` is `Machine.spawn`'s."""
    source, programs = python.environment["PYTHONPATH"], python.readable(ROOT / "tests").parent
    env = {"PYTHONPATH": os.pathsep.join([source, str(programs)])}
    return Vmm(machine.spawn(python.module(f"tests.programs.{program}", *arguments), env=env, forked=True, **how))


def load(machine: Machine, vmm: Vmm) -> None:
    """Loads the machine's own kernel with its own command line, with the library."""
    command_line = machine.read("/proc/cmdline").decode().strip()
    vmm.call("load", kernel=machine.kernel, initrd=machine.initrd, command_line=command_line)


def jump(machine: Machine, vmm: Vmm) -> None:
    """Jumps into what is loaded, with the library."""
    with machine.expect_jump():
        raise AssertionError(f"jump came back: {vmm.reply('library', call='jump')}")


def arrive(machine: Machine, python: Interpreter, before: Vmm) -> Vmm:
    """Jumps, and retrieves session "vm" as "s"."""
    load(machine, before)
    jump(machine, before)
    after = start_vmm(machine, python)
    after.call("retrieve_session", name="vm", slot="s")
    return after
