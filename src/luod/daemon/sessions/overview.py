"""The sessions as luod shows them: their states, and its facts about them. Changes nothing."""

from __future__ import annotations

from luod.daemon.store.fd_names import fd_name
from luod.daemon.store.schema import OutgoingRow
from luod.daemon.store.states import IncomingState
from luod.ipc.types.sessions import Description
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection

    from luod.daemon.sessions.names import Participation
    from luod.daemon.sessions.owner_watch import Owners
    from luod.daemon.store.recovery import Holdings
    from luod.daemon.store.schema import Row
    from luod.ipc.types.sessions import SessionState

_SHOWN: Final[dict[IncomingState, SessionState]] = {
    IncomingState.WAITING: "waiting",
    IncomingState.TAKEN: "retrieved",
    IncomingState.RETRIEVED: "retrieved",
    IncomingState.RESUMED: "resumed",
    IncomingState.TORN: "torn",
    IncomingState.DISCARDING: "stuck",
    IncomingState.CARRYING_OVER: "carrying_over",
}


class Overview:
    def __init__(
        self, holdings: Holdings, owners: Owners, working: Collection[str], carried_over: Collection[str]
    ) -> None:
        """`working`, `carried_over`: the present names of sessions on which luod works, and that it carries over."""
        self._registry = holdings.registry
        self._fds = holdings.fds
        self._broken = holdings.broken is not None
        self._owners = owners
        self._working = working
        self._carried_over = carried_over

    def rows(self, workload: str | None = None) -> list[tuple[Row, SessionState]]:
        """Returns all sessions, or those of a workload, sorted by name, with their states."""
        rows = self._registry.record.rows if workload is None else self._registry.workload(workload)
        return [(row, self._state(row)) for row in sorted(rows, key=lambda r: (r.name, r.direction))]

    def _state(self, row: Row) -> SessionState:
        if isinstance(row, OutgoingRow):
            return "held" if fd_name(row) in self._fds else "dropped"
        if self._broken:
            return "lost"
        if row.name in self._carried_over:
            return "carrying_over"
        if row.state is IncomingState.DISCARDING and row.name in self._working:
            return "discarding"
        return _SHOWN[row.state]

    def described(self, row: Row, participation: Participation | None) -> Description:
        arrival = self._registry.rest.arrival
        outgoing = row.direction == "outgoing"
        return Description(
            name=row.name,
            owner=row.owner,
            direction=row.direction,
            state=self._state(row),
            bytes=row.bytes,
            generation=row.generation,
            update=arrival.update if row.direction == "incoming" and arrival is not None else None,
            preparing_seconds=row.preparing_seconds,
            freezing_seconds=row.freezing_seconds,
            process=self._owners.pid(row),
            participant=participation.answering(row.name) if outgoing and participation is not None else None,
        )
