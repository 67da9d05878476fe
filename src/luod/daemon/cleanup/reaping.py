"""Reaping: discards abandoned incoming sessions by a command, the reaper, which luod starts and watches.

The operator requests it. After the policy's restore deadline luod also discards sessions by itself that were never
claimed, are torn, or have lost their claimant; never one that a running process uses, nor a resumed one. A session is
not handed out after its reaping has begun. If the reaper fails, the session is *stuck*: it can be discarded again or
released, and does not block updates. The reaper is `luod.daemon.cleanup.reaper` or a command of the policy.
"""

from __future__ import annotations

import asyncio
import sys
import time

from luod.daemon.cleanup.work import Work
from luod.daemon.cleanup.worker import SESSION_FD, SESSION_NAME
from luod.daemon.completion import completed
from luod.daemon.log import Log
from luod.daemon.policy.current import Policy
from luod.daemon.processes.child import Child, Children, Outcome
from luod.daemon.sessions.service import SessionService
from luod.daemon.store.fd_names import worker_name
from luod.daemon.store.fd_store import SupervisorGone
from luod.daemon.store.recovery import Holdings
from luod.daemon.store.registry import Change, Registry
from luod.daemon.store.schema import IncomingRow, Row, now
from luod.daemon.store.states import IncomingState
from luod.errors import LiveUpdateBusy, LuodError, Refused
from luod.ipc.errors import Busy, DiscardFailed, NoSuchSession
from luod.ipc.server.peer import Peer
from luod.ipc.types.admin import Stuck
from luod.linux import Fd
from luod.static import Final

_AT_ONCE: Final = 4
"""Concurrent reapers that the deadline starts."""
_AGAIN_SECONDS: Final = 1.0
_LEFT_SECONDS: Final = 5.0
"""Between two checks whether a process still has a session open."""
_GRACE_SECONDS: Final = 10.0
"""After the start of serve, as no client can claim a session before it. At most as long as the deadline."""


