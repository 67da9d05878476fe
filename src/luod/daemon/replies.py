"""Errors that more than one part of serve answers with, in the same words wherever they come from.

Same words matter: somebody else's session and one that does not exist must not be told apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from luod.ipc.errors import Busy, NoManifest, NoSuchSession, Resumed, TooLate, Torn, UpdateRunning

if TYPE_CHECKING:
    from luod.ipc.types.sessions import Direction


_SHOWN: Final = "luoctl list shows a user its own sessions, and root all"


def torn(name: str) -> Torn:
    return Torn(
        name=name,
        message=f"session {name!r} is torn: the machine jumped without its participant being ready",
        hint="nothing can be resumed from it; release it as given up",
    )


def no_such_session(direction: Direction | None, name: str) -> NoSuchSession:
    return NoSuchSession(
        name=name,
        message=f"there is no {direction + ' ' if direction else ''}session {name!r}",
        hint=_SHOWN,
    )


def no_manifest(name: str) -> NoManifest:
    return NoManifest(
        name=name,
        message=f"incoming session {name!r} is finished, or its maker wrote no manifest",
        hint="its tokens can be retrieved by number, by its owner",
    )


def not_looked_at(name: str, *, retrieved: bool) -> NoManifest:
    if retrieved:
        return NoManifest(
            name=name,
            message=f"luod does not hold incoming session {name!r}: a client has it from a luod that ended",
            hint="ask that client",
        )
    return NoManifest(
        name=name,
        message=f"incoming session {name!r} waits in the kernel, and its manifest with it",
        hint="its contents cannot be shown before its owner retrieves it; Describe says what luod knows of it",
    )


def forwarding(name: str) -> Busy:
    return Busy(
        message=f"luod makes session {name!r} ready for the next kernel",
        hint="it can be retrieved there; luoctl list shows how it stands",
    )


def reaped(name: str) -> Torn:
    return Torn(
        name=name,
        message=f"session {name!r} is being discarded, so nothing can be resumed from it",
        hint="start the guest anew; if the reaper fails, release the session as given up",
    )


def resumed(name: str) -> Resumed:
    return Resumed(
        name=name,
        message=f"the guest of session {name!r} was resumed already, and has changed what it was resumed from",
        hint="release the session, and start the guest anew",
    )


def too_late() -> TooLate:
    return TooLate(message="reboot(2) is called: the machine jumps", hint="if the kernel refuses, luod says so")


def update_running() -> UpdateRunning:
    return UpdateRunning(message="a live update is under way", hint="wait for it to end")
