"""Error replies that several parts of serve share.

The words must not differ: a client must not distinguish another user's session from one that does not exist.
"""

from __future__ import annotations

from luod.daemon.run_state import RunState
from luod.daemon.store.states import IncomingState
from luod.ipc.errors import Busy, NoManifest, NoSuchSession, Resumed, TooLate, Torn, UpdateRunning
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from luod.ipc.types.sessions import Direction


_SHOWN: Final = "`luoctl list` shows your sessions, and all sessions to root"


def torn(name: str) -> Torn:
    return Torn(
        name=name,
        message=f"session {name!r} is torn: its participant was not ready for the kexec",
        hint="it cannot be restored; release it: luoctl release NAME",
    )


def no_such_session(direction: Direction | None, name: str) -> NoSuchSession:
    return NoSuchSession(
        name=name,
        message=f"there is no {direction + ' ' if direction else ''}session {name!r}",
        hint=_SHOWN,
    )


def manifest_not_given(name: str) -> NoManifest:
    return NoManifest(
        name=name,
        message=f"luod was given no manifest of session {name!r}",
        hint="the session was created without one, or luod was restarted since; it is preserved like any other",
    )


def no_manifest(name: str) -> NoManifest:
    return NoManifest(
        name=name,
        message=f"incoming session {name!r} is finished, or was created without a manifest",
        hint="its owner can still retrieve files by token",
    )


def not_looked_at(name: str, state: IncomingState, *, broken: bool) -> NoManifest:
    if broken:
        return NoManifest(
            name=name,
            message=f"this kernel could not take over incoming session {name!r}, so its manifest cannot be read",
            hint="start its guest from the beginning; `luoctl release` ends what luod knows of the session",
        )
    if state is IncomingState.TORN:
        return NoManifest(
            name=name,
            message=f"incoming session {name!r} is torn, and luod does not hold it, so its manifest cannot be read",
            hint="start its guest from the beginning; `luoctl discard` frees what is left of it",
        )
    if state is not IncomingState.WAITING:
        return NoManifest(
            name=name,
            message=f"luod does not hold incoming session {name!r}: a client retrieved it from an earlier luod",
            hint="ask that client",
        )
    return NoManifest(
        name=name,
        message=f"incoming session {name!r} waits in the kernel, so its manifest cannot be read",
        hint="its files are known after its owner has retrieved it",
    )


def carrying_over(name: str) -> Busy:
    return Busy(
        message=f"session {name!r} is being carried over to the next kernel",
        hint="it can be retrieved there; `luoctl list` shows its state",
    )


def carried_over(name: str) -> Busy:
    return Busy(
        message=f"session {name!r} was carried over, and can be restored in the next kernel",
        hint=f"update the kernel, or give the guest up with `luoctl release {name}`",
    )


def reaped(name: str) -> Torn:
    return Torn(
        name=name,
        message=f"session {name!r} is being discarded and cannot be restored",
        hint="start the guest from the beginning; if the reaper fails, release the session",
    )


def resumed(name: str) -> Resumed:
    return Resumed(
        name=name,
        message=f"the guest of session {name!r} has already resumed and has changed its memory",
        hint="release the session, and start the guest from the beginning",
    )


def too_late() -> TooLate:
    return TooLate(
        message="reboot(2) has been called; the update cannot be cancelled any more",
        hint="if the kernel refuses the kexec, the update is cancelled",
    )


def update_running(state: RunState) -> UpdateRunning:
    """Returns the refusal of a request that this state of luod does not allow."""
    if state is RunState.STOPPING:
        return UpdateRunning(message="luod is being stopped", hint="try again if luod refuses to stop")
    return UpdateRunning(
        message=f"an update is running: {state.value}",
        hint="run `luoctl wait --for update`, which ends with it, or `luoctl abort`",
    )
