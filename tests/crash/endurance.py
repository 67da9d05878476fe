"""Boots in a row, in each of which processes are killed at a chosen call; the tests of this folder use it.

A boot is all of luod's life at once: it starts and takes over what was carried, a VMM resumes its guest, has it carried
again, and an operator updates into the next boot. `Endurance.live(killing)` runs one, and returns its result. A shell's
loop starts the killed processes again, as systemd would. All continue until the kexec.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luod.testing import Host, Machine, require_tool
from luod.testing.host import ADMIN_SOCKET, SOCKET
from luod.testing.machine import Program
from tests.library import ROOT

SUPERVISOR = "luod.daemon.main --state-directory"
SERVE = "luod-serve"
JUMP = "luod.daemon.updates.reboot"
DISK = "luod.daemon.updates.disk"
VMM = "tests.programs.steadfast"
_AGAIN = "while :; do {}; sleep 0.05; done"


def build_killer(folder: Path) -> str:
    """Compiles killer.c; returns the path of the program."""
    compiler = require_tool("gcc", package="gcc")
    program = folder / "killer"
    source = Path(__file__).with_name("killer.c")
    subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, source], check=True)
    return str(program)


@dataclass(frozen=True)
class Killing:
    """`victims` are killed, all at once, when `who` enters its call number `call` of those that change state."""

    who: str
    call: int
    victims: tuple[str, ...]


@dataclass
class Lived:
    """A boot. `killed`: at which call, as killer.c writes it; "" without a kill. `diary`: the notes of VMMs in it."""

    killed: str
    diary: list[dict[str, Any]] = field(default_factory=list)

    def notes(self, kind: str) -> list[Any]:
        return [note[kind] for note in self.diary if kind in note]

    @property
    def guest(self) -> str:
        """Returns the guest that the kexec at the end of the boot carries."""
        guest: str = self.notes("guest")[-1]
        return guest

    @property
    def took_part(self) -> bool:
        """Returns whether the last VMM of the boot had begun to take part in updates. If not, it was started after a
        kill, and the update had begun with no guest: the operator's status was of the serve before.
        """
        begun = [number for number, note in enumerate(self.diary) if "guest" in note]
        return any("carrying" in note for note in self.diary[begun[-1] :])

    def before_death(self, kind: str) -> bool:
        """Returns whether a VMM that another followed has written such a note."""
        begun = [number for number, note in enumerate(self.diary) if "guest" in note]
        return any(kind in note for note in self.diary[: begun[-1]])


class Endurance:
    def __init__(self, machine: Machine, folder: Path, killer: str) -> None:
        self.machine = machine
        self._host = Host(machine, state_directory=folder / "state")
        self._folder = folder
        self._killer = killer
        self._diary = folder / "diary"
        self._diary.touch()
        self._programs: list[Program] = []

    def live(self, killing: Killing | None = None) -> Lived:
        """Runs one boot, to the next kexec."""
        report = self._folder / "killed"
        report.unlink(missing_ok=True)
        before = self._diary.stat().st_size
        state = str(self._folder / "state")
        python = self._host.python()
        self._spawn(SUPERVISOR, python.module("luod.daemon.main", "--state-directory", state), killing, report)
        self._spawn(VMM, python.module(VMM, SOCKET, str(self._diary)), killing, report)
        with self.machine.expect_jump(timeout=30):
            words = (ADMIN_SOCKET, self.machine.kernel, str(self._diary), str(before))
            self._spawn("", python.module("tests.programs.updating", *words), None, report)
        lines = self._diary.read_bytes()[before:].splitlines()
        return Lived(report.read_text() if report.exists() else "", [json.loads(line) for line in lines])

    def boots(self) -> int:
        """Returns the number of boots of luod in the boot that runs now."""
        self._host.start()
        boots: int = self._host.luoctl_json("status")["boot"]
        return boots

    def _spawn(self, name: str, command: Iterable[str], killing: Killing | None, report: Path) -> None:
        words = shlex.join(command)
        first = ""
        if killing is not None and name == (VMM if killing.who == VMM else SUPERVISOR):
            trace = [self._killer, killing.who, str(killing.call), str(report), ",".join(killing.victims), "--"]
            first = f"{shlex.join(trace)} {words}; "
        environment = self._host.python().environment
        environment = {**environment, "PYTHONPATH": f"{environment['PYTHONPATH']}:{ROOT}"}
        program = self.machine.spawn(["sh", "-c", first + _AGAIN.format(words)], env=environment)
        self._programs = [p for p in self._programs if p.boot >= self.machine.boot - 1] + [program]

    def errors(self) -> str:
        """Returns the stderr of the programs of the last two boots, for the reader of a failure."""
        return "\n".join(f"boot {program.boot}:\n{program.stderr}" for program in self._programs)
