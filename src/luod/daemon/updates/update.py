"""Updates: the kexec into the next kernel with every session that luod holds, as the operator requests it.

One update runs at a time, and it can be rolled back until reboot(2) is called. `luod.daemon.updates.stages` runs it:
`luod.daemon.updates.coordinator` asks the participants; then the sessions are closed to changes, the registry is marked
(H13), and a separate process calls reboot(2). The interface is `luod.ipc.interfaces.admin`.
"""

from __future__ import annotations

import asyncio
import os
from time import monotonic

from luod.daemon.preflight.findings import listed, refuse, refusing, require_names, with_ignored
from luod.daemon.replies import too_late, update_running
from luod.daemon.run_state import Run, RunState
from luod.daemon.store.fd_store import SupervisorGone
from luod.daemon.systemd import commands
from luod.daemon.updates.participants import Participants
from luod.daemon.updates.stages import Stages, Update
from luod.daemon.updates.transaction import Transaction
from luod.daemon.updates.way import choose
from luod.errors import Refused
from luod.frozen import replace
from luod.ipc.errors import InvalidParameter, NoUpdate
from luod.ipc.types.admin import Checked, PlannedSession, Progress, Wishes
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from luod.daemon.log import Log
    from luod.daemon.policy.current import Policy
    from luod.daemon.sessions.service import SessionService
    from luod.daemon.store.recovery import Holdings
    from luod.daemon.timeline.recorder import Recorder
    from luod.daemon.updates.coordinator import Coordinator
    from luod.daemon.updates.kexec_image import KexecImage
    from luod.ipc.server.peer import Peer
    from luod.ipc.types.phases import Way
    from luod.linux import Fd

_PATIENCE_SECONDS: Final = 30.0
"""The default limit of each phase; the time to preserve the declared bytes is added."""
_MOST_PATIENCE_SECONDS: Final = 86400.0

_CLOSED: Final = (
    RunState.PREPARED,
    RunState.FREEZING,
    RunState.FROZEN,
    RunState.JUMPING,
    RunState.CANCELLING,
)
"""The states in which no check may begin: guests are paused, or are about to be."""


