"""Stops all units but luod's and the VMMs' while guests run, so that no stop of a unit lies in the blackout.

For the way `systemd` only. `luod.daemon.systemd.units` has the commands, `luod.daemon.updates.undo` starts the units
again.
"""

from __future__ import annotations

import asyncio
import time

from luod.daemon.policy import membership
from luod.daemon.preflight.ways import stopped
from luod.daemon.processes.child import Child, Children
from luod.daemon.store.fd_names import UNITS
from luod.daemon.systemd import units
from luod.errors import Refused
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from luod.daemon.log import Log
    from luod.daemon.store.recovery import Holdings
    from luod.daemon.updates.coordinator import Coordinator
    from luod.daemon.updates.undo import Undo

_SECONDS: Final = 120.0
"""For all units to stop: longer than DefaultTimeoutStopSec= of systemd."""


class Quiesce:
    """Needs a running loop."""

    def __init__(self, holdings: Holdings, undo: Undo, log: Log) -> None:
        self._children = Children(holdings.fds)
        self._undo = undo
        self._log = log
        self._off = False
        self._child: Child | None = None

    async def run(self, coordinator: Coordinator) -> None:
        """Stops the units. Raises Refused: a participant's unit is among them, or they do not stop in time."""
        self._off = False
        found = await asyncio.to_thread(units.present)
        members = [(each.name, membership.of(each.peer).unit) for each in coordinator.members.values()]
        if lost := stopped(found, members):
            raise Refused(
                f"{units.TARGET} would stop the units of participants: {', '.join(lost)}",
                hint="add IgnoreOnIsolate=yes to them, or update with --direct",
            )
        if self._off:
            return
        names = units.stoppable(found)
        self._undo.stops(names)
        coordinator.feed.note(f"systemd stops {len(names)} units")
        began = time.monotonic()
        await self._command(units.isolation(), _SECONDS)
        left = await asyncio.to_thread(units.present)
        while (ending := [each.name for each in left if each.stopping]) and not self._called_off():
            await self._command(units.stop(ending), _SECONDS - (time.monotonic() - began))
            left = await asyncio.to_thread(units.present)
        if self._called_off():
            return
        staying = [each.name for each in left if each.stays and each.name.endswith(".service")]
        self._log(
            "quiesced",
            update=coordinator.id,
            units=len(set(names) - {each.name for each in left}),
            seconds=f"{time.monotonic() - began:.3f}",
            staying=", ".join(staying),
        )

    async def _command(self, command: tuple[str, ...], seconds: float) -> None:
        """Runs a command of systemctl. Raises Refused: it fails, or takes longer than `seconds`."""
        self._child = Child("luod.daemon.processes.gate", command, output="stderr")
        try:
            outcome = await self._children.run(self._child, UNITS, max(0.0, seconds))
        finally:
            self._child = None
        if outcome.failure is not None and not self._off:
            reason = outcome.report.splitlines()[0] if outcome.report and not outcome.late else outcome.failure
            raise Refused(
                f"systemd did not stop the units: {reason}",
                hint="`systemctl list-jobs` shows what it waits for; or update with --direct",
            )

    def call_off(self) -> None:
        """Ends the wait. What systemd has begun to stop is stopped, and must be started again."""
        self._off = True
        if self._child is not None:
            self._child.kill()

    def _called_off(self) -> bool:
        return self._off

    async def end_left(self) -> None:
        """Ends the child that a serve that was killed has left."""
        await self._children.end_left(UNITS)