class Reaping:
    """Needs a running loop. `take_over` runs before the first request is answered."""

    def __init__(self, holdings: Holdings, sessions: SessionService, policy: Policy, log: Log) -> None:
        self._registry: Registry = holdings.registry
        self._sessions = sessions
        self._work = Work(holdings.registry, sessions)
        self._policy = policy
        self._children = Children(holdings.fds)
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._began = time.clock_gettime(time.CLOCK_BOOTTIME)
        self._failures: dict[str, str] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._started: set[str] = set()
        self._few = asyncio.Semaphore(_AT_ONCE)
        self._registry.watchers.append(self._rows_changed)
        sessions.claimant_died = self._claimant_died
        self._deadline = policy.settings.restore_deadline
        policy.changed.append(self._reloaded)

    def take_over(self) -> None:
        for row in self._registry.all_incoming:
            if row.state is IncomingState.DISCARDING and self._children.left(worker_name(row)):
                self._start(row.name)
        self._schedule()

    @property
    def seconds_left(self) -> float | None:
        """Returns the seconds until the restore deadline; None without a deadline or a session that waits for it."""
        left = self.deadline_left()
        return left if left is not None and self._waiting() else None

    def deadline_left(self) -> float | None:
        """Returns the seconds until the restore deadline, even if no session waits for it; None without a deadline."""
        deadline, arrived = self._policy.settings.restore_deadline, self._registry.rest.arrived
        if deadline is None or arrived is None:
            return None
        due = max(arrived + deadline, self._began + min(deadline, _GRACE_SECONDS))
        return max(0.0, round(due - time.clock_gettime(time.CLOCK_BOOTTIME), 3))

    def stuck(self) -> list[Stuck]:
        return [
            Stuck(row.name, self._failures.get(row.name, "its reaper failed; luod's log says how"))
            for row, state in self._sessions.rows()
            if state == "stuck"
        ]

    async def discard(self, peer: Peer, name: str, *, force: bool) -> str:
        """Returns the reaper's report. Raises NoSuchSession, Refused, Busy or DiscardFailed."""
        self._log("discard", name=name, uid=peer.uid, pid=peer.pid, force=force)
        return await completed(self._discard(name, force=force))

    def in_use(self, row: IncomingRow) -> str | None:
        """Returns why an incoming session is in use, or None. Use of one session of a workload is use of all."""
        parts = [other for other in self._registry.workload(row.base) if isinstance(other, IncomingRow)]
        if any(other.state is IncomingState.RESUMED for other in parts):
            return "its guest was resumed"
        claimed = next((other for other in parts if self._sessions.claimed(other)), None)
        if claimed is None:
            return None
        return ("it" if claimed.name == row.name else f"session {claimed.name!r}") + (
            " was retrieved by a process that may still run"
        )

    def check(self, row: IncomingRow, *, force: bool) -> None:
        """Raises Refused if the session is in use."""
        if force or row.state is IncomingState.DISCARDING:
            return
        reason = self.in_use(row)
        if reason is not None:
            raise Refused(
                message=f"session {row.name!r} is in use: {reason}",
                hint="terminate its VMM, or let it finish the session; --force discards the session anyway",
            )

    async def _discard(self, name: str, *, force: bool = False) -> str:
        reapers: list[Child] = []
        try:
            # The check runs after the wait for a turn: the session may have been claimed meanwhile.
            row, _fd = await self._work.begin(
                name,
                lambda row: self.check(row, force=force),
                start=lambda row, fd: reapers.append(self._child(row, fd)),
            )
        except BaseException:
            for reaper in reapers:
                reaper.close()
            raise
        (reaper,) = reapers
        reaped = False
        try:
            outcome = await self._run(row, reaper)
            reaped = outcome.failure is None
        finally:
            reaper.close()
            await self._work.end(row, remove=reaped)
        command = given[0] if (given := self._policy.settings.reaper) else "the reaper"
        if outcome.failure is not None:
            reason = ": ".join(part for part in (f"{command}: {outcome.failure}", outcome.report) if part)
            self._failures[name] = reason
            self._log.error("discard-failed", name=name, owner=row.owner, reason=reason)
            raise DiscardFailed(
                name=name,
                message=f"session {name!r} is stuck: {reason}",
                hint="remove the cause and discard it again, or release it; other sessions are not affected",
            )
        self._failures.pop(name, None)
        self._log("discarded", name=name, owner=row.owner, said=outcome.report)
        return outcome.report

    def _child(self, row: IncomingRow, fd: Fd) -> Child:
        """Returns the reaper, at its gate. Raises Busy: it could not be started."""
        try:
            with fd.duplicate() as session:
                return Child(
                    "luod.daemon.cleanup.reaper_start",
                    self._policy.settings.reaper or (sys.executable, "-P", "-m", "luod.daemon.cleanup.reaper"),
                    fds={SESSION_FD: session.fileno()},
                    environment={SESSION_NAME: row.name, "LUOD_OWNER": str(row.owner)},
                )
        except OSError as error:
            reason = f"its reaper could not be started: {error}"
            if self._failures.get(row.name) != reason:  # luod repeats it each second, past the deadline
                self._failures[row.name] = reason
                self._log.error("discard-failed", name=row.name, owner=row.owner, reason=reason)
            raise Busy(
                message=f"session {row.name!r} is as it was: {reason}", hint="nothing was changed; try again"
            ) from error

    async def _run(self, row: Row, reaper: Child) -> Outcome:
        """Runs the reaper. A failure of luod itself is a failure of the reaper: the session is stuck for a reason."""
        try:
            await self._children.end_left(worker_name(row))
            return await self._children.run(reaper, worker_name(row), self._policy.settings.reaper_timeout)
        except SupervisorGone:
            raise
        except (LuodError, OSError) as error:
            return Outcome(f"it was not run: {error}", None, late=False, report="")

    # The restore deadline.

    def _waiting(self) -> list[IncomingRow]:
        """Returns the sessions to which the deadline applies."""
        rows = ((row, state) for row, state in self._sessions.rows() if isinstance(row, IncomingRow))
        return [row for row, state in rows if state in ("waiting", "retrieved", "torn")]

    def _reloaded(self) -> None:
        """Restarts the wait if the deadline has changed: a new one must not expire at once."""
        if self._policy.settings.restore_deadline != self._deadline:
            self._deadline = self._policy.settings.restore_deadline
            if self._registry.rest.arrived is not None:
                self._registry.set_arrived(now())
        self._schedule()

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        left = self.seconds_left
        if left is not None:
            self._timer = self._loop.call_later(left, self._due)

    def _due(self) -> None:
        self._timer = None
        for row in self._waiting():
            if self.in_use(row) is None:
                self._log.warning("restore-deadline", name=row.name, owner=row.owner)
                self._start(row.name)

    def _claimant_died(self, row: IncomingRow) -> None:
        self._reap_rest(row, "the process that had it ended")

    def _rows_changed(self, changes: tuple[Change, ...]) -> None:
        """Reaps the rest of a workload when one of its sessions, which may have been in use, has ended."""
        for row, other in changes:
            if isinstance(row, IncomingRow) and other is None:
                self._loop.call_soon(self._reap_rest, row, f"session {row.name} of its workload ended")

    def _reap_rest(self, row: IncomingRow, reason: str) -> None:
        """Reaps the remaining sessions of the workload of `row` that are not in use, if the deadline has passed."""
        if self.deadline_left() != 0.0:
            return
        for waiting in self._waiting():
            if waiting.base == row.base and self.in_use(waiting) is None:
                self._log.warning("restore-deadline", name=waiting.name, owner=waiting.owner, reason=reason)
                self._start(waiting.name)

    def _start(self, name: str) -> None:
        if name in self._started:
            return
        self._started.add(name)
        task = self._loop.create_task(self._by_itself(name))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _task: self._started.discard(name))

    async def _by_itself(self, name: str) -> None:
        """Reaps a session, and retries while something transient, such as an update, prevents it."""
        told = False
        while True:
            async with self._few:
                row = self._registry.incoming(name)
                if row is None:
                    return
                discarding = row.state is IncomingState.DISCARDING
                holder = None if discarding else await self._sessions.open_elsewhere(row)
                if holder is None:
                    try:
                        await self._discard(name)
                    except (Busy, LiveUpdateBusy):
                        pass
                    except (DiscardFailed, NoSuchSession, Refused):
                        return
                    except LuodError as error:
                        self._log.error("discard-failed", name=name, reason=error)
                        return
                    else:
                        return
                elif not told:
                    told = True
                    reason = "another process than the one that retrieved it last has it open"
                    if holder == "unknown":
                        reason = "luod cannot determine whether another process has it open"
                    self._log.warning("left-alone", name=name, owner=row.owner, reason=reason)
            # Sleeps without the semaphore.
            await asyncio.sleep(_LEFT_SECONDS if told else _AGAIN_SECONDS)
