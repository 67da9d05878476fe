"""Requests for a whole workload, its sessions NAME and NAME#GENERATION: a partial restore is invalid.

Finds the sessions and checks that all of them are idle before the first is changed. `luod.daemon.cleanup.reaping`,
`luod.daemon.cleanup.carry_over` and `luod.daemon.sessions.service` act on each session.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable

from luod.daemon.cleanup.carry_over import CarryOver
from luod.daemon.cleanup.reaping import Reaping
from luod.daemon.completion import completed
from luod.daemon.log import Log
from luod.daemon.sessions.holders import still_open
from luod.daemon.sessions.names import may_use
from luod.daemon.sessions.service import SessionService
from luod.daemon.store.recovery import Holdings
from luod.daemon.store.registry import Registry
from luod.daemon.store.schema import IncomingRow, Row
from luod.daemon.store.states import IncomingState
from luod.daemon.updates.participants import Participants
from luod.errors import LuodError, Refused
from luod.ipc.errors import NoSuchSession
from luod.ipc.server.peer import Peer
from luod.ipc.types.sessions import Direction, GivenUp
from luod.static import Final

_OTHER: Final[dict[Direction, Direction]] = {"outgoing": "incoming", "incoming": "outgoing"}
_INSTEAD: Final[dict[Direction, str]] = {
    "outgoing": "an outgoing session of this name exists: the next update preserves it; `luoctl release` releases it",
    "incoming": "there is an incoming session of this name: see `luoctl list`",
}
_RELEASE_FORCED: Final = "--force releases it anyway"
_DISCARD_FORCED: Final = "--force discards it anyway"
_FORWARD_INSTEAD: Final = "or let the VMM finish it and create a new session"


class Workloads:
    def __init__(
        self,
        holdings: Holdings,
        sessions: SessionService,
        participants: Participants,
        reaping: Reaping,
        carry_over: CarryOver,
        log: Log,
    ) -> None:
        self._registry: Registry = holdings.registry
        self._fds = holdings.fds
        self._sessions = sessions
        self._participants = participants
        self._reaping = reaping
        self._carrying = carry_over
        self._log = log

    async def discard(self, peer: Peer, name: str, *, force: bool) -> str:
        """Returns the reaper's reports. Raises as `Reaping.discard`; no session is begun if one is in use.

        It is completed even if the caller is cancelled: a part of a workload is of no use.
        """
        return await completed(self._discard(peer, name, force=force))

    async def _discard(self, peer: Peer, name: str, *, force: bool) -> str:
        rows = self._incoming(peer, name)
        for row in rows:
            self._reaping.check(row, force=force)
            if not force and row.state is not IncomingState.DISCARDING:
                await self._require_closed(row, _DISCARD_FORCED)
        return await self._each(rows, lambda row: self._reaping.discard(peer, row.name, force=force))

    async def carry_over(self, peer: Peer, name: str) -> str:
        """Returns the carrier's reports. Raises as `CarryOver.carry_over`; no session is begun if one is in use.

        It is completed even if the caller is cancelled, as `discard`.
        """
        return await completed(self._carry_over(peer, name))

    async def _carry_over(self, peer: Peer, name: str) -> str:
        for row in self._idle(peer, name):
            await self._require_closed(row, _FORWARD_INSTEAD)
        rows = self._idle(peer, name)  # again: a process may have retrieved one meanwhile
        names = Counter(row.name for row in rows)
        # All at once: a VMM that retrieves one session while another is carried over would get a part of its workload.
        self._sessions.being_carried_over += names
        try:
            return await self._each(rows, lambda row: self._carrying.carry_over(peer, row.name))
        finally:
            self._sessions.being_carried_over -= names

    async def give_up(self, peer: Peer, name: str, direction: Direction | None, force: bool) -> GivenUp:
        """Releases all sessions of the workload. Raises Refused if they are in use or the direction is ambiguous."""
        if direction is None:
            there = [each for each in _OTHER if self._found(peer, each, name)]
            if len(there) > 1:
                raise Refused(
                    message=f"there are outgoing and incoming sessions of {name!r}",
                    hint="add --outgoing or --incoming",
                )
            direction = there[0] if there else "outgoing"
        rows = self._rows(peer, direction, name)
        for row in rows:
            if not force:
                self._require_idle(row, _RELEASE_FORCED)
            if peer.root and not force:
                # For root only: the scan costs processor time, and other users release only their own sessions.
                await self._require_closed(row, _RELEASE_FORCED)
        for row in rows:
            await self._sessions.release(peer, row.name, row.direction, "given_up")
        open_still = []
        if direction == "outgoing":
            open_still = [row.name for row in rows if await self._fds.open_elsewhere(row.name)]
        return GivenUp(released=[row.name for row in rows], open=open_still)

    def _found(self, peer: Peer, direction: Direction, name: str) -> list[Row]:
        part = self._registry.row(direction, name)
        rows = self._registry.workload(name) or ([] if part is None else [part])
        return [row for row in rows if row.direction == direction and may_use(peer, row)]

    def _rows(self, peer: Peer, direction: Direction, name: str) -> list[Row]:
        """Returns the sessions of the workload, NAME last. Raises NoSuchSession; Refused if `name` is a part of one."""
        rows = self._found(peer, direction, name)
        if not rows:
            other = self._found(peer, _OTHER[direction], name)
            raise NoSuchSession(
                name=name,
                message=f"there is no {direction} session {name!r}",
                hint=_INSTEAD[_OTHER[direction]] if other else "see `luoctl list`",
            )
        base = rows[0].base
        if name != base and self._registry.row(direction, base) in self._found(peer, direction, base):
            raise Refused(
                message=f"session {name!r} is a part of workload {base!r}",
                hint=f"use the name of the workload, {base!r}",
            )
        return sorted(rows, key=lambda row: (row.name == base, row.name))

    def _incoming(self, peer: Peer, name: str) -> list[IncomingRow]:
        return [row for row in self._rows(peer, "incoming", name) if isinstance(row, IncomingRow)]

    def _idle(self, peer: Peer, name: str) -> list[IncomingRow]:
        """Returns the sessions of the workload. Raises as `CarryOver.check` and `_require_idle`."""
        rows = self._incoming(peer, name)
        for row in rows:
            self._carrying.check(row)
            self._require_idle(row, _FORWARD_INSTEAD)
        return rows

    def _require_idle(self, row: Row, instead: str) -> None:
        """Raises Refused if, by luod's records, a process that may still run uses the session."""
        if isinstance(row, IncomingRow):
            reason = self._reaping.in_use(row)
        else:
            followers = [f for f in self._participants.followers if row.base in f.names or row.name in f.names]
            reason = f"participant {followers[0].name} ({followers[0].peer.pid}) answers for it" if followers else None
            if reason is None and row.discard and self._sessions.process_lives(row):
                reason = "the process that created it lives"
        if reason is not None:
            raise _in_use(row, reason, instead)

    async def _require_closed(self, row: Row, instead: str) -> None:
        """Raises Refused if a process is known to have the session open: the operator decides about what is not."""
        if isinstance(pid := await still_open(lambda: self._sessions.open_elsewhere(row)), int):
            raise _in_use(row, f"process {pid} has it open", instead)

    async def _each(self, rows: list[IncomingRow], act: Callable[[IncomingRow], Awaitable[str]]) -> str:
        """Acts on every session, even after one fails; raises the first error at the end."""
        reports: list[tuple[str, str]] = []
        failure: LuodError | None = None
        for row in rows:
            try:
                reports.append((row.name, await act(row)))
            except LuodError as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return reports[0][1] if len(reports) == 1 else " / ".join(f"{name}: {report}" for name, report in reports)


def _in_use(row: Row, reason: str, instead: str) -> Refused:
    return Refused(message=f"session {row.name!r} is in use: {reason}", hint=f"terminate its VMM first; {instead}")
