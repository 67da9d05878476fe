"""A Linux guest of an unmodified QEMU counts on its serial console through a kernel update, from outside the machine.

`Story` starts the guest by `luoctl qemu run`, does the update, and continues the guest by `luoctl qemu restore`. It
reports each step through `tell`. The demo, a test and the benchmark use it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from demo.qemu.console import Console, Line, longest_gap
from luod.testing import Host, Program, eventually

NAME = "vm"
BOOT_SECONDS = 240.0
"""A guest's boot, and the filling of its memory, on emulated processors."""


@dataclass(frozen=True)
class Outcome:
    """A guest's update. `gap`: the longest time between two of its numbers, in seconds."""

    before: int
    after: int
    gap: float


class Guest(Protocol):
    """A guest that prints numbers. `memory` is its RAM in MiB, of which it fills `mebibytes`."""

    @property
    def memory(self) -> int: ...

    @property
    def mebibytes(self) -> int: ...

    def arguments(self, folder: Path) -> list[str]:
        """Returns QEMU's arguments but those of the console, and puts what they name into `folder`."""


class Story:
    """A guest on a machine with luod. The console must be open for as long as the guest lives."""

    def __init__(
        self,
        host: Host,
        guest: Guest,
        console: Console,
        folder: Path,
        qemu: str,
        tell: Callable[[str], None],
        arguments: Sequence[str] = (),
    ) -> None:
        """`arguments` are added to QEMU's."""
        self._host = host
        self._guest = guest
        self._console = console
        self._folder = folder
        self._qemu = qemu
        self._tell = tell
        self._arguments = arguments
        self._started = time.monotonic()
        self.agent: Program | None = None

    def say(self, text: str) -> None:
        self._tell(f"{time.monotonic() - self._started:6.2f} s  boot {self._host.machine.boot}  {text}")

    def start(self) -> None:
        """Starts luod and the guest, and returns when the guest's memory is full and it counts."""
        self._host.start()
        self.say("luod is up")
        arguments = [
            *self._guest.arguments(self._folder),
            "-display",
            "none",
            *self._console.arguments,
            *self._arguments,
        ]
        self._luoctl_qemu("run", "--name", NAME, "--", self._qemu, *arguments)
        self.say(f"luoctl qemu run: a QEMU with {self._guest.memory} MiB boots Linux")
        self.until_counted(3)
        self.say(f"the guest filled {self._guest.mebibytes} MiB of its memory, and counts: {self.last()}")

    def update(self, *, pause: float = 0.0) -> Outcome:
        """Does a live update, and returns when the guest counts again. It is paused for `pause` seconds at least."""
        self._host.load()
        self.say("luoctl load: the next kernel is loaded")
        begun = self._count()
        self.say("luoctl update: the guest is paused, its state saved; kexec, every process ends here")
        self._host.update()
        before = self.last()
        self.say(f"the next kernel runs its init; the last number of the guest was {before}")
        self._host.start()
        self.say("luod is up, and has the guest's sessions")
        paused = self._console.numbers()[-1][0]
        eventually(
            lambda: time.monotonic() >= paused + pause, within=pause + 1, describe=f"a pause of {pause} s has passed"
        )
        self._luoctl_qemu("restore", NAME)
        self.until_counted(self._count() + 3)
        self.say(f"luoctl qemu restore: the guest counts on: {before + 1}, {before + 2}, {before + 3}")
        gap = longest_gap(self._console.numbers()[max(0, begun - 2) :])
        return Outcome(before, self.last(), gap)

    def last(self) -> int:
        """Returns the last number that the guest printed."""
        return self._console.numbers()[-1][1]

    def checks(self) -> int:
        """Returns how often the guest has found its memory intact. Raises AssertionError when it once did not."""
        assert self._console.last("damaged") is None, "the guest's memory is damaged"
        line = self._console.last("intact")
        return int(line.split()[1]) if line else 0

    def until_checked_again(self) -> int:
        """Waits until the guest has found its memory intact twice more: the second check began after now."""
        before = self.checks()
        eventually(
            lambda: self.checks() >= before + 2, within=BOOT_SECONDS, describe="the guest checked its memory again"
        )
        return self.checks()

    def until_counted(self, numbers: int) -> None:
        """Waits until the guest has printed so many numbers."""
        eventually(lambda: self._lives() and self._count() >= numbers, within=BOOT_SECONDS, describe="the guest counts")

    def timeline(self) -> Any:
        """Returns the timeline of the last update."""
        return self._host.luoctl_json("timeline")["timeline"]

    def drawn(self, picture: Path | None = None) -> str:
        """Returns the timeline for people, and draws it into `picture`."""
        drawing = () if picture is None else ("--svg", str(picture.resolve()))
        return self._host.luoctl("timeline", *drawing).text

    def _count(self) -> int:
        return len(self._console.numbers())

    def _lives(self) -> bool:
        """Returns true. Raises AssertionError when the agent has ended."""
        assert self.agent is not None
        lives = self._host.machine.signal(self.agent.pid, 0)
        assert lives, f"the agent ended:\n{self.agent.stderr}\n{''.join(line.text for line in self._console.lines)}"
        return True

    def _luoctl_qemu(self, *arguments: str) -> None:
        python = self._host.python()
        command = python.module("luod.ctl.main", "qemu", *arguments)
        self.agent = self._host.machine.spawn(command, env=python.environment)


def shown(line: Line) -> str:
    """Returns a line of the console for people."""
    return f"{'':18}| {line.text}"
