"""Duplicates of the manifests of outgoing sessions, which give nothing back: who made one gives luod a duplicate.

luod never reads them: whoever may use the session gets the memfd, and reads it itself. Kept with keep too, so that they
outlive serve; one that is lost costs no session anything.
"""

from __future__ import annotations

import asyncio
import os

from asyncvarlink.serviceinterface import InvalidParameter

from luod.daemon.log import Log
from luod.daemon.sessions.file_kind import Discard, kind_of
from luod.daemon.store.fd_store import Custody, KeeperGone
from luod.daemon.store.recovery import manifest_name
from luod.daemon.store.schema import Row
from luod.errors import KernelRefused
from luod.ipc.server.sparing import Sparing
from luod.linux import Fd
from luod.manifest import PART_SIZE


def check(file: Fd | None) -> None:
    """InvalidParameter unless it can be a manifest, or is none."""
    if file is None:
        return
    if kind_of(file) != "memory" or os.fstat(file.fileno()).st_size != PART_SIZE:
        raise InvalidParameter(parameter="manifest_fd")


class Manifests:
    def __init__(self, fds: dict[str, Fd], custody: Custody, discard: Discard, log: Log, sparing: Sparing) -> None:
        """`fds` are luod's, by the names that keep has for them."""
        self._fds = fds
        self._custody = custody
        self._discard = discard
        self._log = log
        self._sparing = sparing
        self._storing: set[asyncio.Task[None]] = set()

    def keep(self, row: Row, file: Fd | None) -> None:
        """Takes a duplicate, if there is one. Who waits for the session is not kept waiting until keep has it."""
        if file is None or file.closed:
            return  # closed: its client hung up before there was a session
        name = manifest_name(row)
        if name in self._fds:
            self._discard(self._fds.pop(name))
        self._fds[name] = file.duplicate()
        task = asyncio.ensure_future(self._store(name, row.owner))
        self._storing.add(task)
        task.add_done_callback(self._storing.discard)

    async def _store(self, name: str, owner: int) -> None:
        try:
            if name in self._fds:
                await self._custody.store(name, self._fds[name].fileno())
                if name not in self._fds:  # dropped meanwhile, when keep had nothing to drop yet
                    await self._custody.remove(name)
        except (KernelRefused, KeeperGone) as error:
            self._sparing("manifest-not-stored", of=owner, write=self._log.debug, name=name, error=error)

    def of(self, row: Row) -> Fd | None:
        """The caller's own duplicate; None: nobody gave one."""
        file = self._fds.get(manifest_name(row))
        return None if file is None or row.direction != "outgoing" else file.duplicate()

    async def drop(self, row: Row) -> None:
        if row.direction == "outgoing":
            await self._custody.drop(self._fds, manifest_name(row), self._discard)
