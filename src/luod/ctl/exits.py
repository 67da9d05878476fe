"""luoctl's exit status: what each number means, and which error gives which."""

from __future__ import annotations

import enum

from luod import errors


class Exit(enum.IntEnum):
    """Part of luoctl's interface: scripts rely on the numbers."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    """luod cannot be reached."""
    REFUSED = 4
    """luod declined, by policy or by what it checks before it acts; nothing was changed."""
    CANCELLED = 5
    """The update was cancelled, by a veto or a timeout; nothing is lost."""
    UPDATE_RUNNING = 6
    INTERRUPTED = 130
    """As shells say it of a program that SIGINT ended."""


_DECLINED = {"PermissionDenied", "Busy", "NotFinished", "NoUpdate", "TooLate", "NotCarriedOver"}


def kind(error: Exception) -> str:
    """What `error` is called in JSON: its class, or luod's own name where luod answered with what has no class."""
    if isinstance(error, errors.CallFailed):
        return error.name.rpartition(".")[2]
    return type(error).__name__


def status(error: Exception) -> Exit:
    """The exit status for `error`."""
    match error:
        case errors.DaemonUnreachable():
            return Exit.UNREACHABLE
        case errors.BadInput():
            return Exit.USAGE
        case errors.Refused() | errors.NoImageLoaded() | errors.NotAKernelImage():
            return Exit.REFUSED
        case errors.CallFailed() if kind(error) == "UpdateRunning":
            return Exit.UPDATE_RUNNING
        case errors.CallFailed() if kind(error) in _DECLINED:
            return Exit.REFUSED
        case _:
            return Exit.FAILED
