"""Duplicates of the manifests of outgoing sessions, which cannot be read from the sessions: their makers pass them to
luod.

A user of the session gets the memfd, and reads it itself. luod reads one only for a session without a participant, to
check an update (`luod.daemon.preflight.manifests`). The supervisor holds them too, so that they outlive serve. The loss
of one does no harm to the session.
"""

from __future__ import annotations

import os

from luod.daemon.log import Log
from luod.daemon.sessions.file_kind import Discard, kind_of
from luod.daemon.store.fd_names import manifest_name
from luod.daemon.store.fd_store import FdStore
from luod.daemon.store.schema import Row
from luod.errors import LuodError
from luod.ipc.errors import InvalidParameter
from luod.ipc.server.sparing import Sparing
from luod.linux import Fd
from luod.manifest import PART_SIZE


def check(file: Fd | None) -> None:
    """Raises InvalidParameter unless it can be a manifest, or is None."""
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
        """Takes a duplicate, if there is one. The session's client does not wait until the supervisor has it."""
        if file is None or file.closed:
            return  # closed: its client hung up before there was a session
        name = manifest_name(row)

        def refused(error: LuodError) -> None:
            self._sparing("manifest-not-stored", of=row.owner, write=self._log.debug, name=name, error=error)

        self._fds.store_soon(name, file, refused)

    def of(self, row: Row) -> Fd | None:
        """Returns a duplicate that the caller owns; None without a manifest."""
        file = self._fds.get(manifest_name(row))
        return None if file is None or row.direction != "outgoing" else file.duplicate()

    def read(self, row: Row) -> bytes | None:
        """Returns what the first part says now, without the zeros behind; None without a manifest. Does not block: it
        is a memfd.
        """
        file = self._fds.get(manifest_name(row))
        if file is None:
            return None
        try:
            return os.pread(file.fileno(), PART_SIZE, 0).rstrip(b"\0")
        except OSError:
            return None

    async def drop(self, row: Row) -> None:
        if row.direction == "outgoing":
            await self._fds.drop(manifest_name(row), discard=self._discard)
