"""Passes the operator's requests to the parts of serve, and reports luod's status. Decides nothing.

The interface is `luod.ipc.interfaces.admin`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing

from luod.daemon.core import Core
from luod.daemon.rooms import Rooms
from luod.daemon.store import state_directory
from luod.daemon.store.doubts import remedy
from luod.daemon.store.fd_store import Copies
from luod.daemon.updates import times
from luod.ipc.server.peer import Peer
from luod.ipc.types.admin import Checked, Problem, Progress, Status, UpdateTimes, Wishes
from luod.linux import Fd
from luod.version import __version__

_COPIES_REMEDY = "luod tries again by itself; do not stop or restart it meanwhile, see `systemctl is-system-running`"
_FULL_REMEDY = (
    "raise FileDescriptorStoreMax= of luod.service in a drop-in, then run `systemctl daemon-reload`; luod stores the "
    "rest by itself; do not stop or restart it before"
)


class AdminService:
    """Implements `luod.ipc.interfaces.admin.Service`."""

    def __init__(self, core: Core, rooms: Callable[[], Awaitable[Rooms]]) -> None:
        self._core = core
        self._rooms = rooms

    async def status(self) -> Status:
        rooms, core = await self._rooms(), self._core
        reaping = rooms.reaping
        registry, policy = core.holdings.registry, core.policy
        problems = await asyncio.to_thread(state_directory.problems, registry.file, registry.file_error)
        copies = await core.holdings.fds.copies()
        states = Counter(state for _row, state in core.sessions.rows())
        record = registry.record
        image = record.image
        return Status(
            version=__version__,
            state=core.participants.state if core.holdings.broken is None else "broken",
            boot=record.boot,
            kernel_loaded=image is not None,
            command_line=None if image is None else image.command_line,
            sessions=states["held"] + states["dropped"],
            waiting=states["waiting"],
            retrieved=states["retrieved"] + states["resumed"],
            torn=states["torn"],
            participants=len(core.participants.followers),
            held_files=sum(len(held.files) for held in record.held),
            generation=record.generation,
            stuck=reaping.stuck(),
            restore_seconds_left=reaping.seconds_left,
            policy_file=str(policy.path) if policy.present or policy.error else None,
            policy_error=None if policy.error is None else str(policy.error),
            state_directory=problems,
            registry=[Problem(doubt.kept, doubt.what, remedy(doubt)) for doubt in record.doubts],
            fd_store=tuple(_copies(copies)),
            undo=rooms.undo.left,
            way=rooms.updater.way(),
            shutdown_lock=rooms.inhibitor.state,
            outgoing_bytes=sum(row.bytes for row in registry.all_outgoing),
            incoming_bytes=sum(row.bytes for row in record.incoming),
        )

    async def timeline(self) -> UpdateTimes | None:
        recorder, coordinator = (await self._rooms()).recorder, self._core.participants.coordinator
        outgoing = self._core.holdings.registry.record.outgoing
        return recorder.report(None if coordinator is None else times.current(coordinator, outgoing))

    async def load_kernel(self, kernel: Fd, initrd: Fd | None, command_line: str, ignore_findings: list[str]) -> bool:
        rooms = await self._rooms()
        await rooms.updater.restored()
        return await rooms.image.load(kernel, initrd, command_line, ignore_findings=ignore_findings)

    async def unload_kernel(self) -> bool:
        return await (await self._rooms()).image.unload()

    async def check(self, kernel: Fd | None, initrd: Fd | None, command_line: str | None, wishes: Wishes) -> Checked:
        return await (await self._rooms()).updater.check(kernel, initrd, command_line, wishes)

    async def update(self, peer: Peer, wishes: Wishes) -> AsyncGenerator[Progress, None]:
        async with aclosing((await self._rooms()).updater.update(peer, wishes)) as replies:
            async for progress in replies:
                yield progress

    async def abort(self, peer: Peer) -> None:
        await (await self._rooms()).updater.abort(peer)

    async def discard(self, peer: Peer, name: str, force: bool) -> str:
        return await (await self._rooms()).workloads.discard(peer, name, force=force)

    async def stop(self, peer: Peer, drop: bool) -> list[str]:
        return await (await self._rooms()).stopping.stop(peer, drop=drop)

    async def carry_over(self, peer: Peer, name: str) -> str:
        return await (await self._rooms()).workloads.carry_over(peer, name)


def _copies(copies: Copies) -> Iterator[Problem]:
    if copies.fault:
        yield Problem(
            "PID 1",
            f"it may lack {copies.missing} of luod's files, which would be lost if every process of luod ended: "
            + copies.fault,
            _FULL_REMEDY if copies.size > copies.room else _COPIES_REMEDY,
        )
