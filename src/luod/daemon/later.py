"""Imports and builds, after the start, the rooms that no Retrieve needs: a module at a time between turns of the loop.

So a guest that waits for its session does not wait for them, and a call that comes meanwhile waits for one module. The
first call that needs them makes this faster. The supervisor imports the same modules when it has nothing to do, so that
a serve that it forks later has all of them, of the version that runs, even if the files on the disk are new or gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from importlib import import_module

from luod.daemon.store.recovery import finish_old
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from luod.daemon.core import Core
    from luod.daemon.rooms import Rooms
    from luod.ipc.server.peer import Peer
    from luod.ipc.types.sessions import Direction, GivenUp

PAUSE_SECONDS: Final = 0.01
"""Between two modules, unless a call waits for the rooms."""
MODULES: Final = (
    "luod.ipc.types.admin",
    "luod.daemon.sessions.adoption",
    "luod.daemon.cleanup.worker",
    "luod.daemon.cleanup.work",
    "luod.daemon.cleanup.carrier",
    "luod.daemon.cleanup.carry_over",
    "luod.daemon.cleanup.reaping",
    "luod.daemon.cleanup.workloads",
    "luod.daemon.stopping",
    "luod.daemon.timeline.timeline",
    "luod.daemon.timeline.blackouts",
    "luod.daemon.timeline.recorder",
    "luod.daemon.updates.hooks",
    "luod.kexec",
    "luod.daemon.updates.kexec_image",
    "luod.daemon.preflight.findings",
    "luod.daemon.updates.stuck_ioctls",
    "luod.daemon.systemd.commands",
    "luod.daemon.systemd.manager",
    "luod.daemon.systemd.units",
    "luod.daemon.updates.reboot_process",
    "luod.daemon.store_watch",
    "luod.daemon.updates.waiting_guests",
    "luod.daemon.updates.disk",
    "luod.daemon.updates.disk_process",
    "luod.daemon.updates.disk_writes",
    "luod.daemon.updates.undo",
    "luod.daemon.updates.inhibitor",
    "luod.daemon.preflight.ways",
    "luod.daemon.updates.quiesce",
    "luod.daemon.updates.way",
    "luod.daemon.updates.stages",
    "luod.daemon.updates.update",
    "luod.daemon.rooms",
    "luod.daemon.store.state_directory",
    "luod.daemon.admin",
    "luod.ipc.interfaces.admin",
)
"""The modules of `luod.daemon.rooms` and of the operator's interface, in an order in which each imports few others."""
FURTHER: Final = (
    "luod.image",
    "luod.image.command_line",
    "luod.image.boot_config",
    "luod.image.pieces",
    "luod.image.module_file",
    "luod.image.cpio",
    "luod.image.kmod",
    "luod.image.loaders",
    "luod.image.initrd",
    "luod.daemon.preflight.devices",
    "luod.daemon.preflight.manifests",
    "luod.daemon.preflight.running",
    "luod.daemon.preflight.next_kernel",
    "luod.daemon.preflight.facts",
    "luod.daemon.preflight.reading",
    "luod.daemon.preflight.rules",
    "luod.daemon.preflight.check",
    "luod.daemon.updates.memory_checks",
    "luod.daemon.updates.progress",
    "luod.daemon.updates.coordinator",
    "ctypes",
    "tomllib",
)
"""The modules that they import for a check or an update."""


class Later:
    """Builds the rooms once. Needs a running loop."""

    def __init__(self, core: Core, failed: Callable[[BaseException], None]) -> None:
        """`failed` gets the error if they cannot be built."""
        self._core = core
        self._failed = failed
        self._wanted = asyncio.Event()
        self._building: asyncio.Task[Rooms] | None = None
        self._further: asyncio.Task[None] | None = None

    def begin(self) -> asyncio.Task[Rooms]:
        if self._building is None:
            self._building = asyncio.ensure_future(self._build())
            self._building.add_done_callback(self._built)
        return self._building

    async def rooms(self) -> Rooms:
        """Returns the rooms. The rest of their modules is imported without pauses."""
        self._wanted.set()
        return await asyncio.shield(self.begin())

    async def give_up(self, peer: Peer, name: str, direction: Direction | None, force: bool) -> GivenUp:
        """Implements `luod.ipc.interfaces.sessions.WorkloadService`."""
        return await (await self.rooms()).workloads.give_up(peer, name, direction, force)

    def close(self) -> None:
        if self._further is not None:
            self._further.cancel()
        if self._building is not None and not self._building.cancel() and self._building.exception() is None:
            self._building.result().close()

    async def _build(self) -> Rooms:
        await _import(MODULES, self._wanted)
        from luod.daemon.rooms import Rooms

        await finish_old(self._core.holdings.fds, self._core.log)
        return Rooms(self._core)

    def _built(self, building: asyncio.Task[Rooms]) -> None:
        if building.cancelled():
            return
        if (error := building.exception()) is not None:
            self._failed(error)
        else:
            self._further = asyncio.ensure_future(_import(FURTHER, asyncio.Event()))


async def _import(names: Sequence[str], wanted: asyncio.Event) -> None:
    for name in names:
        if name not in sys.modules:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(wanted.wait(), PAUSE_SECONDS)
            await asyncio.sleep(0)
            import_module(name)
