"""A VMM's part in updates, from asyncio: `luod.participant`, which documents it, with coroutines.

async with luod.AsyncParticipant("vm-1", [session]) as participant:
    async for phase in participant:
        async with phase: ...
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from luod.aio.client import AsyncClient, AsyncHeldOutgoingSession
from luod.errors import BadInput, LuodError
from luod.ipc import framing
from luod.ipc.client import creation, participation
from luod.ipc.client.async_connection import connected, perform, received, send
from luod.ipc.client.connection import unreachable
from luod.ipc.client.participation import Carried, Event, PlannedFile
from luod.ipc.client.phase import ParticipantBase, Told

if TYPE_CHECKING:
    from luod.ipc.client.sessions import Exchange, T


class AsyncPhase(Told):
    """See `luod.Phase`."""

    def __init__(self, participant: AsyncParticipant, event: Event) -> None:
        super().__init__(participant._part, participant._failure, event)
        self._participant = participant

    async def ready(self) -> bool:
        """See `luod.Phase.ready`."""
        return await self._vote(None)

    async def veto(self, reason: str) -> bool:
        """See `luod.Phase.veto`."""
        return await self._vote(reason)

    async def _vote(self, reason: str | None) -> bool:
        return await self._participant._perform(self._ballot(reason))

    async def create(self, of: str | None = None) -> AsyncHeldOutgoingSession:
        """See `luod.Phase.create`."""
        client, name = self._participant._client, self._frozen_name(of)
        bare = await self._participant._perform(creation.create(name, client.path, manifest=True))
        session = AsyncHeldOutgoingSession(client, name, bare)
        self._part.froze(session, self.event)
        return session

    async def __aenter__(self) -> Self:
        self._enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        reason, counted = self._veto_on_leaving(error), False
        if reason is not None:
            with contextlib.suppress(Exception):
                counted = await self.veto(reason)
        return self._leave(error, counted)


class AsyncParticipant(ParticipantBase):
    """See `luod.Participant`."""

    def __init__(
        self,
        name: str,
        sessions: Iterable[Carried],
        *,
        planned: Iterable[PlannedFile] = (),
        client: AsyncClient | None = None,
    ) -> None:
        """See `luod.Participant`."""
        super().__init__(name, sessions, planned)
        self._connection: socket.socket | None = None
        self._client = AsyncClient() if client is None else client
        self._inbox = framing.Inbox()
        self._taking = asyncio.Lock()
        self._reading: asyncio.Timeout | None = None
        """The time limit of a task that reads from the connection, or makes it."""

    async def declare(self, sessions: Iterable[Carried], *, planned: Iterable[PlannedFile] = ()) -> None:
        """See `luod.Participant.declare`."""
        self._part.carry(sessions, planned)
        if self._connection is not None:
            await self._tell()

    async def next(self, timeout: float | None = None) -> AsyncPhase | None:
        """See `luod.Participant.next`. It may be cancelled, and nothing is lost."""
        self._failure.raise_overdue()
        if self._closed and not self._pending:
            raise BadInput("the participant is closed", hint="make another one")
        end = None if timeout is None else time.monotonic() + timeout
        async with self._taking:
            while True:
                while not self._pending:
                    if self._closed:
                        return None
                    await self._wait(end)
                    if not self._pending and end is not None and time.monotonic() >= end:
                        return None
                event = self._pending[0]
                reason = self._failure.vetoes(event)
                if reason is None:
                    return AsyncPhase(self, self._pending.pop(0))
                with contextlib.suppress(Exception):
                    await self._perform(participation.vote(self._part.secret, event, reason))
                self._pending.pop(0)

    async def _wait(self, end: float | None) -> None:
        """Handles luod's next event, or looks for luod once."""
        try:
            if self._connection is None:
                await self._follow()
            if not self._pending:
                if self._declares_now:
                    await self._tell()
                await self._take(participation.left(end, 0.5 if self._part.declares else None))
            self._pause = 0.0
        except participation.PASSING as error:
            self._drop()
            self._put(self._part.broken(error))
            self._pause = participation.pause_after(self._pause)
            if not self._pending:
                await asyncio.sleep(participation.left(end, self._pause) or 0.0)
        except LuodError:
            self._put_off_declaring()
            if not self._pending:  # a guest that waits to be resumed comes first
                raise

    async def run(
        self,
        *,
        preparing: Callable[[AsyncPhase], object] | None = None,
        granted: Callable[[AsyncPhase], object] | None = None,
        freezing: Callable[[AsyncPhase], object] | None = None,
        jumping: Callable[[AsyncPhase], object] | None = None,
        cancelled: Callable[[AsyncPhase], object] | None = None,
        lost: Callable[[AsyncPhase], object] | None = None,
    ) -> None:
        """See `luod.Participant.run`. A callback may be a coroutine function, or a plain one."""
        calls = {"preparing": preparing, "granted": granted, "freezing": freezing}
        calls |= {"jumping": jumping, "cancelled": cancelled, "lost": lost}
        async for phase in self:
            call = calls[phase.kind]
            async with phase:
                if call is None:
                    if phase.awaits_vote:
                        await phase.ready()
                    continue
                result = call(phase)
                if inspect.isawaitable(result):
                    await result

    async def _follow(self) -> None:
        """Makes a connection the participant. After an error there is no connection."""
        try:
            async with self._limit(self._client.timeout):
                self._connection = await connected(self._client.path)
                await send(self._connection, self._part.follow(), [])
                reply = await received(self._connection, self._inbox)
            with reply:
                self._raise_error(reply)
                self._put(self._part.begun(reply))
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
            async with self._limit(seconds):
                reply = await received(self._connection, self._inbox)
        except TimeoutError:
            return
        except OSError as error:
            raise unreachable(self._client.path, error) from error
        with reply:
            self._raise_error(reply)
            event = self._part.told(reply)
        self._put(event)
        if event is not None and event.kind == "preparing":
            await self._tell()

    @contextlib.asynccontextmanager
    async def _limit(self, seconds: float | None) -> AsyncIterator[None]:
        """Ends the block after `seconds`, or when the participant is closed meanwhile. Raises TimeoutError then."""
        try:
            async with asyncio.timeout(seconds) as self._reading:
                yield
        finally:
            self._reading = None
            if self._closed:
                self._drop()

    def _close(self) -> None:
        if self._reading is None:
            super()._close()
            return
        # The loop would not wake the task that waits for a closed socket. That task drops the connection.
        self._closed = True
        self._part.close()
        if not self._reading.expired():
            self._reading.reschedule(asyncio.get_running_loop().time())

    def _raise_error(self, reply: framing.Reply) -> None:
        try:
            reply.raise_error()
        except LuodError as error:
            self._part.check_refusal(error)
            raise

    async def _tell(self) -> None:
        with contextlib.suppress(*participation.PASSING):
            await self._perform(participation.declare(self._part))

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        self._inbox.close()
        self._inbox = framing.Inbox()

    async def _perform(self, steps: Exchange[T]) -> T:
        return await perform(steps, self._client.path, self._client.timeout)

    async def __aiter__(self) -> AsyncIterator[AsyncPhase]:
        while not self._closed:
            phase = await self.next()
            if phase is not None:
                yield phase

    async def __aenter__(self) -> Self:
        if self._connection is None:
            try:
                await self._follow()
                await self._perform(participation.declare(self._part))
            except BaseException:
                self._close()
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left(error)
