"""Rules for names of sessions, for access to sessions, and for their part in an update. Changes nothing."""

from __future__ import annotations

from luod.daemon.store.schema import OutgoingRow, Row
from luod.daemon.store.states import OutgoingState
from luod.errors import BadInput
from luod.frozen import frozen
from luod.ipc.errors import InvalidName, WrongPhase
from luod.ipc.server.peer import Peer
from luod.ipc.types.phases import State
from luod.session_name import SessionName
from luod.static import TYPE_CHECKING, Protocol

if TYPE_CHECKING:

    class Participation(Protocol):
        """The part of `luod.daemon.updates.participants` that sessions depend on."""

        @property
        def updating(self) -> bool: ...
        @property
        def state(self) -> State: ...
        def belonging(self, peer: Peer, name: SessionName) -> Belonging: ...
        def answering(self, name: str) -> str | None: ...


def parsed(name: str) -> SessionName:
    """Returns the parsed name of a session or of a stash. Raises InvalidName."""
    try:
        return SessionName.parse(name)
    except BadInput as error:
        raise InvalidName(name=name, message=error.message, hint=error.hint) from error


def check_generation(name: SessionName, *, has_base: bool, state: str) -> None:
    """Raises an error for NAME#NUMBER, which only a participant of the running update may create.

    `has_base`: the caller may use an outgoing session NAME. `state` is luod's. Raises InvalidName without NAME: the
    session would block the owner of NAME in a later update. Raises WrongPhase with NAME: the session would look like
    the state of update NUMBER, and would never be removed.
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
    """Returns whether a peer may use and see a session. A user without a uid here owns no session."""
    return peer.root or (peer.uid == row.owner and not peer.anonymous)


def counts(row: OutgoingRow) -> bool:
    """Returns whether a session counts towards its owner's limit. Those created while frozen do not, as their creation
    must not fail; nor do sessions that luod carried over, which their owner did not create.
    """
    return row.generation is None and row.state is not OutgoingState.CARRIED_OVER


@frozen
class Belonging:
    """The relation of a new session to updates; see `luod.daemon.store.schema.OutgoingRow`."""

    declared: bool = False
    generation: int | None = None
