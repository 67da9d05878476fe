"""The participants of updates: they follow, declare, vote, and in the next kernel report that their guests resume.

A participant is a connection that follows; it is bound to its user and to sessions which that user may use.
`luod.daemon.updates.coordinator` acts on its declarations and votes in a running update. The interface is
`luod.ipc.interfaces.updates`.
"""

from __future__ import annotations

import os
from itertools import count

from luod.daemon.preflight.kinds import known
from luod.daemon.replies import no_such_session, torn
from luod.daemon.run_state import Run, RunState
from luod.daemon.sessions.names import Belonging, may_use
from luod.daemon.store.schema import IncomingRow, OutgoingRow, Row
from luod.daemon.store.states import WHOLE, IncomingState, OutgoingState
from luod.daemon.updates.follower import Follower
from luod.daemon.updates.transaction import NotAwaited
from luod.errors import Refused
from luod.frozen import replace
from luod.ipc.errors import DeclaredByAnother, NotExpected, NotFollowing, PermissionDenied
from luod.ipc.types.updates import DeclaredSession, Event
from luod.linux import process_number
from luod.session_name import SessionName, is_allowed
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

    from luod.daemon.log import Log
    from luod.daemon.store.recovery import Holdings
    from luod.daemon.store.registry import Change, Registry
    from luod.daemon.updates.coordinator import Coordinator
    from luod.ipc.server.peer import Peer
    from luod.ipc.server.sparing import Sparing
    from luod.ipc.types.phases import Ballot, State, VotePhase

_MOST_BYTES: Final = 2**63


