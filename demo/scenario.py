"""The main job, from outside a machine: two VMMs keep their memory over live updates that luod runs.

`run` takes any machine of `luod.testing` that is up and tells its story through `tell`; it is the demo's text and a
test's. It fails with AssertionError, naming what differs, when a byte is lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from luod.errors import MachineError
from luod.testing import Host, Machine, Program
from luod.testing.host import SOCKET
from luod.testing.interpreter import interpreter_for

Tell = Callable[[str], None]
ROOT = Path(__file__).resolve().parent.parent
"""Where the package `demo` is, for the interpreters in the machine."""


@dataclass(frozen=True)
class Guest:
    """A VMM of the story. `uid` None runs as the machine's init does."""

    name: str
    uid: int | None


@dataclass(frozen=True)
class Outcome:
    """What a run of the scenario measured. Times in seconds."""

    guests: int
    bytes_carried: int
    updates: int
    jump_seconds: tuple[float, ...]


class Story:
    """Runs luod and the guests in one machine, boot after boot."""

    def __init__(self, host: Host, guests: tuple[Guest, ...], mebibytes: int, tell: Tell) -> None:
        self._host = host
        self._guests = guests
        self._mebibytes = mebibytes
        self._tell = tell
        self._started = time.monotonic()

    def say(self, text: str) -> None:
        self._tell(f"{time.monotonic() - self._started:6.2f} s  boot {self._host.machine.boot}  {text}")

    def start_luod(self) -> None:
        self._host.start()
        self.say("luod is up")

    def spawn(self, guest: Guest) -> Program:
        python = self._host.python(guest.uid)
        path = f"{python.environment['PYTHONPATH']}:{ROOT}"
        environment = {**python.environment, "PYTHONPATH": path}
        return self._host.machine.spawn(python.module("demo.vmm", SOCKET), env=environment, user=guest.uid)

    def fill(self) -> dict[str, str]:
        """Every guest preserves its memory; the digests by name."""
        digests = {}
        for guest in self._guests:
            vmm = self.spawn(guest)
            answer = vmm.ask({"do": "start", "name": guest.name, "mebibytes": self._mebibytes})
            digests[guest.name] = answer["sha256"]
            self.say(
                f"{guest.name} (uid {answer['uid']}) preserved {self._mebibytes} MiB, sha256 {answer['sha256'][:12]}…"
            )
        return digests

    def update(self) -> float:
        """Loads the next kernel and jumps into it. Returns the seconds from the command to the next init."""
        self._host.load()
        self.say("luoctl load: the next kernel is loaded")
        begun = time.monotonic()
        self.say("luoctl update: kexec, every process ends here")
        self._host.update()
        taken = time.monotonic() - begun
        self.say(f"the next kernel runs its init, {taken:.2f} s after luoctl update")
        return taken

    def check(self, digests: dict[str, str]) -> None:
        """Every guest finds its memory again, byte for byte."""
        names = self.names()
        assert names == sorted(digests), f"luod knows {names}, not {sorted(digests)}"
        self.say(f"luod found its registry: {' and '.join(names)} wait in the kernel")
        for guest in self._guests:
            vmm = self.spawn(guest)
            answer = vmm.ask({"do": "resume", "name": guest.name})
            assert answer["sha256"] == digests[guest.name], f"{guest.name}: the memory differs"
            mebibytes = answer["bytes"] >> 20
            self.say(f"{guest.name} (uid {answer['uid']}) has its {mebibytes} MiB back, every byte the same, FINISH")

    def names(self) -> list[str]:
        """The sessions luod knows of."""
        return sorted(session["name"] for session in self._host.luoctl_json("sessions")["sessions"])


def run(host: Host, guests: tuple[Guest, ...], *, mebibytes: int, updates: int, tell: Tell) -> Outcome:
    """Tells the story: `updates` live updates in a row, each with fresh memory of `mebibytes` MiB a guest."""
    story = Story(host, guests, mebibytes, tell)
    jumps = []
    story.start_luod()
    for _ in range(updates):
        digests = story.fill()
        jumps.append(story.update())
        story.start_luod()
        story.check(digests)
    assert story.names() == [], f"sessions are left: {story.names()}"
    story.say("no session is left")
    return Outcome(len(guests), len(guests) * (mebibytes << 20) * updates, updates, tuple(jumps))


def can_become(machine: Machine, uid: int) -> bool:
    """Whether a program in `machine` can run under `uid`, with a Python that this uid may use."""
    if interpreter_for(uid) is None:
        return False
    try:
        machine.run(["true"], user=uid)
    except MachineError:
        return False
    return True
