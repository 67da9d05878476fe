"""Results of a modelled system call other than a number or an `Errno`. Plain values, on which `trap` acts."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Blocked:
    """The caller sleeps and gets no answer. `until` describes the event that wakes it; "": no event does."""

    until: str = ""


@dataclass(frozen=True)
class Waiting(Blocked):
    """`Blocked` until another event in the machine.

    `poll` returns None before that event, and then the call's result, or raises its Errno. Run it after each answered
    request and each released file, and not again after it returned a result.
    """

    poll: Callable[[], int | None] = lambda: None
    works: bool = False
    """Whether `poll` itself is the work, and no event: run it again soon."""


@dataclass(frozen=True)
class Jump:
    """reboot(LINUX_REBOOT_CMD_KEXEC) does not return: kill every process, then use `Kernel.jump()`."""


class Ending(enum.Enum):
    """reboot(2) ends the machine without a kexec. All preserved state is lost."""

    HALT = "halt"
    POWER_OFF = "power off"
    RESTART = "restart"


@dataclass(frozen=True)
class Delayed(Blocked):
    """The `Jump` or the `Ending` comes after another event in the machine.

    `poll` returns None before that event. Run it as that of `Waiting`.
    """

    poll: Callable[[], Jump | Ending | None] = lambda: None


class Unfinished(Exception):
    """A call has more to do in memory than others may wait for.

    Answer others, and then make it again with the same `Caller`, which has its progress. It changed nothing yet that
    another call could see.
    """


class Panic(Exception):
    """The next kernel stops while it boots, with the panic's message. `Kernel.jump()` raises it."""
