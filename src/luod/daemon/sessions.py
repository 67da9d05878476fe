"""What programs may do with sessions, and how it is done so that a serve killed in between loses nothing.

The order is always: keep has the fd, then the registry has the row, then the client is answered; and backwards the row
goes first. What the next serve makes of a call that was cut off is `luod.daemon.takeover`. The interface these methods
answer is `luod.ipc.sessions`.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeVar
from weakref import WeakValueDictionary

from asyncvarlink.serviceinterface import InvalidParameter, PermissionDenied
from msgspec.structs import replace

from luod import errors
from luod.daemon.answers import no_such_session, reaped, resumed, session_exists, torn, unfinished
from luod.daemon.custody import Custody
from luod.daemon.log import Log
from luod.daemon.owners import Owners
from luod.daemon.policy.current import Policy
from luod.daemon.policy.rules import Granted
from luod.daemon.registry import MOST_SESSIONS, Registry, Row, fd_name
from luod.daemon.takeover import SESSION, Holdings
from luod.ipc.peer import Peer
from luod.ipc.sessions import (
    Busy,
    DeviceBroken,
    Direction,
    InvalidName,
    KernelRefused,
    NotFinished,
    Outcome,
    Refused,
    Session,
    State,
)
from luod.linux import Fd

T = TypeVar("T")

Closing = Literal["open", "frozen", "shut"]
"""Who may change sessions: everybody; participants, each to create what its NAME#GENERATION takes; nobody."""

NAME: Final = re.compile(r"[A-Za-z0-9._@/#-]{1,63}")


def check_name(name: str) -> None:
    """InvalidName unless a program may give a session this name."""
    if not NAME.fullmatch(name):
        raise InvalidName(
            name=name,
            message=f"{name!r} is no name for a session",
            hint="a name has 1 to 63 of the letters A-Z a-z, digits, and . _ @ / # -",
        )
    if name == "systemd" or name.startswith(SESSION):
        raise InvalidName(
            name=name, message=f"the name {name!r} is reserved", hint="`systemd` and names that begin with `luod` are"
        )


def may_use(peer: Peer, row: Row) -> bool:
    """Whether a session is the peer's to use, or to know of. A user without a uid here is nobody's owner."""
    return peer.root or (peer.uid == row.owner and not peer.anonymous)


@dataclass(frozen=True)
class Belonging:
    """What a new session is to those who take part in updates; see `luod.daemon.registry.Row`."""

    judged: bool = False
    generation: int | None = None


class Participation(Protocol):
    """Says what a name would be; `luod.daemon.participants` does."""

    def belonging(self, peer: Peer, name: str) -> Belonging: ...