class Updater:
    """Runs updates for `luod.daemon.admin`. Needs a running loop."""

    def __init__(
        self,
        holdings: Holdings,
        image: KexecImage,
        sessions: SessionService,
        participants: Participants,
        recorder: Recorder,
        stages: Stages,
        policy: Policy,
        run: Run,
        log: Log,
        *,
        failed: Callable[[BaseException], None],
    ) -> None:
        """`failed` ends serve: it gets the error of an update that ended by a defect."""
        self._registry = holdings.registry
        self._broken = holdings.broken
        self._image = image
        self._sessions = sessions
        self._participants = participants
        self._recorder = recorder
        self._stages = stages
        self._policy = policy
        self._run = run
        self._log = log
        self._failed = failed
        self._task: asyncio.Task[None] | None = None

    async def check(self, kernel: Fd | None, initrd: Fd | None, command_line: str | None, wishes: Wishes) -> Checked:
        try:
            require_names(wishes.ignore_findings)
            if self._run.is_in(*_CLOSED):
                # Reading files would take processor time while guests are paused.
                raise update_running(self._run.state)
            way = self.way(wishes.way)
            checked = await self._image.check(kernel, initrd, command_line, way)
        finally:
            for fd in (kernel, initrd):
                if fd is not None:
                    fd.close()
        findings = with_ignored(checked.findings, _given_up(wishes))
        unfollowed = self._participants.unfollowed()
        return Checked(
            bool(refusing(findings)),
            checked.release,
            findings,
            checked.current,
            os.uname().release,
            self._planned(),
            self._checked(unfollowed, way).participants,
            tuple(unfollowed),
            await asyncio.to_thread(self._recorder.expected_blackout),
        )

    def _planned(self) -> tuple[PlannedSession, ...]:
        """Returns the sessions that an update would carry, with the participants that answer for them."""
        rows = sorted(self._registry.all_outgoing, key=lambda row: row.name)
        answering = self._participants.answering
        return tuple(PlannedSession(row.name, row.owner, row.bytes, answering(row.name)) for row in rows)

    def way(self, asked: Way | None = None) -> Way:
        """Returns the way of an update that asks for this one, or for none. Raises Refused: it is not possible."""
        if asked == "systemd":
            commands.require_booted()
        kinds = {kind for row, _state in self._sessions.rows() for kind in row.kinds}
        return choose(asked, self._policy.settings.update_way, kinds=kinds, booted=commands.booted())

    async def update(self, peer: Peer, wishes: Wishes) -> AsyncGenerator[Progress, None]:
        if self._run.busy:
            raise update_running(self._run.state)
        patience = _PATIENCE_SECONDS if wishes.deadline is None else wishes.deadline
        if not 0 < patience <= _MOST_PATIENCE_SECONDS:
            raise InvalidParameter(parameter="deadline")
        if self._broken is not None:
            raise Refused(message=self._broken.message, hint=self._broken.hint)
        carried = self._sessions.being_carried_over
        if carried and not wishes.dry_run:
            # It takes minutes, and the update could not be cancelled until it ends.
            raise Refused(
                message=f"sessions are being carried over: {listed(carried)}",
                hint="try again when `luoctl list` shows them as held",
            )
        require_names(wishes.ignore_findings)
        way = self.way(wishes.way)
        self._run.enter(RunState.CHECKING)
        try:
            findings = with_ignored(await self._image.look(way), _given_up(wishes))
            unfollowed = self._participants.unfollowed()
            checked = replace(self._checked(unfollowed, way), findings=tuple(findings)) if wishes.dry_run else None
            if checked is None:
                refuse(findings)
                coordinator = self._begin(peer, wishes, way, patience, unfollowed)
        finally:
            if self._run.is_in(RunState.CHECKING):
                self._run.enter(RunState.IDLE)
        if checked is not None:
            # The last reply.
            yield checked
            return
        self._task = asyncio.ensure_future(
            self._stages.proceed(Update(coordinator, _given_up(wishes), detach=wishes.detach))
        )
        self._task.add_done_callback(self._ran)
        try:
            while True:
                progress = await coordinator.news()
                if coordinator.cancelled:
                    # The reply follows the rollback, so that the next update can be requested at once.
                    await asyncio.shield(self._task)
                if coordinator.error is not None:
                    raise coordinator.error
                if coordinator.feed.detached and not coordinator.cancelled:
                    yield replace(progress, state="prepared", findings=tuple(findings))
                    return
                yield replace(progress, findings=tuple(findings))
                coordinator.feed.read(progress)
                findings = []
        finally:
            # An interrupt of luoctl cancels the update.
            if not coordinator.feed.detached:
                coordinator.cancel_if_possible("the connection of luoctl update was closed")
            coordinator.feed.left()

    def _begin(self, peer: Peer, wishes: Wishes, way: Way, patience: float, unfollowed: list[str]) -> Coordinator:
        """Accepts an update."""
        from luod.daemon.updates.coordinator import Coordinator  # not needed at the start of serve

        update = os.urandom(4).hex()
        sessions = len(self._sessions.rows())
        self._run.enter(RunState.STARTING, update=update, uid=peer.uid, pid=peer.pid, sessions=sessions, way=way)
        coordinator = Coordinator(update, way, patience, wishes.skip_unready, unfollowed, self._run, self._log)
        coordinator.preserving = self._participants.preserving
        self._participants.coordinator = coordinator
        return coordinator

    def _checked(self, unfollowed: list[str], way: Way) -> Progress:
        """Returns the report of a dry run: the participants, and the sessions without a participant."""
        from luod.daemon.updates.progress import report

        followers = {follower.id: follower for follower in self._participants.followers}
        names = [(id, follower.name) for id, follower in followers.items()]
        transaction = Transaction.begin(names, patience=_PATIENCE_SECONDS, skip_unready=False, now=monotonic())
        generation = self._registry.rest.generation + 1
        checked = report("", generation, transaction, followers, unfollowed, way=way, changed=followers)
        return replace(checked, state="checked")

    async def abort(self, peer: Peer) -> None:
        coordinator, task = self._participants.coordinator, self._task
        if self._run.is_in(RunState.JUMPING):
            raise too_late()
        if coordinator is None or task is None:
            raise NoUpdate(message="no update is running", hint="see `luoctl status`")
        if not coordinator.cancel_if_possible("the operator aborted it"):
            raise too_late()
        self._log("abort", update=coordinator.id, uid=peer.uid, pid=peer.pid)
        await asyncio.shield(task)

    def _ran(self, task: asyncio.Task[None]) -> None:
        """Ends serve after a defect: participants may be left paused, and the next serve cancels, or takes over."""
        if (error := self._undid(task)) is not None:
            self._failed(error)

    def _undid(self, task: asyncio.Task[None]) -> BaseException | None:
        """Logs the error of a task, if it has one, and returns it."""
        from traceback import extract_tb  # late: only after a defect

        error = None if task.cancelled() else task.exception()
        if error is None or isinstance(error, SupervisorGone):  # serve logs SupervisorGone and ends
            return None
        where = " ".join(f"{each.name}:{each.lineno}" for each in extract_tb(error.__traceback__))
        self._log.error("bug", method="update", error=repr(error), traceback=where)
        return error

    def take_over(self) -> None:
        """Continues the update of the previous serve."""
        if self._run.is_in(RunState.JUMPING):
            self._task = asyncio.ensure_future(self._stages.await_reboot())
            self._task.add_done_callback(self._ran)
        else:
            self._task = asyncio.ensure_future(self._stages.undo_earlier())
            self._task.add_done_callback(self._undid)

    async def restored(self) -> None:
        """Waits until what an update has done to the machine is undone."""
        await self._stages.restored()


def _given_up(wishes: Wishes) -> tuple[str, ...]:
    """Returns the names of the findings that do not block this update."""
    return (*wishes.ignore_findings, *(("participant-missing",) if wishes.skip_unready else ()))
