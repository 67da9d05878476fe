"""Runs the operator's commands before and after an update, for example to take and release a fleet lock.

Before the first command runs, the registry records that the second must run. The record survives the kexec and a killed
serve, and is removed when the second command has run: it runs at least once. It runs when the update is cancelled or,
in the next kernel, when no session waits to be restored or the restore deadline passes. Each command runs in its own
process group, behind a gate (`luod.daemon.processes.gate`).
"""

from __future__ import annotations

import asyncio
import time

from luod.daemon.policy.rules import CLOSED
from luod.daemon.processes.child import Child, Children
from luod.daemon.store.fd_names import HOOK
from luod.daemon.store.schema import Owed
from luod.errors import Refused
from luod.static import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    _Hook = Literal["before-update", "after-update"]
    from luod.daemon.log import Log
    from luod.daemon.policy.current import Policy
    from luod.daemon.run_state import Run
    from luod.daemon.store.recovery import Holdings

_REASON_CHARACTERS: Final = 500
"""The length to which the first line of a hook's standard error is cut."""
_CALLED_OFF: Final = "it was called off, and ended"


class Hooks:
    """Needs a running loop. `take_over` runs before the first request is answered."""

    def __init__(
        self, holdings: Holdings, policy: Policy, run: Run, deadline_left: Callable[[], float | None], log: Log
    ) -> None:
        """`deadline_left` returns the seconds until the restore deadline; None without one."""
        self._registry = holdings.registry
        self._broken = holdings.broken is not None
        self._children = Children(holdings.fds)
        self._policy = policy
        self._run = run
        self._deadline_left = deadline_left
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._off = False
        self._child: Child | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        holdings.registry.watchers.append(lambda _changes: self._check())
        policy.changed.append(self._check)
        run.watchers.append(self._check)

    def take_over(self) -> None:
        self._check()

    def close(self) -> None:
        """Kills a running command at the end of serve. The record of the second command stays."""
        self._closed = True
        self.call_off()
        if self._timer is not None:
            self._timer.cancel()

    # An update.

    async def settle(self) -> None:
        """Runs the second command of the previous update now, since a new update ends its restoring."""
        self._check(now=True)
        if self._task is not None:
            await asyncio.wait((self._task,))

    async def before(self, update: str, generation: int) -> None:
        """Runs the first command. Raises Refused with its report if it fails, does not start, or is killed. Raises
        OSError if the registry cannot be written.
        """
        hooks = self._policy.settings.hooks
        self._off = False
        if not (hooks.before_update or hooks.after_update):
            return
        owed = Owed(update, generation)
        # First, and on the disk, so that a lock is not forgotten, even after a power failure.
        self._registry.set_owed(owed)
        await self._registry.sync()
        if not hooks.before_update:
            return
        failure, killed = await self._execute("before-update", hooks.before_update, owed, {})
        if failure is None:
            return
        if not killed:
            # A command that fails leaves nothing to undo; one that is killed may.
            self._registry.set_owed(None)
        raise Refused(
            f"the hook before-update, {hooks.before_update[0]}, refuses the update: {failure}",
            hint="the hook is set in the policy, under [hooks]; no participant was asked",
        )

    def call_off(self) -> None:
        """Kills the running command, if there is one."""
        self._off = True
        if self._child is not None:
            self._child.kill()

    # The second command.

    def _due(self) -> float | None:
        """Returns the seconds until the second command is due; None if no time is known."""
        record = self._registry.rest
        if record.owed is None or self._run.updating or self._closed or self._policy.settings is CLOSED:
            return None
        if not record.owed.jumped or self._broken or not self._registry.any_incoming:
            return 0.0
        return self._deadline_left()

    def _check(self, *, now: bool = False) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due, owed = self._due(), self._registry.rest.owed
        if self._task is not None or owed is None or self._closed:
            return
        if now and self._policy.settings is not CLOSED:
            due = 0.0
        if due is not None and due <= 0:
            self._task = self._loop.create_task(self._after(owed))
            self._task.add_done_callback(self._ran)
        elif due is not None:
            self._timer = self._loop.call_later(due, self._check)

    def _ran(self, task: asyncio.Task[None]) -> None:
        self._task = None
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._closed:
            self._log.error("hook-failed", hook="after-update", reason=repr(error))

    async def _after(self, owed: Owed) -> None:
        await self._children.end_left(HOOK)
        command = self._policy.settings.hooks.after_update
        if command and not self._closed:
            outcome = "cancelled" if not owed.jumped else "broken" if self._broken else "done"
            self._off = False
            await self._execute("after-update", command, owed, {"LUOD_OUTCOME": outcome})
        if not self._closed:
            self._registry.set_owed(None)

    # The process.

    async def _execute(
        self, hook: _Hook, command: tuple[str, ...], owed: Owed, more: dict[str, str]
    ) -> tuple[str | None, bool]:
        """Runs a command. Returns the reason of its failure or None, and whether it was killed."""
        if self._called_off():
            return _CALLED_OFF, True
        began = time.monotonic()
        own = {"LUOD_HOOK": hook, "LUOD_UPDATE": owed.update, "LUOD_GENERATION": str(owed.generation)}
        child = self._child = Child("luod.daemon.processes.gate", command, environment={**own, **more}, output="stderr")
        try:
            outcome = await self._children.run(child, HOOK, self._policy.settings.hooks.timeout)
        finally:
            self._child = None
        seconds = f"{time.monotonic() - began:.3f}"
        killed = outcome.late or self._called_off()
        failure = _CALLED_OFF if killed and not outcome.late else outcome.failure
        if failure is None:
            self._log("hook", update=owed.update, hook=hook, **_lower(more), seconds=seconds)
            return None, False
        report = outcome.report.splitlines()
        reason = failure if killed or not report else report[0][:_REASON_CHARACTERS]
        self._log.warning("hook-failed", update=owed.update, hook=hook, **_lower(more), reason=reason, seconds=seconds)
        return reason, killed

    def _called_off(self) -> bool:
        return self._off or self._closed


def _lower(more: dict[str, str]) -> dict[str, str]:
    """Returns the variables as fields of the log."""
    return {name.removeprefix("LUOD_").lower(): value for name, value in more.items()}
