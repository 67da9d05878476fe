"""The stages of an update, from the first check to reboot(2), and its rollback.

After a failure every step is undone before a participant is told to resume. `luod.daemon.updates.update` accepts
updates and reports to the operator.
"""

from __future__ import annotations

import asyncio
import gc

from luod import errors
from luod.daemon import clock
from luod.daemon.preflight.findings import listed, refusing, with_ignored
from luod.daemon.processes.child import ended
from luod.daemon.run_state import Run, RunState
from luod.daemon.store.fd_names import JUMP, fd_name
from luod.daemon.store.schema import Departure
from luod.daemon.updates import early_freeze, stuck_ioctls, times
from luod.daemon.updates.follower import delivered
from luod.daemon.updates.participants import Participants, ready_rows
from luod.daemon.updates.quiesce import Quiesce
from luod.daemon.updates.reboot_process import RebootProcess, until_ended
from luod.errors import Refused
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection

    from luod.daemon.log import Log
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

_READING_SECONDS: Final = 5.0
"""The wait for luoctl to read the last reply before the kexec, while guests are frozen."""
_LOADING_SECONDS: Final = 30.0
"""The limit for a load of the image while guests are paused. On an emulated processor 75 MB take about a second."""
_DETACHED_SECONDS: Final = 1.0
"""The time for the last reply to a detached operator to cross the network, before guests are frozen."""


class Update:
    """An update that was accepted, and what it has started."""

    def __init__(self, coordinator: Coordinator, given_up: Collection[str], *, detach: bool) -> None:
        """`given_up`: the names of findings that do not block it. `detach`: its operator leaves before the kexec."""
        self.coordinator: Final = coordinator
        self.given_up: Final = given_up
        self.detach: Final = detach
        self.reboot: RebootProcess | None = None
        """The process that calls reboot(2)."""
        self.quiescing: asyncio.Future[None] | None = None
        """The stop of the units by systemd."""

    @property
    def jumping(self) -> bool:
        """Returns whether reboot(2) may be under way."""
        return self.reboot is not None and self.reboot.under_way


