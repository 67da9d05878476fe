"""Passes the operator's requests to the parts of serve, and reports luod's status. Decides nothing.

The interface is `luod.ipc.interfaces.admin`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator

from luod.daemon.cleanup.reaping import Reaping
from luod.daemon.cleanup.workloads import Workloads
from luod.daemon.policy.current import Policy
from luod.daemon.sessions.service import SessionService
from luod.daemon.stopping import Stopping
from luod.daemon.store import state_directory
from luod.daemon.store.doubts import remedy
from luod.daemon.store.recovery import Holdings
from luod.daemon.timeline.recorder import Recorder
from luod.daemon.updates import times
from luod.daemon.updates.kexec_image import KexecImage
from luod.daemon.updates.participants import Participants
from luod.daemon.updates.update import Updater
from luod.ipc.server.peer import Peer
from luod.ipc.types.admin import Checked, Problem, Progress, Status, UpdateTimes, Wishes
from luod.linux import Fd
from luod.version import __version__


class AdminService:
    """Implements `luod.ipc.interfaces.admin.Service`."""

    def __init__(
        self,
        holdings: Holdings,
        sessions: SessionService,
        participants: Participants,
        policy: Policy,
        image: KexecImage,
        updater: Updater,
        reaping: Reaping,
        workloads: Workloads,
        stopping: Stopping,
        recorder: Recorder,
    ) -> None:
        self._holdings = holdings
        self._sessions = sessions
        self._participants = participants
        self._policy = policy
        self._image = image
        self._updater = updater
        self._reaping = reaping
        self._workloads = workloads
        self._stopping = stopping
        self._recorder = recorder

    async def status(self) -> Status:
        registry = self._holdings.registry
        problems = await asyncio.to_thread(state_directory.problems, registry.file, registry.file_error)
        states = Counter(state for _row, state in self._sessions.rows())
        record = self._holdings.registry.record
        image = record.image
        return Status(
            version=__version__,
            state=self._participants.state if self._holdings.broken is None else "broken",
            boot=record.boot,
            kernel_loaded=image is not None,
            command_line=None if image is None else image.command_line,
            sessions=states["held"] + states["dropped"],
            waiting=states["waiting"],
            retrieved=states["retrieved"] + states["resumed"],
            torn=states["torn"],
            participants=len(self._participants.followers),
            held_files=sum(len(held.files) for held in record.held),
            generation=record.generation,
            stuck=self._reaping.stuck(),
            restore_seconds_left=self._reaping.seconds_left,
            policy_file=str(self._policy.path) if self._policy.present or self._policy.error else None,
            policy_error=None if self._policy.error is None else str(self._policy.error),
            state_directory=problems,
            registry=[Problem(doubt.kept, doubt.what, remedy(doubt)) for doubt in record.doubts],
        )

    async def timeline(self) -> UpdateTimes | None:
        coordinator = self._participants.coordinator
        current = None if coordinator is None else times.current(coordinator, self._holdings.registry.record.outgoing)
        return self._recorder.report(current)

    async def load_kernel(self, kernel: Fd, initrd: Fd | None, command_line: str, ignore_findings: list[str]) -> None:
        await self._image.load(kernel, initrd, command_line, ignore_findings=ignore_findings)

    async def check(self, kernel: Fd | None, initrd: Fd | None, command_line: str | None, wishes: Wishes) -> Checked:
        return await self._updater.check(kernel, initrd, command_line, wishes)

    def update(self, peer: Peer, wishes: Wishes) -> AsyncGenerator[Progress, None]:
        return self._updater.update(peer, wishes)

    async def abort(self, peer: Peer) -> None:
        await self._updater.abort(peer)

    async def discard(self, peer: Peer, name: str, force: bool) -> str:
        return await self._workloads.discard(peer, name, force=force)

    async def stop(self, peer: Peer, drop: bool) -> list[str]:
        return await self._stopping.stop(peer, drop=drop)

    async def carry_over(self, peer: Peer, name: str) -> str:
        return await self._workloads.carry_over(peer, name)
