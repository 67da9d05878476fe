"""What a session may be called, whose it is, and what it is to an update. Changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from luod.daemon.store.schema import OutgoingRow, Row
from luod.daemon.store.states import OutgoingState
from luod.errors import BadInput
from luod.ipc.errors import InvalidName, WrongPhase
from luod.ipc.server.peer import Peer
from luod.ipc.types.phases import State
from luod.session_name import SessionName


def parsed(name: str) -> SessionName:
    """Returns the name of a session, or of a set of files. InvalidName."""
    try:
        return SessionName.parse(name)
    except BadInput as error:
        raise InvalidName(name=name, message=error.message, hint=error.hint) from error


def check_generation(name: SessionName, *, has_base: bool, state: str) -> None:
    """Raises for NAME#NUMBER, of which no update under way lets the caller create a session now.

    `has_base`: the caller may use an outgoing session NAME. `state` is luod's. Raises InvalidName without NAME: the
    session would be in the way of its owner in an update to come. Raises WrongPhase with NAME: the session would look
    like the state of update NUMBER, and nothing would remove it.
    """
    if name.generation is None:
        return
    if not has_base:
        raise InvalidName(
            name=str(name),
            message=f"'{name}' is a name for what is written while frozen for session {name.base!r}, "
            "and you have no such",
            hint="use a name that does not end in # and a number",
        )
    raise WrongPhase(
        state=state,
        message=f"session '{name}' can be created only by a participant of update {name.generation} that has declared "
        f"{name.base!r}, after the event freezing; luod is {state}",
        hint="if it was for an update, that is over: resume the guest as at cancelled, which is on its way; "
        "otherwise use a name that does not end in # and a number",
    )


def may_use(peer: Peer, row: Row) -> bool:
    """Whether a session is the peer's to use, or to know of. A user without a uid here is nobody's owner."""
    return peer.root or (peer.uid == row.owner and not peer.anonymous)


def counts(row: OutgoingRow) -> bool:
    """Towards its owner's share. What is frozen in an update is as many as were declared, and must not fail for having
    come last; what luod forwarded nobody asked for.
    """
    return row.generation is None and row.state is not OutgoingState.CARRIED_OVER


@dataclass(frozen=True)
class Belonging:
    """What a new session is to those who take part in updates; see `luod.daemon.store.schema.OutgoingRow`."""

    declared: bool = False
    generation: int | None = None


class Participation(Protocol):
    """Says what a name would be, and whether an update is under way; `luod.daemon.updates.participants` does."""

    @property
    def updating(self) -> bool: ...
    @property
    def state(self) -> State: ...
    def belonging(self, peer: Peer, name: SessionName) -> Belonging: ...
    def answering(self, name: str) -> str | None: ...
