"""Sessions from asyncio: `await luod.aio.connect()`.

The same surface as `luod.client`, which documents it, with the same session objects. Only talking to luod differs:
nothing here stops the loop, the kernel's calls of `finish` and `replace` included, which run in a thread. Those of the
session objects do stop it, for as long as PRESERVE_FD and RETRIEVE_FD of large files take: use `asyncio.to_thread`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Collection, Iterable, Mapping
from typing import Final, TypeVar

from luod.errors import BadInput, DaemonUnreachable
from luod.ipc.client import held_files, restore, sessions
from luod.ipc.client.async_connection import connected, perform
from luod.ipc.client.connection import TIMEOUT, unreachable
from luod.ipc.client.restore import Arrival
from luod.ipc.client.sessions import Description, Exchange, SessionInfo
from luod.ipc.framing import SESSIONS_SOCKET
from luod.linux import Fd
from luod.liveupdate import HasFileno, IncomingSession, OutgoingSession
from luod.manifest import Entry

__all__ = ["connect", "Client", "SessionInfo"]  # noqa: RUF022 - most important first

T = TypeVar("T")

_LOOK_SECONDS: Final = 0.1
"""Between two looks for a luod that is not there yet."""


async def connect(
    path: str | os.PathLike[str] | None = None, *, timeout: float = TIMEOUT, patience: float = 0.0
) -> Client:
    """Like `luod.client.connect`."""
    client = Client(SESSIONS_SOCKET if path is None else os.fspath(path), timeout=timeout)
    deadline = time.monotonic() + patience
    while True:
        try:
            await client._check()
        except DaemonUnreachable:
            if time.monotonic() >= deadline:
                raise
            await asyncio.sleep(_LOOK_SECONDS)
        else:
            return client


class Client:
    """luod at `path`, as `luod.client.Client`, with coroutines. Calls may run at the same time.

    Cancelling a call drops its connection; whether luod did what was asked is then not known. A kernel call that has
    begun is waited for first. Cancelling `replace` loses the session, as a death in between does.
    """

    def __init__(self, path: str, *, timeout: float = TIMEOUT) -> None:
        if not timeout > 0:
            raise BadInput(f"a timeout is a positive number of seconds: {timeout}")
        self.path = path
        self.timeout = timeout
        self._begun: dict[str, IncomingSession] = {}

    async def create(self, name: str, *, manifest: bool = True) -> OutgoingSession:
        """See `luod.client.Client.create`."""
        return await self._run(sessions.create(name, self.path, manifest=manifest))

    async def retrieve(self, name: str) -> IncomingSession:
        """See `luod.client.Client.retrieve`."""
        return await self._run(sessions.retrieve(name, self.path))

    async def arrive(self, name: str) -> Arrival:
        """See `luod.client.Client.arrive`."""
        return await self._run(restore.arrive(name, self._begun, self.path))

    async def resuming(self, arrived: Arrival) -> None:
        """See `luod.client.Client.resuming`."""
        await self._run(restore.resuming(arrived))

    async def give_up(self, name: str) -> tuple[str, ...]:
        """See `luod.client.Client.give_up`."""
        return await self._run(restore.give_up(name, self._begun))

    async def finish(
        self, session: IncomingSession | Arrival, *, discard: bool = False, tokens: Iterable[int] | None = None
    ) -> None:
        """See `luod.client.Client.finish`."""
        await self._run(restore.finish_any(session, discard=discard, tokens=tokens))

    async def release(
        self, session: OutgoingSession | IncomingSession | SessionInfo, *, finished: bool = False
    ) -> None:
        """See `luod.client.Client.release`."""
        await self._run(sessions.release(session, finished=finished))

    async def replace(
        self, session: OutgoingSession, files: Mapping[int, HasFileno], *, drop: Collection[int] = ()
    ) -> OutgoingSession:
        """See `luod.client.Client.replace`."""
        return await self._run(sessions.replace(session, files, drop, self.path))

    async def sessions(self) -> tuple[SessionInfo, ...]:
        """See `luod.client.Client.sessions`."""
        return await self._run(sessions.sessions())

    async def manifest(self, name: str, *, direction: str = "outgoing") -> tuple[tuple[Entry, ...], bool]:
        """See `luod.client.Client.manifest`."""
        return await self._run(sessions.manifest(name, direction))

    async def describe(self, name: str) -> tuple[Description, ...]:
        """See `luod.client.Client.describe`."""
        return await self._run(sessions.describe(name))

    async def stash(self, name: str, files: Mapping[str, HasFileno]) -> None:
        """See `luod.client.Client.stash`."""
        await self._run(held_files.stash(name, files))

    async def unstash(self, name: str, *, keep: bool = False) -> dict[str, Fd]:
        """See `luod.client.Client.unstash`."""
        return await self._run(held_files.unstash(name, keep=keep))

    async def drop_stash(self, name: str) -> None:
        """See `luod.client.Client.drop_stash`."""
        await self._run(held_files.drop_stash(name))

    async def _run(self, steps: Exchange[T]) -> T:
        return await perform(steps, self.path, self.timeout)

    async def _check(self) -> None:
        try:
            async with asyncio.timeout(self.timeout):
                (await connected(self.path)).close()
        except (OSError, ValueError) as error:
            raise unreachable(self.path, error) from error

    def __repr__(self) -> str:
        return f"<Client {self.path}>"
