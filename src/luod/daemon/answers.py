"""Errors that more than one part of serve answers with, in the same words wherever they come from.

Same words matter: somebody else's session and one that does not exist must not be told apart. Called by
`luod.daemon.sessions`, `.held`, `.update` and `.reaping`.
"""

from __future__ import annotations

import asyncio
from typing import Final

from luod import errors
from luod.ipc import admin
from luod.ipc.sessions import (
    Busy,
    DeviceBroken,
    Direction,
    KernelRefused,
    NoSuchSession,
    Resumed,
    SessionExists,
    Torn,
)
from luod.linux import Fd
from luod.liveupdate import IncomingSession

_PATIENCE_SECONDS: Final = 5.0


async def unfinished(session: Fd) -> bool:
    """Whether the kernel still has the session's files, told by its manifest (H10); one without looks finished.

    It takes an ioctl, which waits for whoever else is in one of this session, and so is none for the loop. Busy: it
    waits still.
    """
    asked = asyncio.ensure_future(asyncio.to_thread(_holds, session.duplicate()))
    asked.add_done_callback(lambda done: done.cancelled() or done.exception())
    try:
        return await asyncio.wait_for(asyncio.shield(asked), _PATIENCE_SECONDS)
    except TimeoutError:
        raise Busy(message="somebody is in an ioctl of this session", hint="ask again when that is over") from None


def _holds(session: Fd) -> bool:
    with IncomingSession(session) as incoming:
        return incoming.holds()


def torn(name: str) -> Torn:
    return Torn(
        name=name,
        message=f"session {name!r} is torn: the machine jumped without its participant being ready",
        hint="nothing can be resumed from it; release it as given up",
    )


def no_such_session(direction: Direction, name: str) -> NoSuchSession:
    return NoSuchSession(
        name=name,
        message=f"there is no {direction} session {name!r} of yours",
        hint="sessions belong to the user that created them; luoctl sessions shows yours",
    )


def session_exists(name: str, message: str, hint: str) -> SessionExists:
    return SessionExists(name=name, message=message, hint=hint)


def forwarding(name: str) -> Busy:
    return Busy(
        message=f"luod makes session {name!r} ready for the next kernel",
        hint="it can be retrieved there; luoctl sessions shows how it stands",
    )


def reaped(name: str) -> Torn:
    return Torn(
        name=name,
        message=f"session {name!r} is being reaped, so nothing can be resumed from it",
        hint="start the guest anew; if the reaper fails, release the session as given up",
    )


def resumed(name: str) -> Resumed:
    return Resumed(
        name=name,
        message=f"the guest of session {name!r} was resumed already, and has changed what it was resumed from",
        hint="release the session, and start the guest anew",
    )


def too_late() -> admin.TooLate:
    return admin.TooLate(message="reboot(2) is called: the machine jumps", hint="if the kernel refuses, luod says so")


def update_running() -> admin.UpdateRunning:
    return admin.UpdateRunning(message="a live update is under way", hint="wait for it to end")


def kernel_refused(error: errors.KernelRefused) -> Busy | DeviceBroken | KernelRefused:
    """What a program is told."""
    if isinstance(error, errors.DeviceBusy):
        return Busy(message=f"/dev/liveupdate: {error.meaning}", hint="try again")
    if isinstance(error, errors.DeviceBroken):
        return DeviceBroken(message=error.message, hint=error.hint)
    return KernelRefused(
        call=error.call, errno=error.errno, meaning=error.meaning, message=error.message, hint=error.hint
    )


def refused_by_kernel(error: errors.KernelRefused) -> admin.NotAKernelImage | admin.KernelRefused:
    """What an operator is told."""
    if isinstance(error, errors.NotAKernelImage):
        return admin.NotAKernelImage(message=error.message, hint=error.hint)
    return admin.KernelRefused(
        call=error.call, errno=error.errno, meaning=error.meaning, message=error.message, hint=error.hint
    )
