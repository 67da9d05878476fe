"""The states of a session and the transitions between them. Pure.

`luod.daemon.store.registry` changes the state in the session's row. A session can end in any state.
"""

from __future__ import annotations

from enum import StrEnum

from luod.errors import LuodError
from luod.static import Final


class OutgoingState(StrEnum):
    """The state of an outgoing session. It decides whether the next kexec tears the session."""

    UNDECLARED = "undeclared"
    """No participant has declared it. It is preserved as it is."""
    DECLARED = "declared"
    """A participant has declared it: a kexec tears it, unless it is ready."""
    READY = "ready"
    """Its participant has voted ready in the phase freezing. Set right before reboot(2)."""
    CARRIED_OVER = "carried_over"
    """luod made it from an unclaimed incoming session. It is complete, with or without a declaration."""


class IncomingState(StrEnum):
    """The state of an incoming session."""

    WAITING = "waiting"
    """It was not retrieved from the kernel."""
    TAKEN = "taken"
    """luod has retrieved it for its own work. No client had it."""
    RETRIEVED = "retrieved"
    """luod has retrieved it for a client. The client may have it open even if luod does not."""
    RESUMED = "resumed"
    """Its guest has resumed. It is not handed out again (H12)."""
    TORN = "torn"
    """A part of its workload is lost, or was not ready for the kexec. It is not handed out."""
    DISCARDING = "discarding"
    """A reaper has begun to discard it. It is not handed out."""
    CARRYING_OVER = "carrying_over"
    """The supervisor holds its files, from which luod makes an outgoing session. The session may already be finished.
    """


State = OutgoingState | IncomingState

WHOLE: Final = frozenset({IncomingState.WAITING, IncomingState.TAKEN, IncomingState.RETRIEVED})
"""The states of an incoming session from which a guest can still be restored."""

_OUT, _IN = OutgoingState, IncomingState
_NOT_HANDED_OUT: Final = frozenset({_IN.RESUMED, _IN.TORN, _IN.DISCARDING, _IN.CARRYING_OVER})
TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    _OUT.UNDECLARED: frozenset({_OUT.DECLARED}),
    _OUT.DECLARED: frozenset({_OUT.UNDECLARED, _OUT.READY}),
    _OUT.READY: frozenset({_OUT.DECLARED}),
    _OUT.CARRIED_OVER: frozenset({_OUT.UNDECLARED}),
    _IN.WAITING: frozenset({_IN.TAKEN, _IN.RETRIEVED, _IN.RESUMED, _IN.TORN}),
    _IN.TAKEN: _NOT_HANDED_OUT | {_IN.WAITING, _IN.RETRIEVED},
    _IN.RETRIEVED: _NOT_HANDED_OUT | {_IN.WAITING, _IN.TAKEN},
    _IN.RESUMED: frozenset({_IN.DISCARDING}),
    _IN.TORN: frozenset({_IN.DISCARDING}),
    _IN.DISCARDING: frozenset(),
    _IN.CARRYING_OVER: frozenset({_IN.TAKEN, _IN.DISCARDING, _OUT.CARRIED_OVER}),
}
"""A session returns to waiting if the kernel refused to retrieve it. The files of a session that is being carried over
are lost with the supervisor; if the kernel still has the session, luod retrieves it again.
"""


class ImpossibleTransition(LuodError):
    """A defect of luod. Nothing was changed."""


def require(was: State, becomes: State) -> None:
    """Raises ImpossibleTransition unless `becomes` equals `was` or may follow it."""
    if becomes != was and becomes not in TRANSITIONS[was]:
        raise ImpossibleTransition(f"a session that is {was} cannot become {becomes}")
