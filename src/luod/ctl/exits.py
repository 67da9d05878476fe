"""luoctl's exit statuses, their meanings, and the status of each error."""

from __future__ import annotations

import enum
from typing import Final

from luod import errors


class Exit(enum.IntEnum):
    """The exit statuses. They are an interface for scripts: the numbers do not change."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4
    CANCELLED = 5
    UPDATE_RUNNING = 6
    NOT_FOUND = 7
    TIMED_OUT = 8
    NOT_UPDATED = 9
    BROKEN = 10
    INTERRUPTED = 130


MEANINGS: Final[dict[Exit, str]] = {
    Exit.DONE: "done",
    Exit.FAILED: "failed: the kernel, a file or luod returned an error",
    Exit.USAGE: "usage: the command line or an argument is wrong",
    Exit.UNREACHABLE: "luod cannot be reached, or ended before it answered",
    Exit.REFUSED: "refused by the policy or by a check; nothing was changed",
    Exit.CANCELLED: "the update was cancelled; nothing is lost",
    Exit.UPDATE_RUNNING: "another update is running",
    Exit.NOT_FOUND: "there is no such session, or update",
    Exit.TIMED_OUT: "`luoctl wait`, or `luoctl fleet-lock --wait`, reached its timeout",
    Exit.NOT_UPDATED: "`luoctl wait --update`: the machine was booted without a kexec of luod; its sessions are lost",
    Exit.BROKEN: "`luoctl wait`: this kernel could not take over what was preserved",
    Exit.INTERRUPTED: "interrupted by SIGINT",
}
"""The text of `luoctl --help`. A test compares it with docs/json.md."""

_REFUSED: Final = {"PermissionDenied", "Busy", "NotFinished", "NoUpdate", "TooLate", "NotCarriedOver"}


def kind(error: Exception) -> str:
    """Returns the name of `error` in JSON: its class, or the name of luod's Varlink error that has no class."""
    if isinstance(error, errors.CallFailed):
        return error.name.rpartition(".")[2]
    return type(error).__name__


def status(error: Exception) -> Exit:
    """Returns the exit status for `error`."""
    match error:
        case errors.DaemonUnreachable():
            return Exit.UNREACHABLE
        case errors.BadInput():
            return Exit.USAGE
        case errors.Refused() | errors.FleetLockRefused() | errors.NoImageLoaded() | errors.NotAKernelImage():
            return Exit.REFUSED
        case errors.CallFailed() if kind(error) == "UpdateRunning":
            return Exit.UPDATE_RUNNING
        case errors.CallFailed() if kind(error) in _REFUSED:
            return Exit.REFUSED
        case _ if kind(error) == "NoSuchSession":
            return Exit.NOT_FOUND
        case _:
            return Exit.FAILED