class Participants:
    """Implements `luod.ipc.interfaces.updates.Service` and `luod.daemon.sessions.names.Participation`.

    `coordinator` is that of the running update; None also if a previous serve called reboot(2).
    """

    def __init__(self, holdings: Holdings, run: Run, log: Log, sparing: Sparing) -> None:
        self._registry: Registry = holdings.registry
        self._fds = holdings.fds
        self._run = run
        self._log = log
        self._sparing = sparing
        self._followers: dict[str, Follower] = {}
        self._numbers = count(1)
        self.coordinator: Coordinator | None = None
        self.preserving: Follower | None = None
        """While no update runs, `Coordinator.preserving` of the last one."""
        self.followed: Callable[[Peer], None] | None = None
        """A callback for each new participant."""
        self._registry.watchers.append(self._rows_changed)

    @property
    def updating(self) -> bool:
        """Returns whether an update is being checked or runs. The facts that were checked must not change then."""
        return self._run.busy

    @property
    def state(self) -> State:
        told = self._run.told
        return "restoring" if told == "idle" and self._registry.any_incoming else told

    @property
    def followers(self) -> list[Follower]:
        return list(self._followers.values())

    @property
    def users_in_update(self) -> frozenset[int]:
        """Returns the users with a session that is declared in the running update."""
        if self.coordinator is None:
            return frozenset()
        return frozenset(follower.peer.uid for follower in self._followers.values() if follower.sessions)

    def unfollowed(self) -> list[str]:
        """Returns the declared sessions without a participant: a kexec would tear them."""
        followed = {name for follower in self._followers.values() for name in follower.names}
        rows = self._registry.all_outgoing
        return sorted(row.name for row in rows if row.declared and row.generation is None and row.name not in followed)

    def released(self) -> list[str]:
        """Returns the sessions that were released after their participants declared them and voted, even if they were
        created again: the new session lacks the files that the participant preserved.
        """
        coordinator = self.coordinator
        taking_part = [each for each in self.followers if coordinator is not None and coordinator.takes_part(each)]
        return sorted(
            name
            for each in taking_part
            for name in each.names
            if name in each.ended or self._registry.outgoing(name) is None
        )

    def _rows_changed(self, changes: tuple[Change, ...]) -> None:
        ended = {row.name for row, now in changes if row is not None and row.direction == "outgoing" and now is None}
        for follower in self._followers.values() if ended else ():
            follower.ended.update(ended.intersection(follower.names))

    # Requests of participants.

    async def follow(self, peer: Peer, name: str) -> AsyncGenerator[Event, None]:
        if peer.anonymous:
            raise PermissionDenied()
        if not is_allowed(name):
            raise Refused(
                message=f"{name!r} is not a valid participant name",
                hint="a name has 1 to 63 of the letters A-Z a-z, digits, and . _ @ / # -",
            )
        follower = Follower(next(self._numbers), os.urandom(16).hex(), name, peer)
        follower.events.put(Event("following", self.state, participant=follower.secret))
        self._followers[follower.secret] = follower
        if self.followed is not None:
            self.followed(peer)
        self._sparing("follows", of=peer.uid, write=self._log.debug, participant=name, uid=peer.uid, pid=peer.pid)
        if self.coordinator is not None and self._run.is_in(RunState.PREPARING, RunState.PREPARED):
            self.coordinator.join(follower)
        elif self.coordinator is not None and self._run.is_in(RunState.JUMPING):
            self.coordinator.wait_for_the_end(follower)
        try:
            while True:
                yield await follower.events.next()
                follower.events.sent()
        finally:
            del self._followers[follower.secret]
            follower.events.close()
            if self.coordinator is not None:
                self.coordinator.gone(follower)
            self._answered(follower)
            self._sparing(
                "follows-no-more", of=peer.uid, write=self._log.debug, participant=name, uid=peer.uid, pid=peer.pid
            )

    async def declare(
        self, peer: Peer, participant: str, sessions: list[DeclaredSession], generation: int | None
    ) -> float | None:
        follower = self._follower(peer, participant)
        self._require_update(generation)
        self._check(follower, sessions)
        coordinator, before = self.coordinator, follower.sessions
        follower.sessions = tuple(sessions)
        left = None
        if coordinator is not None:
            try:
                left = coordinator.declared(follower)
            except NotAwaited as error:
                follower.sessions = before
                raise self._wrong_phase(error) from error
        elif self._run.is_in(RunState.JUMPING):
            follower.sessions = before
            raise self._wrong_phase(NotAwaited("the kexec has begun"))
        follower.ended.clear()
        self._answered(follower)
        self._judge({session.name for session in before}, sessions)
        return left

    def _check(self, follower: Follower, sessions: list[DeclaredSession]) -> None:
        others = {name for other in self._followers.values() if other is not follower for name in other.names}
        seen = set()
        for session in sessions:
            row = self._registry.outgoing(session.name)
            if row is None or not may_use(follower.peer, row):
                raise no_such_session("outgoing", session.name)
            if session.name in others:
                raise DeclaredByAnother(
                    name=session.name,
                    message=f"another participant has declared session {session.name!r}",
                    hint="a session has one participant; close the other's connection first",
                )
            if session.name in seen:
                raise Refused(message=f"session {session.name!r} is declared twice", hint="declare all files at once")
            seen.add(session.name)
            for file in session.files:
                numbers = (file.token, file.size, file.allocated, file.seals)
                if min(numbers) < 0 or file.token >= 2**64 or max(numbers[1:]) >= _MOST_BYTES:
                    raise Refused(
                        message=f"file {file.token} of session {session.name!r} has impossible numbers",
                        hint="sizes are bytes, as fstat gives them",
                    )

    def _judge(self, before: set[str], sessions: list[DeclaredSession]) -> None:
        declared = {session.name: session for session in sessions}

        def judged(row: Row) -> Row:
            if not isinstance(row, OutgoingRow):
                return row
            ours = row.state is OutgoingState.CARRIED_OVER
            if row.name in declared:
                files = declared[row.name].files
                size = min(sum(file.size for file in files), _MOST_BYTES)
                kinds = known(file.kind for file in files)
                state = row.state if ours else OutgoingState.DECLARED
                return replace(row, state=state, bytes=size, kinds=kinds)
            if row.name in before and not ours:
                return replace(row, state=OutgoingState.UNDECLARED, bytes=0, kinds=())
            return row

        self._change(before | declared.keys(), judged)

    async def vote(
        self,
        peer: Peer,
        participant: str,
        phase: VotePhase,
        vote: Ballot,
        reason: str | None,
        generation: int | None,
    ) -> None:
        follower = self._follower(peer, participant)
        try:
            self._require_update(generation)
            if self.coordinator is None:
                raise NotAwaited("no update waits for a vote")
            self.coordinator.vote(follower, phase, vote, reason)
        except NotAwaited as error:
            raise self._wrong_phase(error) from error
        finally:
            self._answered(follower)
        if phase == "preparing":
            follower.ended.clear()

    def _answered(self, follower: Follower) -> None:
        """Ends the wait for what a follower was granted to preserve, unless it has the grant of the running update."""
        if self.coordinator is not None and self.coordinator.has_grant(follower):
            return
        if self.preserving is follower:
            self.preserving = None
        if self.coordinator is not None:
            self.coordinator.answered(follower)

    def resuming(self, peer: Peer, names: list[str]) -> None:
        number = 0 if peer.pidfd is None else process_number(peer.pidfd)
        if names and number and all(self._resumed_by(number, peer, name) for name in names):
            return  # its answer was lost, so that it has not resumed the guest
        for name in names:
            row = self._registry.incoming(name)
            if row is None or not may_use(peer, row):
                raise no_such_session("incoming", name)
            if row.state in (IncomingState.TORN, IncomingState.DISCARDING, IncomingState.CARRYING_OVER):
                raise torn(name)
            if row.state is IncomingState.RESUMED:
                raise self._wrong_phase(NotAwaited(f"the guest of session {name!r} has already resumed"))
            if row.state is not IncomingState.RETRIEVED:
                raise Refused(message=f"session {name!r} was never retrieved", hint="retrieve it first")
        chosen = set(names)

        def resumed(row: Row) -> Row:
            if isinstance(row, IncomingRow) and chosen & {row.base, row.name} and may_use(peer, row):
                whole = row.state in WHOLE
                return replace(row, state=IncomingState.RESUMED, resumed_by=number) if whole else row
            return row

        self._change(chosen, resumed)
        self._sparing("resuming", of=peer.uid, sessions=",".join(sorted(chosen)), uid=peer.uid, pid=peer.pid)

    def _resumed_by(self, number: int, peer: Peer, name: str) -> bool:
        row = self._registry.incoming(name)
        return (
            row is not None and row.state is IncomingState.RESUMED and may_use(peer, row) and row.resumed_by == number
        )

    def _change(self, names: Iterable[str], change: Callable[[Row], Row]) -> None:
        """Changes rows of the workloads of these sessions, in one write."""
        workloads = {SessionName.parse(name).base for name in names}
        self._registry.change(change, [row for base in workloads for row in self._registry.workload(base)])

    # For the other parts of serve.

    def belonging(self, peer: Peer, name: SessionName) -> Belonging:
        """Returns the relation to updates of a session that is created now; see `luod.daemon.sessions.service`."""
        coordinator = self.coordinator
        for follower in self._followers.values():
            if not (peer.root or peer.uid == follower.peer.uid):
                continue
            if str(name) in follower.names:
                return Belonging(declared=True)
            if coordinator is None or name.generation != coordinator.generation or name.base not in follower.names:
                continue
            if coordinator.takes_part(follower) and self._run.is_in(RunState.FREEZING, RunState.FROZEN):
                return Belonging(declared=True, generation=coordinator.generation)
        return Belonging()

    def answering(self, name: str) -> str | None:
        """Returns the name of the participant that declared the outgoing session `name`."""
        return next((follower.name for follower in self._followers.values() if name in follower.names), None)

    def tell_cancelled(self, update: str | None, reason: str) -> None:
        """Tells all participants that an update of a previous serve was cancelled."""
        for follower in self._followers.values():
            follower.events.put(Event("cancelled", self.state, update=update, reason=reason))

    def _follower(self, peer: Peer, participant: str) -> Follower:
        follower = self._followers.get(participant)
        if follower is None or not (peer.root or (peer.uid == follower.peer.uid and not peer.anonymous)):
            raise NotFollowing(
                message="this user has no open connection that follows as this participant",
                hint="call Follow on a separate connection, keep it open, and pass the participant of its first reply",
            )
        return follower

    def _require_update(self, generation: int | None) -> None:
        """Raises NotExpected: the call is for another update than the one that runs."""
        coordinator = self.coordinator
        if generation is not None and (coordinator is None or coordinator.generation != generation):
            raise self._wrong_phase(NotAwaited(f"update {generation} is over"))

    def _wrong_phase(self, error: NotAwaited) -> NotExpected:
        return NotExpected(state=self.state, message=error.message, hint=error.hint or "wait for the next event")


def ready_rows(coordinator: Coordinator, rows: Iterable[OutgoingRow]) -> dict[str, OutgoingRow]:
    """Returns the outgoing rows, by name, of the participants that are ready, as the registry preserves them."""
    members = [coordinator.members[m.id] for m in coordinator.transaction.members.values() if m.standing == "ready"]
    owners = {name: follower for follower in members for name in follower.names}
    found = {}
    for row in rows:
        follower = owners.get(row.base)
        if row.declared and follower is not None:
            found[row.name] = replace(
                row,
                state=OutgoingState.READY,
                preparing_seconds=round(coordinator.preparing.get(follower.id, 0.0), 6),
                freezing_seconds=round(coordinator.transaction.members[follower.id].since - coordinator.frozen, 6),
            )
    return found
