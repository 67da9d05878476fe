"""An update: the jump into the next kernel with every session that luod holds.

One update at a time, and a way back until reboot(2) does not return. This is the order of things: participants are
asked by `luod.daemon.updates.coordinator`, sessions closed to changes, the registry marked (H13), reboot(2) called in a
process of its own; and whatever fails, all of it is taken back before anybody is told to resume. What is jumped into is
`luod.daemon.updates.kexec_image`'s. The interface is `luod.ipc.interfaces.admin`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from asyncvarlink.serviceinterface import InvalidParameter

from luod import errors
from luod.daemon import clock
from luod.daemon.log import Log
from luod.daemon.preflight.findings import listed, refuse, refusing, require_names, with_ignored
from luod.daemon.processes.child import ended
from luod.daemon.replies import too_late, update_running
from luod.daemon.sessions.service import SessionService
from luod.daemon.store.fd_names import JUMP
from luod.daemon.store.fd_store import KeeperGone
from luod.daemon.store.recovery import Holdings
from luod.daemon.store.schema import Departure
from luod.daemon.timeline.recorder import Chronicle
from luod.daemon.updates import stuck_ioctls, times
from luod.daemon.updates.hooks import Hooks
from luod.daemon.updates.kexec_image import NextImage
from luod.daemon.updates.participants import Participants, ready_rows
from luod.daemon.updates.reboot_process import RebootProcess
from luod.daemon.updates.transaction import NotAwaited
from luod.errors import Refused
from luod.ipc.errors import NoUpdate
from luod.ipc.server.peer import Peer
from luod.ipc.types.admin import Checked, Finding, Progress, Wishes
from luod.linux import Fd

if TYPE_CHECKING:
    from luod.daemon.preflight.rules import Moment
    from luod.daemon.updates.coordinator import Barrier

_PATIENCE_SECONDS: Final = 30.0
"""Of each phase, unless the operator says otherwise; time for the bytes to preserve comes on top."""
_MOST_PATIENCE_SECONDS: Final = 86400.0
_DISK_SECONDS: Final = 5.0
"""For the registry to be on the disk, while guests are frozen."""


class Updater:
    """What `luod.daemon.admin` asks for an update. Made inside a running loop."""

    def __init__(
        self,
        holdings: Holdings,
        image: NextImage,
        sessions: SessionService,
        participants: Participants,
        chronicle: Chronicle,
        hooks: Hooks,
        log: Log,
        *,
        stuck_seconds: float,
    ) -> None:
        """`stuck_seconds`: how long reboot(2) may take before who holds it is ended."""
        self._registry = holdings.registry
        self._broken = holdings.broken
        self._fds = holdings.fds
        self._image = image
        self._sessions = sessions
        self._participants = participants
        self._chronicle = chronicle
        self._hooks = hooks
        self._started = clock.now()
        self._log = log
        self._stuck_seconds = stuck_seconds
        self._task: asyncio.Task[None] | None = None

    async def check(self, kernel: Fd | None, initrd: Fd | None, command_line: str | None, wishes: Wishes) -> Checked:
        try:
            require_names(wishes.ignore_findings)
            if self._participants.leaving:
                raise update_running()
            findings, release = await self._image.check(kernel, initrd, command_line)
        finally:
            for fd in (kernel, initrd):
                if fd is not None:
                    fd.close()
        findings = with_ignored(findings, _given_up(wishes))
        return Checked(bool(refusing(findings)), release, findings)

    async def _find(self, wishes: Wishes) -> list[Finding]:
        """What stands in the way of an update into what is loaded. Nobody else's can begin meanwhile."""
        require_names(wishes.ignore_findings)
        self._participants.checking = True
        try:
            return with_ignored(await self._image.look(), _given_up(wishes))
        finally:
            self._participants.checking = False

    async def update(self, peer: Peer, wishes: Wishes) -> AsyncGenerator[Progress, None]:
        if self._participants.updating:
            raise update_running()
        patience = _PATIENCE_SECONDS if wishes.deadline is None else wishes.deadline
        if not 0 < patience <= _MOST_PATIENCE_SECONDS:
            raise InvalidParameter(parameter="deadline")
        if self._broken is not None:
            raise Refused(message=self._broken.message, hint=self._broken.hint)
        carried = self._sessions.being_forwarded
        if carried and not wishes.dry_run:
            # It takes minutes, and nobody could call the update off before its end.
            raise Refused(
                message=f"luod carries sessions over: {listed(carried)}",
                hint="ask again when they are `held`: luoctl list",
            )
        findings = await self._find(wishes)
        orphans = self._participants.orphans()
        if wishes.dry_run:
            # The last reply: it is not asked for more.
            yield replace(self._checked(orphans), findings=findings)
            return
        refuse(findings)
        barrier = _barrier(os.urandom(4).hex(), patience, wishes.skip_unready, orphans, self._log)
        self._participants.barrier = barrier
        self._log("update", update=barrier.id, uid=peer.uid, pid=peer.pid, sessions=len(self._sessions.rows()))
        self._task = asyncio.ensure_future(self._run(barrier, _given_up(wishes)))
        self._task.add_done_callback(self._ran)
        try:
            while True:
                progress = await barrier.news()
                if barrier.cancelled:
                    # Told when all is as it was, so that the next update can be asked for at once.
                    await asyncio.shield(self._task)
                if barrier.error is not None:
                    raise barrier.error
                yield replace(progress, findings=findings)
                barrier.operator_has(progress)
                findings = []
        finally:
            # Nobody would be told how it ends, and what an operator interrupts must not go on.
            _cancel(barrier, "the connection of luoctl update was closed")

    def _checked(self, orphans: list[str]) -> Progress:
        """What --dry-run has to say: who would be asked, and what nobody follows for."""
        barrier = _barrier("", _PATIENCE_SECONDS, False, orphans, self._log)
        barrier.rehearse(self._participants.followers)
        return replace(barrier.progress(), state="checked", generation=self._registry.record.generation + 1)

    async def abort(self, peer: Peer) -> None:
        barrier, task = self._participants.barrier, self._task
        if self._participants.leaving:
            raise too_late()
        if barrier is None or task is None:
            raise NoUpdate(message="no update is under way", hint="luoctl status shows what luod is doing")
        if not _cancel(barrier, "the operator aborted it"):
            raise too_late()
        self._log("abort", update=barrier.id, uid=peer.uid, pid=peer.pid)
        await asyncio.shield(task)

    async def _run(self, barrier: Barrier, given_up: Collection[str]) -> None:
        """The update, from the first check to the end of this kernel, or to everything as it was."""
        reboot: RebootProcess | None = None
        try:
            try:
                await self._image.load_again()
            except errors.KernelRefused as error:
                barrier.error = error
                raise
            await self._ask_hook(barrier)
            if not barrier.cancelled:
                barrier.begin(self._participants.followers, self._registry.begin_generation())
                self._chronicle.begin(times.current(barrier, self._registry.record.rows))
                await barrier.settle()
            if not barrier.cancelled:
                # The bulk of it, while guests run; the little that comes after is written right before the jump (H16).
                await barrier.unless_cancelled(asyncio.to_thread(os.sync))
            if not barrier.cancelled:
                await barrier.unless_cancelled(self._sessions.close_for_update("frozen"))
                # Those who began to follow since are waited for like the others.
                await barrier.settle()
            if not barrier.cancelled:
                self._require_certain(barrier, "freezing", given_up)
            if not barrier.cancelled:
                barrier.freeze()
            if not barrier.cancelled:
                reboot = RebootProcess()
                # Beside the freezing, so that it costs no blackout; somebody may have loaded another since (H19).
                loading = asyncio.ensure_future(self._image.load_again())
                loading.add_done_callback(lambda done: _cancel_if_failed(barrier, done))
                await barrier.settle()
                await barrier.unless_cancelled(loading)
            if not barrier.cancelled:
                await self._sessions.close_for_update("shut")
                await barrier.announce()
            if not barrier.cancelled:
                self._require_certain(barrier, "jumping", given_up)
            if not barrier.cancelled and reboot is not None:
                barrier.jump()
                await self._leave(barrier, reboot)
        except asyncio.CancelledError:
            if reboot is not None and reboot.gone:
                # luod is being stopped, and the machine jumps meanwhile: the marks are true.
                raise
            barrier.end("luod was stopped")
        except (errors.LuodError, OSError) as error:
            barrier.end(str(error))
        finally:
            if not (reboot is not None and reboot.gone and barrier.jumping):
                barrier.end("luod failed; its log says more")
                await self._stay(barrier, reboot)

    async def _ask_hook(self, barrier: Barrier) -> None:
        """The operator's command goes before everything that anybody notices."""
        await barrier.unless_cancelled(self._hooks.settle())
        if barrier.cancelled:
            return
        asked = asyncio.ensure_future(self._hooks.before(barrier.id, self._registry.record.generation + 1))
        try:
            await barrier.unless_cancelled(asked)
        except errors.Refused as error:
            barrier.error = error
            raise
        if not asked.done():
            self._hooks.call_off()
            await asyncio.wait((asked,))

    def _require_certain(self, barrier: Barrier, moment: Moment, given_up: Collection[str]) -> None:
        """Cancels the update unless all facts, as they are at this moment, allow it: they may have changed since the
        check, by a declaration, a new session or another process on this host. What follows must be done in the same
        turn of the loop.
        """
        try:
            findings = self._image.certain(moment)
        except (errors.Refused, OSError) as error:
            barrier.cancel(str(error))
            return
        in_the_way = refusing(with_ignored(findings, given_up))
        if in_the_way:
            barrier.cancel(f"{in_the_way[0].name}: {in_the_way[0].what}; {in_the_way[0].remedy}")
        elif released := self._participants.released():
            # Their guests would be frozen for a jump that does not carry them.
            barrier.cancel(f"sessions were released whose participants are ready to jump with them: {listed(released)}")

    def _ran(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, KeeperGone):  # of which serve dies, and says so
            self._log.error("bug", method="update", error=repr(error))

    async def _leave(self, barrier: Barrier, reboot: RebootProcess) -> None:
        """Nobody can call it off any more. Returns, with the reason in `barrier`, when the kernel refuses."""
        await self._fds.store({JUMP: reboot.pidfd})
        ready = ready_rows(barrier, self._registry.record.rows)
        left = clock.now()
        departure = Departure(
            barrier.id,
            barrier.generation,
            barrier.transaction.skip_unready,
            round(barrier.preparing_seconds, 6),
            round(left.monotonic - barrier.frozen, 6),
            left,
            clock.pace(self._started, left),
        )
        self._registry.depart(departure, lambda row: ready.get(row.name, row))
        await self._registry_on_disk()
        await barrier.told()
        self._log("jumping", update=barrier.id, ready=len(ready), frozen_seconds=departure.freezing_seconds)
        reboot.go()
        while not await reboot.ended(self._stuck_seconds):
            self._end_stuck(barrier)
        barrier.came_back(str(reboot.refusal()))

    async def _registry_on_disk(self) -> None:
        """Refused: it takes too long."""
        try:
            async with asyncio.timeout(_DISK_SECONDS):
                await self._registry.sync()
        except TimeoutError:
            raise errors.Refused(
                f"the disk of luod's state directory did not take the registry within {_DISK_SECONDS:.0f} s",
                hint="see what keeps the disk busy, and update again",
            ) from None

    def _end_stuck(self, barrier: Barrier | None) -> None:
        """Frees the jump from whoever is in a session's ioctl, although it said that it would not be (H17)."""
        followers = {f.peer.pid: f.peer.pidfd for f in self._participants.followers if f.peer.pidfd is not None}
        for found in stuck_ioctls.end(followers):
            self._log.warning("jump-held", pid=found.pid, command=found.command, ended=found.ended)
            done = "was ended" if found.ended else "is root's and takes part in no update, so end it"
            if barrier is not None:
                barrier.note(f"the jump is held by {found.command} ({found.pid}), in a session's ioctl: it {done}")

    async def _stay(self, barrier: Barrier, reboot: RebootProcess | None) -> None:
        """Takes everything back, and then, and not before, tells everybody to resume (H13)."""
        if reboot is not None:
            await reboot.close()
        try:
            # A session that is being made for this update right now is to be forgotten with the rest.
            await self._sessions.close_for_update("shut")
            await self._forget_departure()
        finally:
            self._sessions.open_again()
            ended = times.current(barrier, self._registry.record.rows, over=True)
            if barrier.generation:  # what is refused before anybody is asked is not recorded as an update
                self._chronicle.begin(ended)
            told = ended.story
            self._log.warning(
                "cancelled", update=barrier.id, reason=told.reason, blackout_seconds=f"{told.blackout or 0.0:.3f}"
            )
            if self._participants.barrier is barrier:
                self._participants.barrier = None
            barrier.tell("cancelled", state=self._participants.state)
            self._hooks.over()

    async def _forget_departure(self) -> None:
        frozen = self._registry.stay()
        await self._sessions.forget(frozen)
        await self._fds.drop(JUMP)

    def take_over(self) -> None:
        """A serve before this one may have called reboot(2): then it is waited for, as that one would have done."""
        if JUMP in self._fds:
            self._participants.leaving = True
            self._task = asyncio.ensure_future(self._await_jump())

    async def _await_jump(self) -> None:
        departure = self._registry.record.departure
        update = None if departure is None else departure.update
        self._log.warning("jumping-still", update=update)
        await self._sessions.close_for_update("shut")
        while not await ended(self._fds[JUMP], self._stuck_seconds):
            self._end_stuck(None)
        await self._forget_departure()
        self._sessions.open_again()
        self._participants.leaving = False
        reason = "reboot(2) returned, or was never called, and the luod that knew why is gone"
        self._chronicle.not_jumped(reason)
        self._log.warning("cancelled", update=update, reason=reason)
        self._participants.tell_cancelled(update, reason)
        self._hooks.over()


def _given_up(wishes: Wishes) -> tuple[str, ...]:
    """Names of findings that shall not stand in the way."""
    return (*wishes.ignore_findings, *(("nobody-follows",) if wishes.skip_unready else ()))


def _barrier(update: str, patience: float, skip_unready: bool, orphans: list[str], log: Log) -> Barrier:
    from luod.daemon.updates.coordinator import Barrier  # late, as above

    return Barrier(update, patience, skip_unready, orphans, log)


def _cancel(barrier: Barrier, reason: str) -> bool:
    """Whether it is cancelled now, by this or before."""
    try:
        barrier.cancel(reason)
    except NotAwaited:
        return False
    return True


def _cancel_if_failed(barrier: Barrier, task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _cancel(barrier, str(error))
