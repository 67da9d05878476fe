"""The states of a session, and which state may follow which. Pure.

A session's state is in its row, and `luod.daemon.store.registry` changes it. A session ends from any state.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from luod.errors import LuodError


class OutgoingState(StrEnum):
    """What the next kexec makes of an outgoing session."""

    UNDECLARED = "undeclared"
    """No participant declared it. It is preserved as it is."""
    DECLARED = "declared"
    """A participant declared it: a kexec tears it, unless it is ready."""
    READY = "ready"
    """Its participant was ready in freezing of the update that jumps now. Set right before reboot(2)."""
    CARRIED_OVER = "carried_over"
    """luod made it of an incoming session that nobody claimed. It is whole, whatever a participant declares of it."""


class IncomingState(StrEnum):
    """Who has an incoming session, and whether a client may still have it."""

    WAITING = "waiting"
    """Only the kernel has it."""
    TAKEN = "taken"
    """luod has asked the kernel for it, for work of its own. No client had it."""
    RETRIEVED = "retrieved"
    """luod has asked the kernel for it, for a client. That may have it even where luod has it not."""
    RESUMED = "resumed"
    """A guest runs from it. It is not handed out again (H12)."""
    TORN = "torn"
    """A part of its workload is lost, or was not ready for the kexec. It is not handed out."""
    DISCARDING = "discarding"
    """A reaper has begun with it. It is not handed out."""
    CARRYING_OVER = "carrying_over"
    """keep holds its files, from which luod makes an outgoing session; maybe it is finished already."""


State = OutgoingState | IncomingState

_OUT, _IN = OutgoingState, IncomingState
_USABLE: Final = frozenset({_IN.RESUMED, _IN.TORN, _IN.DISCARDING, _IN.CARRYING_OVER})
TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    _OUT.UNDECLARED: frozenset({_OUT.DECLARED}),
    _OUT.DECLARED: frozenset({_OUT.UNDECLARED, _OUT.READY}),
    _OUT.READY: frozenset({_OUT.DECLARED}),
    _OUT.CARRIED_OVER: frozenset({_OUT.UNDECLARED}),
    _IN.WAITING: frozenset({_IN.TAKEN, _IN.RETRIEVED, _IN.RESUMED, _IN.TORN}),
    _IN.TAKEN: _USABLE | {_IN.WAITING, _IN.RETRIEVED},
    _IN.RETRIEVED: _USABLE | {_IN.WAITING, _IN.TAKEN},
    _IN.RESUMED: frozenset({_IN.DISCARDING}),
    _IN.TORN: frozenset({_IN.DISCARDING}),
    _IN.DISCARDING: frozenset(),
    _IN.CARRYING_OVER: frozenset({_IN.TAKEN, _IN.DISCARDING, _OUT.CARRIED_OVER}),
}
"""A session waits again when the kernel refused to give it. The files of what is forwarded end with keep; if the kernel
still has the session, luod takes it again."""


class ImpossibleTransition(LuodError):
    """A defect of luod's: nothing was changed."""


def require(was: State, becomes: State) -> None:
    """Raises ImpossibleTransition unless a session that is in `was` may come to be in `becomes`, or is already."""
    if becomes != was and becomes not in TRANSITIONS[was]:
        raise ImpossibleTransition(f"a session that is {was} cannot become {becomes}")
