"""A machine with luod and agents of QEMU: guests are started, carried through updates and restored, by luoctl."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from luod.testing import Program, eventually, require_tool
from luod.testing.tools import cannot_run
from tests.agents.qemu.guests import CountingGuest
from tests.daemon.host import Luod
from tests.daemon.participant import Operator, Participant, begin

NEWER = "LUOD_NEWER_QEMU"
"""The environment variable with the path of a newer QEMU, as scripts/fetch-qemu prints it."""
MORE = 5
"""Numbers after which a guest certainly runs."""


def qemu() -> str:
    """Returns the machine's QEMU."""
    return require_tool("qemu-system-x86_64", package="qemu-system-x86")


def newer_qemu() -> str:
    """Returns the QEMU of scripts/fetch-qemu. Skips the test without it."""
    path = os.environ.get(NEWER) or cannot_run(f"{NEWER} is not set to the path that scripts/fetch-qemu prints")
    return shutil.which(path) or cannot_run(f"{NEWER}: there is no program {path}")


class Host:
    """The agents on one machine. Each runs until its QEMU ends, or the kernel."""

    def __init__(self, luod: Luod, *, patience: float = 90) -> None:
        """`patience`: the seconds in which a guest must count."""
        self.luod = luod
        self._patience = patience
        self.agents: dict[str, Program] = {}

    def run(self, guest: CountingGuest, *arguments: str, program: str | None = None, **how: Any) -> Program:
        """Starts a guest from its beginning, and returns when it counts and follows luod.

        `arguments` are added to those of `guest.arguments(**how)`.
        """
        if not guest.disk.exists():
            guest.make_disk()
        command = [program or qemu(), *guest.arguments(**how), *arguments]
        return self._started(guest, "run", "--name", guest.name, "--", *command)

    def restore(self, guest: CountingGuest, *options: str) -> Program:
        """Restores a guest from the last kernel, and returns when it counts on and follows luod."""
        return self._started(guest, "restore", guest.name, *options)

    def restore_all(self, guests: Sequence[CountingGuest]) -> None:
        """Restores guests from the last kernel, all at once."""
        for guest in guests:
            self.agents[guest.name] = self.luoctl_qemu("restore", guest.name)
        for guest in guests:
            self.until_it_counts(guest)
            self.until_it_takes_part(guest)

    def _started(self, guest: CountingGuest, *arguments: str) -> Program:
        agent = self.agents[guest.name] = self.luoctl_qemu(*arguments)
        self.until_it_counts(guest)
        self.until_it_takes_part(guest)
        return agent

    def luoctl_qemu(self, *arguments: str) -> Program:
        """Starts `luoctl qemu` with these arguments."""
        python = self.luod.python()
        return self.luod.machine.spawn(python.module("luod.ctl.main", "qemu", *arguments), env=python.environment)

    def until_it_counts(self, guest: CountingGuest) -> None:
        """Waits until a guest has printed some numbers more."""
        before = len(guest.numbers())
        agent = self.agents[guest.name]

        def counts() -> bool:
            if agent.returncode is not None or not self.luod.machine.signal(agent.pid, 0):
                raise AssertionError(f"the agent of {guest.name} ended:\n{agent.stderr}")
            return len(guest.numbers()) >= before + MORE

        eventually(counts, within=self._patience, describe=f"{guest.name} counts on from {before}")

    def until_it_takes_part(self, guest: CountingGuest) -> None:
        """Waits until a guest takes part in updates, as its agent says."""
        agent = self.agents[guest.name]
        eventually(
            lambda: "takes part" in agent.stderr,
            within=self._patience,
            describe=f"{guest.name} takes part in updates",
        )

    def update(self) -> None:
        """Does a live update, and starts luod in the next kernel, in which no guest runs yet."""
        self.luod.load()
        self.luod.update()
        self.agents.clear()
        self.luod.start()

    def qemu_pid(self, guest: CountingGuest) -> int:
        """Returns the process id of a guest's QEMU, in the machine."""
        agent = self.agents[guest.name].pid
        children = self.luod.machine.read(f"/proc/{agent}/task/{agent}/children").split()
        assert len(children) == 1, f"the agent of {guest.name} has the children {children}"
        return int(children[0])

    def sessions(self) -> dict[str, str]:
        """Returns the state of each session, by its name."""
        return {session["name"]: session["state"] for session in self.luod.luoctl_json("list")["sessions"]}


def counting(folder: Path, name: str = "vm", **how: Any) -> CountingGuest:
    """Returns a guest with a folder of its own below `folder`."""
    own = folder / name
    own.mkdir()
    return CountingGuest(name, own, **how)


class HasLuod(Protocol):
    """A machine with luod, whatever runs beside it."""

    luod: Luod


class Witness:
    """A second participant, which follows an update with the guests, and decides when it goes on or ends."""

    def __init__(self, host: HasLuod) -> None:
        self._luod = host.luod
        self.participant = Participant(host.luod, "witness")
        self.operator: Operator | None = None
        self.generation = 0
        self.phase = ""

    def begin(self, *, deadline: float | None = None) -> None:
        """Begins an update. It stays in preparing until `prepared`. `deadline`: seconds until it is cancelled."""
        self.phase = "preparing"
        self.operator = begin(self._luod, deadline=deadline)
        self.generation = self.participant.expect("preparing")["generation"]

    def until_ready(self, *names: str) -> None:
        """Waits until these participants have voted ready in the present phase."""
        assert self.operator is not None
        left = set(names)
        while left:
            progress = self.operator.next()
            assert progress is not None, f"the update ended, and {left} never were ready"
            if progress["state"] == self.phase:
                left -= {entry["name"] for entry in progress["participants"] if entry["standing"] == "ready"}

    def prepared(self) -> None:
        """Votes in preparing. The update stays in freezing until `frozen`."""
        self.phase = "freezing"
        self.participant.vote("preparing")
        self.participant.expect("freezing")

    def frozen(self) -> None:
        """Preserves its state, and votes in freezing."""
        self.participant.freeze(self.generation)
        self.participant.vote("freezing")

    def veto(self, phase: str) -> None:
        """Cancels the update in this phase."""
        self.participant.vote(phase, "veto", "the witness says no")
        self.until_cancelled()

    def until_cancelled(self) -> str:
        """Waits until the update was cancelled. Returns the reason."""
        event = self.participant.event()
        while event["event"] != "cancelled":
            event = self.participant.event()
        reason: str = event["reason"]
        return reason


def messages(agent: Program) -> str:
    """Returns what an agent has said so far."""
    return agent.stderr


def timeline(luod: Luod) -> dict[str, Any]:
    """Returns the timeline of the last update."""
    found: dict[str, Any] = json.loads(luod.luoctl("--json", "timeline").stdout)["timeline"]
    return found


def qemu_arguments(pid: int, luod: Luod) -> Sequence[str]:
    """Returns the command line of a process in the machine."""
    return luod.machine.read(f"/proc/{pid}/cmdline").decode().rstrip("\0").split("\0")
