"""Retrieves incoming sessions from the kernel, which allows it once. For `luod.daemon.sessions.service`."""

from __future__ import annotations

from luod import errors
from luod.daemon.log import Log
from luod.daemon.replies import no_such_session
from luod.daemon.store.fd_store import FdStore
from luod.daemon.store.registry import Registry
from luod.daemon.store.schema import IncomingRow
from luod.daemon.store.states import IncomingState
from luod.ipc.server.sparing import Sparing
from luod.linux import Fd


class Claims:
    """Owns nothing: retrieved sessions are stored in `fds`."""

    def __init__(self, registry: Registry, fds: FdStore, log: Log, sparing: Sparing) -> None:
        self._registry = registry
        self._fds = fds
        self._log = log
        self._sparing = sparing

    async def take(self, row: IncomingRow, purpose: IncomingState) -> Fd:
        """Returns the session; if it was WAITING, `purpose` is its state from now on. Raises SessionTaken if another
        process has it, NoSuchSession, after which the row is removed, or KernelRefused.
        """
        waited = row.state is IncomingState.WAITING
        if waited:
            # First: if the supervisor dies during the call, the session is lost, and must not be shown as waiting.
            self._registry.become(row, purpose)
        try:
            return await self._fds.retrieve(row.name)
        except errors.NoSuchSession as error:
            self._registry.lose(row)
            self._sparing(
                "session-lost", of=row.owner, write=self._log.warning, name=row.name, owner=row.owner, reason=error
            )
            raise no_such_session("incoming", row.name) from error
        except errors.KernelRefused as error:
            now = self._registry.incoming(row.name)
            if waited and now is not None and now.state is purpose:
                elsewhere = isinstance(error, errors.SessionTaken)
                self._registry.become(now, IncomingState.RETRIEVED if elsewhere else IncomingState.WAITING)
            raise

    async def take_if_left(self, row: IncomingRow) -> Fd | None:
        """Returns the session; None if only a client has it, from a previous luod. Raises as `take`."""
        try:
            return await self.take(row, IncomingState.TAKEN)
        except errors.SessionTaken:
            return None
