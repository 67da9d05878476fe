"""Duplicates of the manifests of outgoing sessions, which give nothing back: who made one gives luod a duplicate.

luod never reads them: whoever may use the session gets the memfd, and reads it itself. Kept with keep too, so that they
outlive serve; one that is lost costs no session anything.
"""

from __future__ import annotations

import os

from asyncvarlink.serviceinterface import InvalidParameter

from luod.daemon.log import Log
from luod.daemon.sessions.file_kind import Discard, kind_of
from luod.daemon.store.fd_names import manifest_name
from luod.daemon.store.fd_store import FdStore
from luod.daemon.store.schema import Row
from luod.errors import LuodError
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
    def __init__(self, fds: FdStore, discard: Discard, log: Log, sparing: Sparing) -> None:
        self._fds = fds
        self._discard = discard
        self._log = log
        self._sparing = sparing

    def keep(self, row: Row, file: Fd | None) -> None:
        """Takes a duplicate, if there is one. Who waits for the session is not kept waiting until keep has it."""
        if file is None or file.closed:
            return  # closed: its client hung up before there was a session
        name = manifest_name(row)

        def refused(error: LuodError) -> None:
            self._sparing("manifest-not-stored", of=row.owner, write=self._log.debug, name=name, error=error)

        self._fds.store_soon(name, file, refused)

    def of(self, row: Row) -> Fd | None:
        """The caller's own duplicate; None: nobody gave one."""
        file = self._fds.get(manifest_name(row))
        return None if file is None or row.direction != "outgoing" else file.duplicate()

    async def drop(self, row: Row) -> None:
        if row.direction == "outgoing":
            await self._fds.drop(manifest_name(row), discard=self._discard)