class Stages:
    """Runs the stages of one update at a time. Needs a running loop."""

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
        run: Run,
        log: Log,
        *,
        stuck_seconds: float,
    ) -> None:
        """`stuck_seconds`: how long reboot(2) may take before the processes that block it are killed."""
        self._registry = holdings.registry
        self._fds = holdings.fds
        self._image = image
        self._sessions = sessions
        self._participants = participants
        self._recorder = recorder
        self._hooks = hooks
        self._inhibitor = inhibitor
        self._undo = undo
        self._disk = disk
        self._quiesce = Quiesce(holdings, undo, log)
        self._run = run
        self._started = clock.now()
        self._log = log
        self._stuck_seconds = stuck_seconds
        self._load_task: asyncio.Task[None] | None = None
        """The last load that a cancellation does not wait for."""
        self._restoring = asyncio.Lock()
        """Held while what an update has done to the machine is undone."""

    async def proceed(self, update: Update) -> None:
        """Runs the update from the first check to the end of this kernel, or to the end of the rollback."""
        coordinator = update.coordinator
        try:
            for stage in (
                self._start,
                self._prepare,
                self._make_ready,
                self._detach,
                self._close,
                self._freeze,
                self._await_frozen,
                self._jump,
            ):
                await stage(update)
                if coordinator.cancelled:
                    break
        except asyncio.CancelledError:
            if update.jumping:
                # luod is being stopped while reboot(2) runs: the marks in the registry are true.
                raise
            coordinator.end("luod was stopped")
        except (errors.LuodError, OSError) as error:
            if update.jumping:
                raise
            coordinator.end(str(error))
        finally:
            if not update.jumping:
                coordinator.end("luod failed; its log says more")
                await self._roll_back(update)

    # The stages of an update. A stage returns early when the update is cancelled.

    async def _start(self, update: Update) -> None:
        """Loads the image, and runs the hook before-update."""
        # What an earlier update has left behind is undone first, not in the middle of this one.
        async with self._restoring:
            await self._undo.undo()
        try:
            await self._disk.require_free()
            await self._load()
        except (errors.KernelRefused, Refused) as error:
            update.coordinator.error = error
            raise
        await self._ask_hook(update.coordinator)

    async def _prepare(self, update: Update) -> None:
        """Has the participants prepare, while guests run."""
        coordinator = update.coordinator
        coordinator.begin(self._participants.followers, self._registry.begin_generation())
        self._recorder.begin(times.current(coordinator, self._registry.all_outgoing))
        await coordinator.settle()

    async def _make_ready(self, update: Update) -> None:
        """Makes the machine ready for the kexec, while guests run: its disks, units, image, and the process that calls
        reboot(2).
        """
        coordinator = update.coordinator
        await coordinator.unless_cancelled(self._disk.begin())
        if not coordinator.cancelled and coordinator.way == "systemd":
            await self._inhibitor.release()
            update.quiescing = asyncio.ensure_future(self._quiesce.run(coordinator))
            await coordinator.unless_cancelled(update.quiescing)
        if not coordinator.cancelled and self._image.replaced:
            await coordinator.unless_cancelled(self._loading())
        if not coordinator.cancelled:
            # While guests run: what it imports may be on a disk that hangs (H30).
            update.reboot = RebootProcess(coordinator.way)
            await coordinator.unless_cancelled(update.reboot.at_gate())

    async def _detach(self, update: Update) -> None:
        """Sends a detached operator the last reply, if the update can go on."""
        coordinator = update.coordinator
        if not update.detach:
            return
        self._require_certain(update, "freezing")
        if not coordinator.cancelled:
            coordinator.feed.detach()
            await coordinator.unless_cancelled(asyncio.sleep(_DETACHED_SECONDS))

    async def _close(self, update: Update) -> None:
        """Closes the sessions to changes."""
        coordinator = update.coordinator
        self._run.enter(RunState.PREPARED, update=coordinator.id)
        await coordinator.unless_cancelled(self._sessions.changes.still())
        await coordinator.unless_cancelled(self._image.quiet())
        # Waits also for participants that have joined since.
        await coordinator.settle()

    async def _freeze(self, update: Update) -> None:
        """Has the participants pause their guests, unless a check finds that the update cannot go on."""
        coordinator = update.coordinator
        self._require_certain(update, "freezing")
        if coordinator.cancelled:
            return
        # A collection took up to 16 ms.
        gc.disable()
        self._disk.freeze()
        coordinator.freeze()

    async def _await_frozen(self, update: Update) -> None:
        """Waits until all guests are paused and their state is preserved."""
        coordinator, loading = update.coordinator, None
        if not self._image.counted:
            # In parallel with the freezing, so that it adds less blackout (H19).
            loading = self._loading()
            loading.add_done_callback(lambda done: _cancel_if_failed(coordinator, done))
        await coordinator.settle()
        if loading is not None:
            await coordinator.unless_cancelled(_in_time(loading))

    async def _jump(self, update: Update) -> None:
        """Tells the participants that the kexec begins, and calls reboot(2)."""
        coordinator, reboot = update.coordinator, update.reboot
        assert reboot is not None
        self._run.enter(RunState.FROZEN, update=coordinator.id)
        await self._sessions.changes.still()
        # The supervisor answers while the participants are told.
        await asyncio.gather(self._fds.store({JUMP: reboot.pidfd}), coordinator.announce())
        if not coordinator.cancelled:
            self._require_certain(update, "jumping")
        if not coordinator.cancelled:
            await self._call_reboot(update, reboot)

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

    def _require_certain(self, update: Update, moment: Moment) -> None:
        """Cancels the update unless all facts allow it at this moment: a declaration, a new session or another process
        may have changed them since the check. The next step must follow in the same turn of the loop.
        """
        coordinator = update.coordinator
        try:
            self._require_allowed(moment, update.given_up)
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

    async def _call_reboot(self, update: Update, reboot: RebootProcess) -> None:
        """Calls reboot(2), which cannot be cancelled. Returns if the kernel refuses; the coordinator has the reason."""
        coordinator = update.coordinator
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
            self._require_allowed("jumping", update.given_up)
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

    async def _roll_back(self, update: Update) -> None:
        """Undoes every step of the sessions, and only then tells the participants to resume (H13). All else follows:
        the timeline, the image, the units, and the end of the process that was to call reboot(2).
        """
        coordinator, reboot = update.coordinator, update.reboot
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
            await self._restore_machine(update)
            if reboot is not None:
                await reboot.close()

    async def _restore_machine(self, update: Update) -> None:
        """Has serve write to the disk, unloads the image, and starts the units that were stopped. The next update waits
        for that.
        """
        async with self._restoring:
            if update.coordinator.frozen:
                await delivered(self._participants.followers)
            await self._disk.end()
            if update.quiescing is not None and not update.quiescing.done():
                self._quiesce.call_off()
                await asyncio.wait((update.quiescing,))
            if self._load_task is not None:
                # What is loaded after the image was unloaded would stay (H13).
                await asyncio.wait((self._load_task,))
            await self._undo.undo()
            self._inhibitor.resume()

    async def _forget_departure(self) -> None:
        frozen = self._registry.stay()
        await self._sessions.forget(frozen)
        await self._fds.drop(JUMP)

    async def restored(self) -> None:
        """Waits until what an update has done to the machine is undone."""
        async with self._restoring:
            pass

    async def undo_earlier(self) -> None:
        """Undoes what the update of a serve that was killed has left behind, and has this serve write to the disk when
        the process of that one does not any more.
        """
        self._disk.take_over()
        if not self._undo.needed:
            return
        async with self._restoring:
            await self._quiesce.end_left()
            await self._undo.undo()
            self._inhibitor.resume()

    async def await_reboot(self) -> None:
        """Waits for the end of reboot(2), which the previous serve called, before serve writes to the disk."""
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
        coordinator.cancel_if_possible(str(error))
