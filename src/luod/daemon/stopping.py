"""Stops luod at the operator's request, unless that loses sessions and files which only luod has open.

Sessions that wait in the kernel keep waiting, and other processes keep what they have open. SIGTERM to `luod` stops it
without these checks, and the log lists what was lost.
"""

from __future__ import annotations

import asyncio
import os
import signal

from luod.daemon.log import Log
from luod.daemon.replies import update_running
from luod.daemon.run_state import Run, RunState
from luod.daemon.sessions.holders import open_elsewhere
from luod.daemon.sessions.service import SessionService
from luod.daemon.store.fd_names import fd_name, held_name
from luod.daemon.store.recovery import Holdings
from luod.errors import Refused
from luod.ipc.server.peer import Peer
from luod.static import Final

_REPLY_SECONDS: Final = 0.2
"""For the reply to reach the operator."""
_NAMED: Final = 20


class Stopping:
    """Implements `luoctl stop`. Needs a running loop."""

    def __init__(self, holdings: Holdings, sessions: SessionService, run: Run, log: Log) -> None:
        self._holdings = holdings
        self._sessions = sessions
        self._run = run
        self._log = log

    async def stop(self, peer: Peer, *, drop: bool) -> list[str]:
        """Ends luod a moment later; returns what is lost. Raises UpdateRunning. Raises Refused: that needs `drop`,
        or systemd runs luod.
        """
        if os.environ.get("SYSTEMD_EXEC_PID") == str(os.getppid()):
            raise Refused(
                message="systemd runs luod, and would start it again",
                hint="run `systemctl stop luod.service luod.socket luod-admin.socket`: systemd then holds the sessions",
            )
        if self._run.busy:
            raise update_running(self._run.state)
        if self._sessions.being_carried_over:
            raise Refused(
                message="sessions are being carried over", hint="try again when `luoctl list` shows them as held"
            )
        self._run.enter(RunState.STOPPING)
        stopped = False
        try:
            # No session can be created or retrieved from here on, so the list stays true.
            await self._sessions.changes.still()
            alone, doubt = await self._alone()
            if alone and not drop:
                more = f" and {len(alone) - _NAMED} more" if len(alone) > _NAMED else ""
                what = ", ".join(alone[:_NAMED]) + more
                raise Refused(
                    message=f"{doubt or 'only luod has these open, and stopping it loses them'}: {what}",
                    hint="start their VMMs, or update, which carries sessions only; `luoctl stop --drop` loses them",
                )
            stopped = True
        finally:
            if not stopped:
                self._run.enter(RunState.IDLE)
        self._log.warning("stop", uid=peer.uid, pid=peer.pid, drop=drop, lost=", ".join(alone))
        asyncio.get_running_loop().call_later(_REPLY_SECONDS, os.kill, os.getppid(), signal.SIGTERM)
        return alone

    async def _alone(self) -> tuple[list[str], str]:
        """Returns the names of what only luod has open, and why the list is uncertain, or ""."""
        record, fds = self._holdings.registry.record, self._holdings.fds
        words = {fd_name(row): f"{row.direction} session {row.name}" for row in record.rows}
        words |= {held_name(file): f"file {file.name} of {held.name}" for held in record.held for file in held.files}
        copies = {name: fds[name].duplicate() for name in words if name in fds}
        try:
            found = await asyncio.to_thread(open_elsewhere, copies, os.getppid())
            elsewhere, unseen = found.pids, found.unseen
            doubt = "" if unseen is None else f"luod cannot tell whether process {unseen} has these open"
        except OSError as error:
            elsewhere, doubt = {}, f"luod cannot tell whether others have these open ({error})"
        finally:
            for copy in copies.values():
                copy.close()
        return [words[name] for name in sorted(copies) if name not in elsewhere], doubt
