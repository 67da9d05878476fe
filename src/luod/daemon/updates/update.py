"""An update: the kexec into the next kernel with every session that luod holds.

One update runs at a time, and it can be rolled back until reboot(2) is called. `luod.daemon.updates.coordinator` asks
the participants; then the sessions are closed to changes, the registry is marked (H13), and a separate process calls
reboot(2). After a failure every step is undone before a participant is told to resume. The image is
`luod.daemon.updates.kexec_image`. The interface is `luod.ipc.interfaces.admin`.
"""

from __future__ import annotations

import asyncio
import gc
import os
from time import monotonic

from luod import errors
from luod.daemon import clock
from luod.daemon.preflight.findings import listed, refuse, refusing, require_names, with_ignored
from luod.daemon.processes.child import ended
from luod.daemon.replies import too_late, update_running
from luod.daemon.run_state import Run, RunState
from luod.daemon.store.fd_names import JUMP, fd_name
from luod.daemon.store.fd_store import SupervisorGone
from luod.daemon.store.schema import Departure
from luod.daemon.systemd import commands
from luod.daemon.updates import early_freeze, stuck_ioctls, times
from luod.daemon.updates.follower import delivered
from luod.daemon.updates.participants import Participants, ready_rows
from luod.daemon.updates.quiesce import Quiesce
from luod.daemon.updates.reboot_process import RebootProcess, until_ended
from luod.daemon.updates.transaction import NotAwaited, Transaction
from luod.daemon.updates.way import choose
from luod.errors import Refused
from luod.frozen import replace
from luod.ipc.errors import InvalidParameter, NoUpdate
from luod.ipc.types.admin import Checked, PlannedSession, Progress, Wishes
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection

    from luod.daemon.log import Log
    from luod.daemon.policy.current import Policy
    from luod.daemon.preflight.rules import Moment
    from luod.daemon.sessions.service import SessionService
    from luod.daemon.store.recovery import Holdings
    from luod.daemon.timeline.recorder import Recorder
    from luod.daemon.updates.coordinator import Coordinator
    from luod.daemon.updates.disk_writes import DiskWrites
    from luod.daemon.updates.hooks import Hooks
    from luod.daemon.updates.inhibitor import Inhibitor
    from luod.daemon.updates.kexec_image import KexecImage
    from luod.daemon.updates.undo import Undo
    from luod.ipc.server.peer import Peer
    from luod.ipc.types.phases import Way
    from luod.linux import Fd

