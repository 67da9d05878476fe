"""What a modelled system call can come to, other than a number or an `Errno`. Plain values; `trap` acts on them."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Blocked:
    """The caller sleeps and gets no answer. `until` says in words what would wake it; "" means nothing ever does."""

    until: str = ""


@dataclass(frozen=True)
class Waiting(Blocked):
    """`Blocked` until something else happens in the machine.

    `poll` gives the call's result (or raises its Errno) once that is so, and None before; to be asked after each
    request that was answered and each file that was released, and not again after it gave one.
    """

    poll: Callable[[], int | None] = lambda: None


@dataclass(frozen=True)
class Jump:
    """reboot(LINUX_REBOOT_CMD_KEXEC) does not return: kill every process, then take `Kernel.jump()`."""


class Ending(enum.Enum):
    """reboot(2) ends the machine without a kexec; all that was preserved is lost."""

    HALT = "halt"
    POWER_OFF = "power off"
    RESTART = "restart"


class Panic(Exception):
    """The next kernel stops while it boots; its message is the panic's. Raised by `Kernel.jump()`."""
