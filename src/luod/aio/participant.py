"""A VMM's part in updates, from asyncio: `luod.participant`, which documents it, with coroutines.

async with await luod.aio.Participant.follow("vm-1", [session]) as participant:
    async for phase in participant:
        async with phase: ...
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from types import TracebackType
from typing import Self

from luod.aio.client import Client
from luod.errors import BadInput, DaemonUnreachable, LuodError, ProtocolError
from luod.ipc import framing
from luod.ipc.client import participation, sessions
from luod.ipc.client.async_connection import connected, perform, received, send
from luod.ipc.client.connection import unreachable
from luod.ipc.client.participation import Event, Participation, PlannedFile
from luod.ipc.client.phase import Told
from luod.liveupdate import OutgoingSession


class Phase(Told):
    """See `luod.participant.Phase`."""

    def __init__(self, participant: Participant, event: Event) -> None:
        super().__init__(participant._part, event)
        self._participant = participant

    async def ready(self) -> bool:
        return await self._vote(None)

    async def veto(self, reason: str) -> bool:
        return await self._vote(reason)

    async def _vote(self, reason: str | None) -> bool:
        return await self._participant._perform(self._ballot(reason))

    async def create(self, of: str | None = None) -> OutgoingSession:
        path = self._participant._client.path
        session = await self._participant._perform(sessions.create(self._frozen_name(of), path, manifest=True))
        self._part.froze(session)
        return session

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None:
            if self._votes_ready:
                await self.ready()
            return False
        if self.event.votes_in is None:
            return False
        counted = False
        with contextlib.suppress(LuodError):
            counted = await self.veto(participation.said_of(error))
        return self._failed(error, counted)


class Participant:
    """See `luod.participant.Participant`; it is made by `follow`."""

    def __init__(self, name: str, client: Client, part: Participation) -> None:
        self.name = name
        self._client = client
        self._part = part
        self._pending: deque[Event] = deque()
        self._connection: socket.socket | None = None
        self._inbox = framing.Inbox()
        self._pause = 0.0
        self._closed = False
        self._taking = asyncio.Lock()

    @classmethod
    async def follow(
        cls,
        name: str,
        sessions: Iterable[OutgoingSession],
        *,
        planned: Iterable[PlannedFile] = (),
        client: Client | None = None,
    ) -> Self:
        """Arguments and errors as of `luod.participant.Participant`."""
        made = cls(
            name, Client(framing.SESSIONS_SOCKET) if client is None else client, Participation(name, sessions, planned)
        )
        try:
            await made._follow()
        except BaseException:
            made.close()
            raise
        return made

    async def declare(self, sessions: Iterable[OutgoingSession], *, planned: Iterable[PlannedFile] = ()) -> None:
        self._part.carry(sessions, planned)
        if self._connection is not None:
            with contextlib.suppress(DaemonUnreachable):
                await self._perform(participation.declare(self._part))

    async def next(self) -> Phase:
        """The next phase; waits for it. It may be cancelled, and nothing is lost. Errors as of the blocking one."""
        async with self._taking:
            while not self._pending:
                if self._closed:
                    raise BadInput("the participant is closed", hint="make another one")
                try:
                    if self._connection is None:
                        await self._follow()
                    elif self._part.undeclared:
                        await self._perform(participation.declare(self._part))
                    await self._take(0.5 if self._part.undeclared else None)
                    self._pause = 0.0
                except (DaemonUnreachable, ProtocolError):
                    self._drop()
                    self._put(self._part.broken())
                    self._pause = participation.pause_after(self._pause)
                    if not self._pending:
                        await asyncio.sleep(self._pause)
            return Phase(self, self._pending.popleft())

    async def run(
        self,
        *,
        preparing: Callable[[Phase], object] | None = None,
        granted: Callable[[Phase], object] | None = None,
        freezing: Callable[[Phase], object] | None = None,
        jumping: Callable[[Phase], object] | None = None,
        cancelled: Callable[[Phase], object] | None = None,
        lost: Callable[[Phase], object] | None = None,
        failed: Callable[[Phase, Exception], object] | None = None,
    ) -> None:
        """As the blocking one. A callback may be a coroutine function, or a plain one."""
        calls = {"preparing": preparing, "granted": granted, "freezing": freezing}
        calls |= {"jumping": jumping, "cancelled": cancelled, "lost": lost}
        async for phase in self:
            call = calls[phase.kind]
            async with phase:
                result = None if call is None else call(phase)
                if inspect.isawaitable(result):
                    await result
            if phase.failure is not None and failed is not None:
                result = failed(phase, phase.failure)
                if inspect.isawaitable(result):
                    await result

    def close(self) -> None:
        """As the blocking one. Cancel whoever waits in `next` first."""
        self._closed = True
        self._drop()
        self._part.close()

    async def _follow(self) -> None:
        """Makes a connection the participant, and declares. Its errors leave none."""
        try:
            async with asyncio.timeout(self._client.timeout):
                self._connection = await connected(self._client.path)
                await send(self._connection, self._part.follow(), [])
                reply = await received(self._connection, self._inbox)
            with contextlib.closing(reply):
                reply.raise_error()
                self._put(self._part.begun(reply))
            await self._perform(participation.declare(self._part))
        except (OSError, ValueError) as error:
            self._drop()
            if isinstance(error, LuodError):
                raise
            raise unreachable(self._client.path, error) from error
        except BaseException:
            self._drop()
            raise

    async def _take(self, seconds: float | None) -> None:
        assert self._connection is not None
        try:
            async with asyncio.timeout(seconds):
                reply = await received(self._connection, self._inbox)
        except TimeoutError:
            return
        except OSError as error:
            raise unreachable(self._client.path, error) from error
        with contextlib.closing(reply):
            reply.raise_error()
            event = self._part.told(reply)
        self._put(event)
        if event is not None and event.kind == "preparing":
            await self._perform(participation.declare(self._part))

    def _put(self, event: Event | None) -> None:
        if event is not None:
            self._pending.append(event)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        self._inbox.close()
        self._inbox = framing.Inbox()

    async def _perform(self, steps: sessions.Exchange[sessions.T]) -> sessions.T:
        return await perform(steps, self._client.path, self._client.timeout)

    async def __aiter__(self) -> AsyncIterator[Phase]:
        while not self._closed:
            yield await self.next()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Participant {self.name}>"
