"""Inhibits a shutdown while luod holds outgoing sessions, outside of luod's own updates by systemd (H13).

So `systemctl kexec` and `systemctl reboot` by hand are refused, with a reason that names luoctl. logind holds the lock
for as long as a child process of serve lives. It is taken after the start of luod, and tried again while it is missing.
"""

from __future__ import annotations

import asyncio
import shutil

from luod.daemon.processes.child import DYING_SECONDS, Child, Children
from luod.daemon.store.fd_names import INHIBITOR
from luod.daemon.systemd.commands import booted
from luod.daemon.systemd.manager import WHO
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from luod.daemon.log import Log
    from luod.daemon.policy.current import Policy
    from luod.daemon.store.recovery import Holdings

_AGAIN_SECONDS: Final = 10.0
"""Between two tries: logind may start later, or end."""
_WHY: Final = "it holds sessions of guests: use `luoctl update`, or lose them by `systemctl start reboot.target`"
_HELD: Final = "held"
_HOLD: Final = f"echo {_HELD} >&2; exec sleep infinity"
"""The command that runs while the lock is held. It reports that."""


class Inhibitor:
    """Needs a running loop."""

    def __init__(self, holdings: Holdings, policy: Policy, log: Log) -> None:
        self._fds = holdings.fds
        self._registry = holdings.registry
        self._children = Children(holdings.fds)
        self._policy = policy
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._booted = booted()  # reads files, and is asked at each change of a session, also while guests are paused
        self._released = self._closed = False
        self._child: Child | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._fault = ""
        """The reason for which there is no lock, "" if it is not known yet."""
        if self._booted:
            holdings.registry.watchers.append(lambda _changes: self._check())
            policy.changed.append(self._check)
            self._task = self._loop.create_task(self._end_left())
            self._task.add_done_callback(self._ended)

    @property
    def state(self) -> str | None:
        """Returns `held`, or why luod has no lock; None: it needs no lock."""
        if not self._wanted():
            return None
        if self._child is not None and self._child.report.startswith(_HELD):
            return _HELD
        return self._fault or "it is being taken"

    async def release(self) -> None:
        """Releases the lock until `resume`, for an update of luod's own by systemd."""
        self._released = True
        await self._let_go()

    def resume(self) -> None:
        self._released = False
        self._check()

    def close(self) -> None:
        """Releases the lock at the end of serve."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._child is not None:
            self._child.kill()

    def _wanted(self) -> bool:
        wanted = not (self._released or self._closed) and self._policy.settings.inhibit_shutdown and self._booted
        return wanted and bool(self._registry.all_outgoing)

    def _check(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._wanted() and self._task is None:
            self._task = self._loop.create_task(self._hold())
            self._task.add_done_callback(self._ended)
        elif not self._wanted() and self._child is not None:
            self._child.kill()

    async def _end_left(self) -> None:
        """Ends the child of a serve that was killed."""
        await self._children.end_left(INHIBITOR)

    async def _hold(self) -> None:
        """Holds the lock until the child ends."""
        program = shutil.which("systemd-inhibit") or "/usr/bin/systemd-inhibit"
        what = (program, "--what=shutdown", "--mode=block", f"--who={WHO}", f"--why={_WHY}", "sh", "-c", _HOLD)
        child = self._child = Child("luod.daemon.processes.gate", what, output="stderr")
        try:
            await self._fds.store({INHIBITOR: child.pidfd})
            child.go()
            while not await child.ended(_AGAIN_SECONDS):
                pass
            said = child.report.splitlines()
        finally:
            self._child = None
            child.close()
        await self._fds.drop(INHIBITOR)
        before, self._fault = self._fault, ""
        if self._wanted():
            self._fault = said[0] if said and said[0] != _HELD else "the process that held it has ended"
            if self._fault != before:
                self._log.warning("shutdown-not-inhibited", reason=self._fault)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._task = None
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._closed:
            self._log.error("shutdown-not-inhibited", reason=repr(error))
        if self._closed or task.cancelled():
            return
        if self._fault:
            self._timer = self._loop.call_later(_AGAIN_SECONDS, self._check)
            return
        self._check()

    async def _let_go(self) -> None:
        if self._child is not None:
            self._child.kill()
        if self._task is not None:
            await asyncio.wait((self._task,), timeout=DYING_SECONDS)