class SessionKeeper:
    """Implements `luod.ipc.sessions.Service`."""

    participation: Participation | None = None

    def __init__(self, holdings: Holdings, custody: Custody, policy: Policy, log: Log) -> None:
        self._registry: Registry = holdings.registry
        self._fds = holdings.fds
        self._broken = holdings.broken is not None
        self._custody = custody
        self._policy = policy
        self._owners = Owners(holdings, custody, self._owner_died)
        self._log = log
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._changing = 0
        self._still = asyncio.Event()
        self._still.set()
        self._closing: Closing = "open"
        self._opened = asyncio.Event()
        self._opened.set()
        self._creating: Counter[int] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._working: set[str] = set()
        self._unclaimed: set[str] = set(holdings.unclaimed)
        self.claimant_died: Callable[[Row], None] | None = None
        """Called when the process ended to which an incoming session was given last."""

    def take_over(self) -> None:
        """Watches whom the serve before this one watched."""
        self._owners.take_over(self._registry.record.rows)

    def rows(self) -> list[tuple[Row, State]]:
        """All sessions by name, with what became of them."""
        return [
            (row, self._state(row)) for row in sorted(self._registry.record.rows, key=lambda r: (r.name, r.direction))
        ]

    def _state(self, row: Row) -> State:
        held = fd_name(row) in self._fds
        if row.direction == "outgoing":
            return "held" if held else "dropped"
        if self._broken:
            return "lost"
        if row.reaped:
            return "reaping" if row.name in self._working else "stuck"
        if row.torn or row.resumed:
            return "torn" if row.torn else "resumed"
        return "retrieved" if held or row.retrieved else "waiting"

    async def close_for_update(self, closing: Closing = "shut") -> None:
        """Until `open_again` nothing else is changed: everybody is told Busy. Returns when changes are over."""
        self._closing = closing
        self._opened.clear()
        await self._still.wait()

    def open_again(self) -> None:
        self._closing = "open"
        self._opened.set()

    async def forget(self, rows: Iterable[Row]) -> None:
        """Drops luod's copies of sessions of which the registry says nothing any more."""
        for row in rows:
            await self._let_go(row)
            self._log("closed", name=row.name, reason="the update it was made for is cancelled")

    async def list(self, peer: Peer) -> list[Session]:
        return [Session(row.name, row.owner, row.direction, state) for row, state in self.rows() if may_use(peer, row)]

    async def create(self, peer: Peer, name: str) -> Fd:
        check_name(name)
        if peer.anonymous:
            raise PermissionDenied()
        belonging = Belonging() if self.participation is None else self.participation.belonging(peer, name)
        frozen = belonging.generation is not None
        granted = self._policy.granted(peer)
        self._check_policy(peer, name, granted, frozen=frozen)
        self._creating[peer.uid] += 1
        try:
            return await self._change(name, self._create(peer, name, belonging, granted), frozen=frozen)
        finally:
            self._creating[peer.uid] -= 1

    def _check_policy(self, peer: Peer, name: str, granted: Granted, *, frozen: bool) -> None:
        """Before anything is said of the name: who may not have it does not learn whether somebody has."""
        if not granted.allows(name):
            raise Refused(
                message=f"luod's policy gives you no session {name!r}",
                hint=f"names for you: {', '.join(granted.shown) or 'none'}",
            )
        rows = self._registry.record.rows
        # What is frozen in an update is as many as were declared, and must not fail for having come last.
        held = sum(r.owner == peer.uid and r.direction == "outgoing" and r.generation is None for r in rows)
        if not frozen and held + self._creating[peer.uid] >= granted.sessions:
            raise Refused(
                message=f"luod's policy gives you {granted.sessions} sessions, and you have them",
                hint="release some, or have your share made larger",
            )

    async def retrieve(self, peer: Peer, name: str) -> Fd:
        return await self._change(name, self._retrieve(peer, name))

    async def release(self, peer: Peer, name: str, direction: Direction, outcome: Outcome) -> None:
        if direction == "outgoing" and outcome == "finished":
            raise InvalidParameter(parameter="outcome")
        await self._change(name, self._release(peer, name, direction, outcome))

    async def replace(self, peer: Peer, name: str) -> Fd:
        return await self._change(name, self._replace(peer, name))

    async def _change(self, name: str, change: Coroutine[Any, Any, T], *, frozen: bool = False) -> T:
        """Makes one change of this name at a time, to its end, also when the client hangs up meanwhile."""
        if self._closing == "shut" or (self._closing == "frozen" and not frozen):
            change.close()
            raise Busy(message="a live update is under way", hint="the session is kept; ask again when it is over")
        task = asyncio.ensure_future(self._exclusively(name, change))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_nobody_waits)
            raise

    async def _exclusively(self, name: str, change: Coroutine[Any, Any, T]) -> T:
        self._changing += 1
        self._still.clear()
        lock = self._locks.setdefault(name, asyncio.Lock())
        try:
            async with lock:
                return await change
        except errors.DeviceBusy as error:
            raise Busy(message=f"/dev/liveupdate: {error.meaning}", hint="try again") from error
        except errors.DeviceBroken as error:
            raise DeviceBroken(message=error.message, hint=error.hint) from error
        except errors.KernelRefused as error:
            raise KernelRefused(
                call=error.call, errno=error.errno, meaning=error.meaning, message=error.message, hint=error.hint
            ) from error
        finally:
            self._changing -= 1
            if not self._changing:
                self._still.set()

    def _row(self, peer: Peer, direction: Direction, name: str) -> Row:
        """The row; NoSuchSession, in the same words, when there is none and when it is not this peer's."""
        row = self._registry.row(direction, name)
        if row is None or not may_use(peer, row):
            raise no_such_session(direction, name)
        return row

    async def _create(self, peer: Peer, name: str, belonging: Belonging, granted: Granted) -> Fd:
        incoming = self._registry.row("incoming", name)
        # NAME#GENERATION is for who has NAME: nobody else may keep it from them.
        base = self._registry.row("outgoing", name.rpartition("#")[0])
        others = any(row is not None and not may_use(peer, row) for row in (incoming, base))
        if self._registry.row("outgoing", name) is not None or others:
            raise session_exists(
                name, "luod holds a session of this name", "release or replace it, or take another name"
            )
        if len(self._registry.record.rows) >= MOST_SESSIONS:
            raise Refused(message=f"luod holds {MOST_SESSIONS} sessions, its most", hint="release some")
        row = Row("outgoing", name, peer.uid, judged=belonging.judged, generation=belonging.generation)
        if granted.on_owner_death == "discard":
            row = replace(row, discard=True)
            await self._owners.pin(row, peer)
        try:
            fd = await self._custody.create(name)
        except errors.SessionExists as error:
            await self._owners.forget(row)
            raise session_exists(name, error.message, error.hint) from error
        except errors.KernelRefused:
            await self._owners.forget(row)
            raise
        self._fds[fd_name(row)] = fd
        self._registry.add(row)
        self._log("created", name=name, owner=peer.uid, pid=peer.pid)
        return fd.duplicate()

    async def _retrieve(self, peer: Peer, name: str) -> Fd:
        row = self._row(peer, "incoming", name)
        if row.reaped:
            raise reaped(name)
        if row.torn:
            raise torn(name)
        if row.resumed:
            raise resumed(name)
        fd = self._fds.get(fd_name(row)) or await self._take_from_kernel(row)
        self._unclaimed.discard(name)
        if peer.pidfd is not None:
            # Whom the restore deadline waits for must be known to the next serve too.
            await self._owners.pin(row, peer, stored=self._policy.settings.restore_deadline is not None)
        self._registry.note(row, "retrieved")
        self._log("retrieved", name=name, owner=row.owner, uid=peer.uid, pid=peer.pid)
        return fd.duplicate()

    async def _take_from_kernel(self, row: Row) -> Fd:
        # First: with the kernel's answer to a keep that dies then the session is gone, and must not seem to wait.
        self._mark_retrieved(row, True)
        try:
            fd = await self._custody.retrieve(row.name)
        except errors.NoSuchSession as error:
            self._registry.lose(row)
            self._log.warning("session-lost", name=row.name, owner=row.owner, reason=error)
            raise no_such_session("incoming", row.name) from error
        except errors.SessionTaken:
            raise
        except errors.KernelRefused:
            self._mark_retrieved(row, row.retrieved)
            raise
        self._fds[fd_name(row)] = fd
        return fd

    async def _take_from_others(self, row: Row) -> Fd | None:
        """None: a client has the session from a luod before this one, so it is the client's alone."""
        try:
            return await self._take_from_kernel(row)
        except errors.SessionTaken:
            return None

    def _mark_retrieved(self, row: Row, retrieved: bool) -> None:
        self._registry.change(
            lambda other: replace(other, retrieved=retrieved) if fd_name(other) == fd_name(row) else other
        )

    async def _release(self, peer: Peer, name: str, direction: Direction, outcome: Outcome) -> None:
        row = self._row(peer, direction, name)
        if direction == "incoming":
            if name in self._working:
                raise Busy(message=f"session {name!r} is being worked on by luod", hint="ask again when that is over")
            fd = self._fds.get(fd_name(row))
            if fd is None and not self._broken and (row.retrieved or outcome == "given_up"):
                # Its memory is the kernel's until somebody takes the session and lets go of it.
                fd = await self._take_from_others(row)
            if outcome == "finished" and (unfinished(fd) if fd else not row.retrieved):
                raise NotFinished(
                    name=name,
                    message=f"session {name!r} is not finished" if fd else f"session {name!r} was never retrieved",
                    hint="finish it, or release it as given up, which frees what it still holds",
                )
        self._registry.note(row, outcome)
        self._registry.remove(row)
        await self._let_go(row)
        self._log("released", name=name, direction=direction, outcome=outcome, uid=peer.uid, pid=peer.pid)

    async def _replace(self, peer: Peer, name: str) -> Fd:
        row = self._row(peer, "outgoing", name)
        await self._let_go(row)
        if row.discard:
            await self._owners.pin(row, peer)
        try:
            fd = await self._custody.create(name)
        except errors.SessionExists as error:
            raise session_exists(
                name, "a copy of the session is still open outside luod", "close every copy, then replace it again"
            ) from error
        self._fds[fd_name(row)] = fd
        self._log("replaced", name=name, owner=row.owner, uid=peer.uid, pid=peer.pid)
        return fd.duplicate()

    # What `luod.daemon.reaping` asks.

    def claimed(self, row: Row) -> bool:
        """Whether an incoming session was given to a process that lives, as far as anybody knows."""
        if not (fd_name(row) in self._fds or row.retrieved) or row.name in self._unclaimed:
            return False
        return self._owners.alive(row) is not False

    async def begin_work(self, name: str, change: Callable[[Row], Row]) -> tuple[Row, Fd]:
        """Takes the incoming session from the kernel if need be, and changes its row: luod itself works on it until
        `end_work`, and the row must be such that it is not handed out meanwhile. The fd stays luod's. Busy,
        NoSuchSession.
        """
        return await self._change(name, self._begin_work(name, change))

    async def _begin_work(self, name: str, change: Callable[[Row], Row]) -> tuple[Row, Fd]:
        row = self._registry.row("incoming", name)
        if row is None:
            raise no_such_session("incoming", name)
        if name in self._working:
            raise Busy(message=f"luod is at work on session {name!r} already", hint="see luoctl sessions")
        fd = self._fds.get(fd_name(row))
        if fd is None:
            fd = await self._take_from_kernel(row)
            row = replace(row, retrieved=True)
            self._unclaimed.add(name)
        row = change(row)
        self._registry.change(lambda other: row if (other.direction, other.name) == ("incoming", name) else other)
        self._working.add(name)
        return row, fd

    async def end_work(self, row: Row, *, remove: bool) -> None:
        """`remove`: nothing is left of the incoming session, and luod drops its copies."""
        self._working.discard(row.name)
        if remove:
            await self._exclusively(row.name, self._remove(row))

    async def _remove(self, row: Row) -> None:
        self._registry.remove(row)
        await self._let_go(row)

    def _owner_died(self, row: Row) -> None:
        if row.direction == "incoming":
            if self.claimant_died is not None:
                self.claimant_died(row)
            return
        task = asyncio.ensure_future(self._discard(row))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _discard(self, row: Row) -> None:
        """Not while an update is under way: what jumps is held until the restore deadline."""
        while True:
            await self._opened.wait()
            try:
                await self._change(row.name, self._discard_now(row.name))
            except Busy:
                continue
            return

    async def _discard_now(self, name: str) -> None:
        row = self._registry.row("outgoing", name)
        if row is not None and row.discard and self._owners.alive(row) is False:
            self._registry.remove(row)
            await self._let_go(row)
            self._log("discarded", name=name, owner=row.owner, reason="the process that created it ended")

    async def _let_go(self, row: Row) -> None:
        """Closes luod's copies, in both processes (H9)."""
        await self._owners.forget(row)
        if row.direction == "incoming":
            self._unclaimed.discard(row.name)
        fd = self._fds.pop(fd_name(row), None)
        if fd is not None:
            fd.close()
            await self._custody.remove(fd_name(row))


def _nobody_waits(task: asyncio.Task[Any]) -> None:
    """The client hung up: its fd is closed; luod's own copy is not."""
    if not task.cancelled() and task.exception() is None:
        result = task.result()
        if isinstance(result, Fd):
            result.close()
