"""The operations of programs on sessions. A serve that is killed in the middle of one loses nothing.

The order is: the supervisor stores the fd, the registry adds the row, the client gets the reply. A removal begins with
the row. `luod.daemon.store.recovery` completes or undoes an interrupted call in the next serve. The interface is
`luod.ipc.interfaces.sessions`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence

from luod import errors
from luod.daemon import memory_grants
from luod.daemon.log import Log
from luod.daemon.policy.current import Policy
from luod.daemon.policy.rules import Granted
from luod.daemon.replies import (
    carried_over,
    carrying_over,
    manifest_not_given,
    no_manifest,
    no_such_session,
    not_looked_at,
    reaped,
    resumed,
    torn,
)
from luod.daemon.run_state import Run
from luod.daemon.sessions.changes import Changes
from luod.daemon.sessions.claims import Claims
from luod.daemon.sessions.file_kind import Discard
from luod.daemon.sessions.finish_check import Checks
from luod.daemon.sessions.holders import Holder, Holders
from luod.daemon.sessions.manifests import Manifests
from luod.daemon.sessions.manifests import check as check_manifest
from luod.daemon.sessions.names import Belonging, check_generation, counts, may_use, parsed
from luod.daemon.sessions.overview import Overview
from luod.daemon.sessions.owner_watch import Owners
from luod.daemon.store.fd_names import carried_names, fd_name
from luod.daemon.store.recovery import Holdings
from luod.daemon.store.registry import Change, Registry
from luod.daemon.store.schema import MOST_SESSIONS, IncomingRow, OutgoingRow, Row
from luod.daemon.store.states import IncomingState, OutgoingState
from luod.errors import Refused
from luod.frozen import replace
from luod.ipc.errors import Busy, InvalidParameter, NotFinished, PermissionDenied, SessionExists
from luod.ipc.server.peer import Peer
from luod.ipc.server.sparing import Sparing
from luod.ipc.server.turns import charged
from luod.ipc.types.sessions import Adopted, Description, Direction, MemoryRoom, Outcome, SessionInfo
from luod.linux import Fd
from luod.session_name import SessionName
from luod.static import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from luod.daemon.sessions.adoption import Store
    from luod.daemon.sessions.names import Participation
    from luod.ipc.interfaces.sessions import Answers
    from luod.ipc.types.sessions import SessionState


class SessionService:
    """Implements `luod.ipc.interfaces.sessions.Service`."""

    participation: Participation | None = None
    before_create: Callable[[], Awaitable[None]] | None = None
    """Awaited before a session is created, unless its guest is frozen."""

    def __init__(
        self, holdings: Holdings, policy: Policy, run: Run, discard: Discard, log: Log, sparing: Sparing
    ) -> None:
        self._registry: Registry = holdings.registry
        self._fds = holdings.fds
        self._broken = holdings.broken is not None
        self._policy = policy
        self._claims = Claims(holdings.registry, holdings.fds, log, sparing)
        self._owners = Owners(holdings, self._owner_died)
        self._checks = Checks()
        self._holders = Holders(holdings.fds)
        self._log = log
        self._sparing = sparing
        self.changes = Changes(run)
        self.manifests = Manifests(holdings.fds, discard, log, sparing)
        self._creating: Counter[int] = Counter()
        self._limited = Counter(row.owner for row in self._registry.record.outgoing if counts(row))
        """The sessions of each user that count towards its limit."""
        self._registry.watchers.append(self._rows_changed)
        self._tasks: set[asyncio.Task[None]] = set()
        self.working: set[str] = set()
        """The names of incoming sessions that `luod.daemon.cleanup.work` has begun with: no program gets them."""
        self.being_carried_over: Counter[str] = Counter()
        """The names of sessions that are carried over, each with the number of works that need it blocked."""
        self._overview = Overview(holdings, self._owners, self.working, self.being_carried_over)
        self.claimant_died: Callable[[IncomingRow], None] | None = None
        """A callback for the end of the process that retrieved an incoming session last."""

    def take_over(self) -> None:
        """Watches the processes that the previous serve watched."""
        self._owners.take_over(self._registry)

    @property
    def held(self) -> tuple[str, ...]:
        return tuple(held.name for held in self._registry.rest.held)  # stashes: a kexec does not preserve them

    def rows(self) -> list[tuple[Row, SessionState]]:
        """Returns all sessions, sorted by name, with their states."""
        return self._overview.rows()

    def _rows_changed(self, changes: tuple[Change, ...]) -> None:
        for was, now in changes:
            if isinstance(was, OutgoingRow):
                self._limited[was.owner] -= counts(was)
            if isinstance(now, OutgoingRow):
                self._limited[now.owner] += counts(now)

    async def forget(self, rows: Iterable[Row]) -> None:
        """Drops luod's copies of sessions that the registry has removed."""
        for row in rows:
            await self._let_go(row)
            self._log("closed", name=row.name, reason="the update it was made for is cancelled")

    async def manifest(self, peer: Peer, name: str, direction: Direction) -> Fd:
        if direction == "outgoing":
            given = self.manifests.of(self._outgoing(peer, name))
            if given is None:
                raise manifest_not_given(name)
            return given
        row = self._incoming(peer, name)
        fd = self._fds.get(fd_name(row))
        if fd is None:
            raise not_looked_at(name, row.state, broken=self._broken)
        try:
            found = await self._checks.manifest(row.owner, fd)
        except errors.NotEnoughMemory as error:
            raise Refused(message=error.message, hint="the session is as it was; look again later") from error
        if found is None:
            raise no_manifest(name)
        return found

    async def describe(self, peer: Peer, name: str) -> list[Description]:
        both = (self._registry.incoming(name), self._registry.outgoing(name), *self._registry.workload(name))
        found = {(row.name, row.direction): row for row in both if row is not None and may_use(peer, row)}
        if not found:
            raise no_such_session(None, name)
        return [self._overview.described(row, self.participation) for _key, row in sorted(found.items())]

    async def list(self, peer: Peer, workload: str | None) -> list[SessionInfo]:
        return [
            SessionInfo(row.name, row.owner, row.direction, state)
            for row, state in self._overview.rows(workload)
            if may_use(peer, row)
        ]

    async def room(self, peer: Peer) -> MemoryRoom:
        return memory_grants.room(peer.process)

    async def create(self, peer: Peer, name: str, manifest: Fd | None = None) -> Fd:
        check_manifest(manifest)
        session = parsed(name)
        return await self._begin(
            peer, session, lambda _row, record: self._fds.create(name, record), "created", manifest
        )

    async def adopt(self, peer: Peer, session: Fd | None) -> Adopted:
        from luod.daemon.sessions.adoption import Adopting  # not on the way to the first session

        adopting = Adopting(
            self._registry, self._fds, self._policy, self.changes, self._owners, self._sparing, self.being_carried_over
        )
        return await adopting.adopt(peer, session, self._checks, self._begin)

    async def _begin(
        self, peer: Peer, session: SessionName, store: Store, event: str, manifest: Fd | None = None
    ) -> Fd:
        """Adds an outgoing session; returns a duplicate, which the caller owns.

        `store` has the supervisor hold the session, then writes the row. `event` is its name in the log.
        """
        name = str(session)
        if peer.anonymous:
            raise PermissionDenied()
        granted = self._policy.terms(peer)
        if self._belonging(peer, session).generation is None:
            granted = await self._policy.granted(peer)  # may use the network, so not while the guest is frozen
            if self.before_create is not None:
                await self.before_create()
        belonging = self._belonging(peer, session)
        frozen = belonging.generation is not None
        # A participant that is asked to freeze must be able to, even if the policy has changed.
        if not frozen:
            self._policy.check_create(granted, session, self._limited[peer.uid] + self._creating[peer.uid])
        self._creating[peer.uid] += 1
        try:
            return await self.changes.make(
                name, self._create(peer, session, belonging, granted, store, event, manifest), frozen=frozen
            )
        finally:
            self._creating[peer.uid] -= 1

    def _belonging(self, peer: Peer, name: SessionName) -> Belonging:
        """Returns the relation to updates of a session that is created now. Raises as `check_generation`."""
        participation = self.participation
        belonging = Belonging() if participation is None else participation.belonging(peer, name)
        if belonging.generation is None:
            base = self._registry.outgoing(name.base)
            has_base = base is not None and may_use(peer, base)
            check_generation(name, has_base=has_base, state="idle" if participation is None else participation.state)
        return belonging

    async def retrieve(self, peer: Peer, name: str) -> Fd:
        return await self.changes.make(name, self._retrieve(peer, name))

    async def create_many(self, peer: Peer, sessions: Sequence[tuple[str, Fd | None]]) -> Answers:
        return await _answers([(name, self.create(peer, name, manifest)) for name, manifest in sessions])

    async def retrieve_many(self, peer: Peer, names: Sequence[str]) -> Answers:
        return await _answers([(name, self.retrieve(peer, name)) for name in names])

    async def release(self, peer: Peer, name: str, direction: Direction, outcome: Outcome) -> None:
        if direction == "outgoing" and outcome == "finished":
            raise InvalidParameter(parameter="outcome")
        release = self._release if direction == "outgoing" else self._release_incoming
        await self.changes.make(name, release(peer, name, outcome))

    async def replace(self, peer: Peer, name: str, manifest: Fd | None = None) -> Fd:
        check_manifest(manifest)
        return await self.changes.make(name, self._replace(peer, name, manifest))

    def _outgoing(self, peer: Peer, name: str) -> OutgoingRow:
        """Returns the row. Raises NoSuchSession, in the same words if the peer may not use the session."""
        row = self._registry.outgoing(name)
        if row is None or not may_use(peer, row):
            raise no_such_session("outgoing", name)
        return row

    def _incoming(self, peer: Peer, name: str) -> IncomingRow:
        """Returns the row. Raises as `_outgoing`."""
        row = self._registry.incoming(name)
        if row is None or not may_use(peer, row):
            raise no_such_session("incoming", name)
        return row

    async def _create(
        self,
        peer: Peer,
        session: SessionName,
        belonging: Belonging,
        granted: Granted,
        store: Store,
        event: str,
        manifest: Fd | None,
    ) -> Fd:
        name = str(session)
        if name in self.being_carried_over:
            raise carrying_over(name)
        if belonging.generation is not None:
            # The update may have ended since the call; from here on its end waits for this change.
            self._belonging(peer, session)
        incoming = self._registry.incoming(name)
        others = incoming is not None and not may_use(peer, incoming)
        if self._registry.outgoing(name) is not None or others:
            raise SessionExists(
                name=name,
                message="luod holds a session of this name",
                hint="release or replace it, or use another name",
            )
        if len(self._registry) >= MOST_SESSIONS:
            raise Refused(message=f"luod holds {MOST_SESSIONS} sessions, which is the maximum", hint="release some")
        # NAME#GENERATION belongs to the owner of NAME, even if root creates it: a partial restore is invalid.
        base = None if belonging.generation is None else self._registry.outgoing(session.base)
        owner = peer.uid if base is None else base.owner
        state = OutgoingState.DECLARED if belonging.declared else OutgoingState.UNDECLARED
        row = OutgoingRow(session.base, owner, session.generation, state=state)
        if granted.on_owner_death == "discard":
            row = replace(row, discard=True)
            await self._owners.pin(row, peer)

        def record() -> None:
            if belonging.generation is not None:
                self._belonging(peer, session)
            self._registry.add(row)

        try:
            fd = await store(row, record)
        except errors.SessionExists as error:
            await self._owners.forget(row)
            raise SessionExists(name=name, message=error.message, hint=error.hint) from error
        except BaseException:
            await self._owners.forget(row)
            raise
        self.manifests.keep(row, manifest)
        self._sparing(event, of=peer.uid, name=name, owner=owner, uid=peer.uid, pid=peer.pid)
        return fd.duplicate()

    async def _retrieve(self, peer: Peer, name: str) -> Fd:
        carried = self._registry.outgoing(name)
        if carried is not None and carried.state is OutgoingState.CARRIED_OVER and may_use(peer, carried):
            # Not NoSuchSession: its owner would start the guest from the beginning, and end this session for that.
            raise carried_over(name)
        row = self._incoming(peer, name)
        if row.state is IncomingState.CARRYING_OVER or name in self.being_carried_over:
            raise carrying_over(name)
        if row.state is IncomingState.DISCARDING:
            raise reaped(name)
        if name in self.working:
            raise carrying_over(name)
        if row.state is IncomingState.TORN:
            raise torn(name)
        if row.state is IncomingState.RESUMED:
            raise resumed(name)
        # Root may inspect a session, or restore it for its owner; a process that has claimed it stays the claimant.
        claims = peer.uid == row.owner or not self.claimed(row)
        if row.state is IncomingState.TAKEN:
            self._registry.become(row, IncomingState.RETRIEVED)
        fd = self._fds.get(fd_name(row)) or await self._claims.take(row, IncomingState.RETRIEVED)
        if peer.pidfd is not None and claims:
            # The next serve must know the claimant too, as the restore deadline spares its session.
            await self._owners.pin(row, peer, stored=self._policy.settings.restore_deadline is not None)
        now = self._registry.incoming(name)
        if now is None or now.state is IncomingState.RESUMED:
            # The previous claimant resumed its guest during the requests to the supervisor: no second guest (H12).
            raise resumed(name)
        self._registry.note(row, "retrieved")
        self._sparing("retrieved", of=peer.uid, name=name, owner=row.owner, uid=peer.uid, pid=peer.pid)
        return fd.duplicate()

    async def _release(self, peer: Peer, name: str, outcome: Outcome) -> None:
        row = self._outgoing(peer, name)
        await self._end_parts(row)
        await self._released(peer, row, outcome)

    async def _release_incoming(self, peer: Peer, name: str, outcome: Outcome) -> None:
        row = self._incoming(peer, name)
        if name in self.working:
            raise Busy(message=f"session {name!r} is in use by luod", hint="try again later")
        if outcome == "finished" and row.state is IncomingState.CARRYING_OVER:
            raise carrying_over(name)  # the session is finished, and luod holds the files
        fd, asked = self._fds.get(fd_name(row)), row.state is not IncomingState.WAITING
        if fd is None and not self._broken and (asked or outcome == "given_up"):
            # The kernel frees its memory only when the session has been retrieved and closed.
            fd = await self._claims.take_if_left(row)
        if outcome == "finished" and (await self._checks.unfinished(row.owner, fd) if fd else not asked):
            raise NotFinished(
                name=name,
                message=f"session {name!r} is not finished" if fd else f"session {name!r} was never retrieved",
                hint="finish it, or release it, which frees what it holds",
            )
        await self._released(peer, row, outcome)

    async def _released(self, peer: Peer, row: Row, outcome: Outcome) -> None:
        self._registry.note(row, outcome)
        if outcome == "finished":
            # It holds nothing that could be waited for, and its name is not that of an outgoing session.
            self._registry.remove(row)
            self._owners.forget_soon(row)
            self._fds.drop_soon(fd_name(row))
        else:
            await self.remove(row)
            await self._fds.until_closed(fd_name(row))
        self._sparing(
            "released", of=peer.uid, name=row.name, direction=row.direction, outcome=outcome, uid=peer.uid, pid=peer.pid
        )

    async def _replace(self, peer: Peer, name: str, manifest: Fd | None) -> Fd:
        row = self._outgoing(peer, name)
        await self._end_parts(row)
        await self._close(row)
        if row.discard and (peer.uid == row.owner or not self._owners.alive(row)):
            await self._owners.pin(row, peer)
        try:
            fd = await self._fds.create(name, lambda: None)  # the row is there
        except errors.SessionExists as error:
            raise SessionExists(
                name=name,
                message="another process has the session open",
                hint="close it there, then replace it again",
            ) from error
        self.manifests.keep(row, manifest)
        self._sparing("replaced", of=peer.uid, name=name, owner=row.owner, uid=peer.uid, pid=peer.pid)
        return fd.duplicate()

    # For `luod.daemon.cleanup`.

    async def open_elsewhere(self, row: Row) -> Holder:
        """Returns a process other than luod's that has the session open."""
        return await self._holders.open_elsewhere(fd_name(row))

    def process_lives(self, row: OutgoingRow) -> bool:
        """Returns whether the process that created the session, and ends it by its own end, is alive."""
        return self._owners.alive(row) is True

    def claimed(self, row: IncomingRow) -> bool:
        """Returns whether the process that retrieved an incoming session may be alive."""
        if row.state is IncomingState.TORN:
            return self._owners.alive(row) is True
        return row.state in (IncomingState.RETRIEVED, IncomingState.RESUMED) and self._owners.alive(row) is not False

    async def taken(self, row: IncomingRow) -> Fd:
        """Returns luod's fd of an incoming session. One that is waiting is taken from the kernel for luod's own work.

        Raises as `luod.daemon.sessions.claims.Claims.take`.
        """
        return self._fds.get(fd_name(row)) or await self._claims.take(row, IncomingState.TAKEN)

    async def remove(self, row: Row) -> None:
        """Removes a session: its row, luod's copies, and the watch of its process. In `changes` only."""
        self._registry.remove(row)
        await self._let_go(row)

    async def _end_parts(self, row: OutgoingRow) -> None:
        """Ends the carried-over NAME#GENERATION sessions when their NAME, `row`, ends or is replaced: the next kernel
        may combine the two into one state of the guest (H12). `row` itself is not complete from now on.
        """
        self._registry.replaced(row)
        for part in self._registry.workload(row.name):
            if isinstance(part, OutgoingRow) and part.name != row.name:
                self._log("closed", name=part.name, reason=f"session {row.name} of its workload ended or was replaced")
                await self.remove(part)

    def _owner_died(self, row: Row) -> None:
        if isinstance(row, IncomingRow):
            if self.claimant_died is not None:
                self.claimant_died(row)
            return
        task = asyncio.ensure_future(self._discard(row))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _discard(self, row: Row) -> None:
        """Discards the session of an ended process, after a running update: a kexec preserves it nevertheless."""
        while True:
            await self.changes.opened()
            try:
                await self.changes.make(row.name, self._discard_now(row.name))
            except Busy:
                continue
            return

    async def _discard_now(self, name: str) -> None:
        row = self._registry.outgoing(name)
        if row is not None and row.discard and self._owners.alive(row) is False:
            await self.remove(row)
            self._sparing(
                "discarded", of=row.owner, name=name, owner=row.owner, reason="the process that created it ended"
            )

    async def _let_go(self, row: Row) -> None:
        """Closes luod's copies, in both processes (H9), and ends the watch of its process."""
        await self._owners.forget(row)
        await self._close(row)

    async def _close(self, row: Row) -> None:
        await self.manifests.drop(row)
        if row.direction == "incoming":
            await self._fds.drop(*carried_names(self._fds, row))
        await self._fds.drop(fd_name(row))


async def _answers(calls: Sequence[tuple[str, Coroutine[Any, Any, Fd]]]) -> Answers:
    """Returns the result or the error of each call. Their steps are charged to the caller's user."""
    results = await asyncio.gather(*(charged(call) for _name, call in calls), return_exceptions=True)
    return [(name, result) for (name, _call), result in zip(calls, results, strict=True)]