_PATIENCE_SECONDS: Final = 30.0
"""The default limit of each phase; the time to preserve the declared bytes is added."""
_MOST_PATIENCE_SECONDS: Final = 86400.0
_READING_SECONDS: Final = 5.0
"""The wait for luoctl to read the last reply before the kexec, while guests are frozen."""
_LOADING_SECONDS: Final = 30.0
"""The limit for a load of the image while guests are paused. On an emulated processor 75 MB take about a second."""
_DETACHED_SECONDS: Final = 1.0
"""The time for the last reply to a detached operator to cross the network, before guests are frozen."""

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
        hooks: Hooks,
        inhibitor: Inhibitor,
        undo: Undo,
        disk: DiskWrites,
        policy: Policy,
        run: Run,
        log: Log,
        *,
        stuck_seconds: float,
        failed: Callable[[BaseException], None],
    ) -> None:
        """`stuck_seconds`: how long reboot(2) may take before the processes that block it are killed. `failed` ends
        serve: it gets the error of an update that ended by a defect.
        """
        self._registry = holdings.registry
        self._broken = holdings.broken
        self._fds = holdings.fds
        self._image = image
        self._sessions = sessions
        self._participants = participants
        self._recorder = recorder
        self._hooks = hooks
        self._policy = policy
        self._inhibitor = inhibitor
        self._undo = undo
        self._disk = disk
        self._quiesce = Quiesce(holdings, undo, log)
        self._run = run
        self._started = clock.now()
        self._log = log
        self._stuck_seconds = stuck_seconds
        self._failed = failed
        self._task: asyncio.Task[None] | None = None
        self._load_task: asyncio.Task[None] | None = None
        """The last load that a cancellation does not wait for."""
        self._restoring = asyncio.Lock()
        """Held while what an update has done to the machine is undone."""

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
        self._task = asyncio.ensure_future(self._proceed(coordinator, _given_up(wishes), detach=wishes.detach))
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
                _cancel(coordinator, "the connection of luoctl update was closed")
            coordinator.feed.left()

    def _begin(self, peer: Peer, wishes: Wishes, way: Way, patience: float, unfollowed: list[str]) -> Coordinator:
        """Accepts an update."""
        from luod.daemon.updates.coordinator import Coordinator  # late, as above

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
        if not _cancel(coordinator, "the operator aborted it"):
            raise too_late()
        self._log("abort", update=coordinator.id, uid=peer.uid, pid=peer.pid)
        await asyncio.shield(task)

    async def _proceed(self, coordinator: Coordinator, given_up: Collection[str], *, detach: bool) -> None:
        """Runs the update from the first check to the end of this kernel, or to the end of the rollback."""
        reboot: RebootProcess | None = None
        quiescing: asyncio.Future[None] | None = None
        try:
            # What an earlier update has left behind is undone first, not in the middle of this one.
            async with self._restoring:
                await self._undo.undo()
            try:
                await self._disk.require_free()
                await self._load()
            except (errors.KernelRefused, Refused) as error:
                coordinator.error = error
                raise
            await self._ask_hook(coordinator)
            if not coordinator.cancelled:
                coordinator.begin(self._participants.followers, self._registry.begin_generation())
                self._recorder.begin(times.current(coordinator, self._registry.all_outgoing))
                await coordinator.settle()
            if not coordinator.cancelled:
                await coordinator.unless_cancelled(self._disk.begin())
            if not coordinator.cancelled and coordinator.way == "systemd":
                await self._inhibitor.release()
                quiescing = asyncio.ensure_future(self._quiesce.run(coordinator))
                await coordinator.unless_cancelled(quiescing)
            if not coordinator.cancelled and self._image.replaced:
                await coordinator.unless_cancelled(self._loading())
            if not coordinator.cancelled:
                # While guests run: what it imports may be on a disk that hangs (H30).
                reboot = RebootProcess(coordinator.way)
                await coordinator.unless_cancelled(reboot.at_gate())
            if detach and not coordinator.cancelled:
                self._require_certain(coordinator, "freezing", given_up)
            if detach and not coordinator.cancelled:
                coordinator.feed.detach()
                await coordinator.unless_cancelled(asyncio.sleep(_DETACHED_SECONDS))
            if not coordinator.cancelled:
                self._run.enter(RunState.PREPARED, update=coordinator.id)
                await coordinator.unless_cancelled(self._sessions.changes.still())
                await coordinator.unless_cancelled(self._image.quiet())
                # Waits also for participants that have joined since.
                await coordinator.settle()
            if not coordinator.cancelled:
                self._require_certain(coordinator, "freezing", given_up)
            if not coordinator.cancelled:
                # A collection took up to 16 ms.
                gc.disable()
                self._disk.freeze()
                coordinator.freeze()
            if not coordinator.cancelled:
                loading = None
                if not self._image.counted:
                    # In parallel with the freezing, so that it adds less blackout (H19).
                    loading = self._loading()
                    loading.add_done_callback(lambda done: _cancel_if_failed(coordinator, done))
                await coordinator.settle()
                if loading is not None:
                    await coordinator.unless_cancelled(_in_time(loading))
            if not coordinator.cancelled and reboot is not None:
                self._run.enter(RunState.FROZEN, update=coordinator.id)
                await self._sessions.changes.still()
                # The supervisor answers while the participants are told.
                await asyncio.gather(self._fds.store({JUMP: reboot.pidfd}), coordinator.announce())
            if not coordinator.cancelled:
                self._require_certain(coordinator, "jumping", given_up)
            if not coordinator.cancelled and reboot is not None:
                await self._call_reboot(coordinator, reboot, given_up)
        except asyncio.CancelledError:
            if reboot is not None and reboot.under_way:
                # luod is being stopped while reboot(2) runs: the marks in the registry are true.
                raise
            coordinator.end("luod was stopped")
        except (errors.LuodError, OSError) as error:
            if reboot is not None and reboot.under_way:
                raise
            coordinator.end(str(error))
        finally:
            if reboot is None or not reboot.under_way:
                coordinator.end("luod failed; its log says more")
                await self._roll_back(coordinator, reboot, quiescing)

    async def _load(self) -> None:
        """Loads the image. It is unloaded when the update is cancelled, also by a later luod."""
        self._undo.loads()
        await self._image.load_again()
        self._undo.loaded(self._image.count)

    def _loading(self) -> asyncio.Task[None]:
        """Loads the image in a task, for which a roll-back waits."""
        self._load_task = asyncio.ensure_future(self._load())
        return self._load_task

    async def _ask_hook(self, coordinator: Coordinator) -> None:
        """Runs the hook before-update, before the first participant is asked."""
        await coordinator.unless_cancelled(self._hooks.settle())
        if coordinator.cancelled:
            return
        asked = asyncio.ensure_future(self._hooks.before(coordinator.id, self._registry.rest.generation + 1))
        try:
            await coordinator.unless_cancelled(asked)
        except errors.Refused as error:
            coordinator.error = error
            raise
        if not asked.done():
            self._hooks.call_off()
            await asyncio.wait((asked,))

    def _require_certain(self, coordinator: Coordinator, moment: Moment, given_up: Collection[str]) -> None:
        """Cancels the update unless all facts allow it at this moment: a declaration, a new session or another process
        may have changed them since the check. The next step must follow in the same turn of the loop.
        """
        try:
            self._require_allowed(moment, given_up)
        except (errors.Refused, OSError) as error:
            coordinator.cancel(str(error))
            return
        if released := self._participants.released():
            # Their guests would freeze for a kexec that does not preserve them.
            coordinator.cancel(f"sessions were released after their participants voted ready: {listed(released)}")

    def _require_allowed(self, moment: Moment, given_up: Collection[str]) -> None:
        """Raises Refused: a finding does not allow the update at this moment, or a file was changed."""
        in_the_way = refusing(with_ignored(self._image.certain(moment), given_up))
        if in_the_way:
            raise Refused(f"{in_the_way[0].name}: {in_the_way[0].what}; {in_the_way[0].remedy}")

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

    async def _call_reboot(self, coordinator: Coordinator, reboot: RebootProcess, given_up: Collection[str]) -> None:
        """Calls reboot(2), which cannot be cancelled. Returns if the kernel refuses; `coordinator` has the reason."""
        ready = ready_rows(coordinator, self._registry.all_outgoing)
        coordinator.jump(len(ready))
        left = clock.now()
        departure = Departure(
            coordinator.id,
            coordinator.generation,
            coordinator.transaction.skip_unready,
            round(coordinator.preparing_seconds, 6),
            round(left.monotonic - coordinator.frozen, 6),
            left,
            clock.pace(self._started, left),
        )
        self._registry.depart(departure, ready)
        if not await coordinator.feed.jump_read(_READING_SECONDS):
            self._log.warning("operator-slow", update=coordinator.id)
        await self._disk.before_kexec(coordinator.way)
        if self._image.replaced:
            self._log.warning("image-replaced", update=coordinator.id)
            await _in_time(self._loading())
            # A file may have been written to since the last check, which was before the disk and luoctl were awaited.
            self._require_allowed("jumping", given_up)
            if self._image.replaced:
                raise errors.Refused("another process loads kernel images", hint="stop it, then update again")
        try:
            # luod may hold no fd of a session whose owner has it open: it was stopped since.
            held = {name: self._fds[fd_name(row)] for name, row in ready.items() if fd_name(row) in self._fds}
            await early_freeze.freeze(held)
        except errors.KernelRefused as error:
            coordinator.came_back(str(error))
            return
        reboot.go(self._image.count)
        await until_ended(reboot.ended, self._stuck_seconds, lambda: self._end_stuck(coordinator), self._log)
        cancel = coordinator.came_back if reboot.called else coordinator.end
        cancel(str(reboot.refusal()))

    def _end_stuck(self, coordinator: Coordinator | None) -> None:
        """Kills processes that block reboot(2) in an ioctl of a session, against the rules of an update (H17)."""
        followers = {f.peer.pid: f.peer.pidfd for f in self._participants.followers if f.peer.pidfd is not None}
        for found in stuck_ioctls.end(followers):
            self._log.warning("jump-held", pid=found.pid, command=found.command, ended=found.ended)
            done = "was ended" if found.ended else "is root's and not a participant; terminate it manually"
            if coordinator is not None:
                coordinator.feed.note(f"{found.command} ({found.pid}) blocks reboot(2) in a session's ioctl: it {done}")

    async def _roll_back(
        self, coordinator: Coordinator, reboot: RebootProcess | None, quiescing: asyncio.Future[None] | None
    ) -> None:
        """Undoes every step of the sessions, and only then tells the participants to resume (H13). All else follows:
        the timeline, the image, the units, and the end of the process that was to call reboot(2).
        """
        gc.enable()
        try:
            if reboot is not None:
                reboot.kill()
            # A session that is just being created for this update is removed with the others.
            await self._sessions.changes.still()
            await self._forget_departure()
            await self._disk.take_back()
        finally:
            self._participants.preserving = coordinator.preserving
            self._participants.coordinator = None
            coordinator.tell("cancelled", state=self._participants.state)
            ended = times.current(coordinator, self._registry.all_outgoing, over=True)
            if coordinator.generation:  # an update refused before the first participant is asked is not recorded
                self._recorder.begin(ended)
            told = ended.timeline
            self._log.warning(
                "cancelled", update=coordinator.id, reason=told.reason, blackout_seconds=f"{told.blackout or 0.0:.3f}"
            )
            self._run.enter(RunState.IDLE)
            await self._restore_machine(coordinator, quiescing)
            if reboot is not None:
                await reboot.close()

    async def _restore_machine(self, coordinator: Coordinator, quiescing: asyncio.Future[None] | None) -> None:
        """Has serve write to the disk, unloads the image, and starts the units that were stopped. The next update waits
        for that.
        """
        async with self._restoring:
            if coordinator.frozen:
                await delivered(self._participants.followers)
            await self._disk.end()
            if quiescing is not None and not quiescing.done():
                self._quiesce.call_off()
                await asyncio.wait((quiescing,))
            if self._load_task is not None:
                # What is loaded after the image was unloaded would stay (H13).
                await asyncio.wait((self._load_task,))
            await self._undo.undo()
            self._inhibitor.resume()

    async def _forget_departure(self) -> None:
        frozen = self._registry.stay()
        await self._sessions.forget(frozen)
        await self._fds.drop(JUMP)

    def take_over(self) -> None:
        """Waits for the end of reboot(2) if the previous serve called it, before serve writes to the disk."""
        if self._run.is_in(RunState.JUMPING):
            self._task = asyncio.ensure_future(self._await_reboot())
            self._task.add_done_callback(self._ran)
            return
        self._disk.take_over()
        if self._undo.needed:
            self._task = asyncio.ensure_future(self._undo_earlier())
            self._task.add_done_callback(self._undid)

    async def restored(self) -> None:
        """Waits until what an update has done to the machine is undone."""
        async with self._restoring:
            pass

    async def _undo_earlier(self) -> None:
        """Undoes what the update of a luod that was killed has left behind."""
        async with self._restoring:
            await self._quiesce.end_left()
            await self._undo.undo()
            self._inhibitor.resume()

    async def _await_reboot(self) -> None:
        departure = self._registry.rest.departure
        update = None if departure is None else departure.update
        self._log.warning("jumping-still", update=update)
        await self._sessions.changes.still()
        jump = self._fds[JUMP]
        await until_ended(lambda most: ended(jump, most), self._stuck_seconds, lambda: self._end_stuck(None), self._log)
        self._run.enter(RunState.CANCELLING, update=update)
        await self._forget_departure()
        reason = "reboot(2) returned, or was never called; the previous serve ended before it logged the reason"
        self._participants.tell_cancelled(update, reason)
        self._run.enter(RunState.IDLE)
        self._recorder.not_jumped(reason)
        self._log.warning("cancelled", update=update, reason=reason)
        await delivered(self._participants.followers)
        self._disk.take_over()
        await self._undo.undo()


def _given_up(wishes: Wishes) -> tuple[str, ...]:
    """Returns the names of the findings that do not block this update."""
    return (*wishes.ignore_findings, *(("participant-missing",) if wishes.skip_unready else ()))


def _cancel(coordinator: Coordinator, reason: str) -> bool:
    """Cancels the update if that is still possible. Returns whether it is cancelled."""
    try:
        coordinator.cancel(reason)
    except NotAwaited:
        return False
    return True


async def _in_time(loading: asyncio.Task[None]) -> None:
    """Waits for a load of the image while guests are paused. Its files may be on a disk that hangs (H30).

    Raises Refused: it takes too long, and continues. Raises its errors.
    """
    done, _late = await asyncio.wait((loading,), timeout=_LOADING_SECONDS)
    if not done:
        raise Refused(
            f"the image was not loaded within {_LOADING_SECONDS:g} s",
            hint="find out what keeps the disk of its files busy, then update again",
        )
    loading.result()


def _cancel_if_failed(coordinator: Coordinator, task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _cancel(coordinator, str(error))
