"""What a program uses to talk to luod from asyncio: `await luod.aio.connect()`.

The same surface as `luod.client`, which documents it, with the same session objects. Only talking to luod differs:
nothing here stops the loop, the kernel's calls of `finish` and `replace` included, which run in a thread. Those of the
session objects do stop it, for as long as PRESERVE_FD and RETRIEVE_FD of large files take: use `asyncio.to_thread`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from luod.errors import BadInput, LuodError
from luod.ipc import exchange, framing
from luod.ipc.connection import TIMEOUT, answer, unreachable
from luod.ipc.exchange import Session
from luod.linux import Fd
from luod.liveupdate import HasFileno, IncomingSession, OutgoingSession

__all__ = ["connect", "Client", "Session"]  # noqa: RUF022 - most important first

T = TypeVar("T")

_QUEUE_FULL_PAUSE: Final = 0.01
"""Seconds between two attempts to connect while luod's queue is full: the kernel tells nobody when it has room."""


async def connect(path: str | os.PathLike[str] | None = None, *, timeout: float = TIMEOUT) -> Client:
    """Like `luod.client.connect`."""
    client = Client(framing.SESSIONS_SOCKET if path is None else os.fspath(path), timeout=timeout)
    await client._check()
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

    async def _check(self) -> None:
        try:
            async with asyncio.timeout(self.timeout):
                (await self._connect()).close()
        except (OSError, ValueError) as error:
            raise unreachable(self.path, error) from error

    async def create(self, name: str, *, manifest: bool = True) -> OutgoingSession:
        """See `luod.client.Client.create`."""
        return await self._run(exchange.create(name, manifest=manifest))

    async def retrieve(self, name: str) -> IncomingSession:
        """See `luod.client.Client.retrieve`."""
        return await self._run(exchange.retrieve(name))

    async def finish(
        self, session: IncomingSession, *, discard: bool = False, tokens: Iterable[int] | None = None
    ) -> None:
        """See `luod.client.Client.finish`."""
        await self._run(exchange.finish(session, discard=discard, tokens=tokens))

    async def release(self, session: OutgoingSession | IncomingSession | Session, *, finished: bool = False) -> None:
        """See `luod.client.Client.release`."""
        await self._run(exchange.release(session, finished=finished))

    async def replace(
        self, session: OutgoingSession, files: Mapping[int, HasFileno], *, drop: Collection[int] = ()
    ) -> OutgoingSession:
        """See `luod.client.Client.replace`."""
        return await self._run(exchange.replace(session, files, drop))

    async def sessions(self) -> tuple[Session, ...]:
        """See `luod.client.Client.sessions`."""
        return await self._run(exchange.sessions())

    async def _run(self, steps: exchange.Exchange[T]) -> T:
        try:
            step = await _in_thread(lambda: next(steps))
            while isinstance(step, exchange.Call):
                step = await self._exchange(step, steps)
            result: T = step.value
            return result
        finally:
            steps.close()

    async def _exchange(self, call: exchange.Call, steps: exchange.Exchange[T]) -> exchange.Call | _Result[T]:
        try:
            reply = await self._ask(call.encode())
        except LuodError as error:
            failure = error
            return await _in_thread(lambda: steps.throw(failure))
        try:
            return await _in_thread(lambda: steps.send(reply))
        finally:
            reply.close()

    async def _ask(self, message: bytes) -> framing.Reply:
        loop = asyncio.get_running_loop()
        inbox = framing.Inbox()
        try:
            async with asyncio.timeout(self.timeout):
                with await self._connect() as connection:
                    await loop.sock_sendall(connection, message)
                    while (reply := inbox.take()) is None:
                        data, fds = await _receive(connection)
                        if not data:
                            raise ConnectionResetError
                        inbox.feed(data, fds)
        except OSError as error:
            raise unreachable(self.path, error) from error
        finally:
            inbox.close()
        return answer(reply)

    async def _connect(self) -> socket.socket:
        """A connection to luod, which the caller closes. OSError, ValueError."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            while True:
                try:
                    connection.connect(self.path)
                    return connection
                except BlockingIOError:
                    await asyncio.sleep(_QUEUE_FULL_PAUSE)
        except BaseException:
            connection.close()
            raise

    def __repr__(self) -> str:
        return f"<Client {self.path}>"


@dataclass(frozen=True)
class _Result(Generic[T]):
    """What an exchange returned: a StopIteration cannot come out of a coroutine."""

    value: T


async def _in_thread(advance: Callable[[], exchange.Call]) -> exchange.Call | _Result[Any]:
    """Runs one step of an exchange, which may make kernel calls, beside the loop. It always runs to its end: closing
    fds under a thread that uses them would hit whatever fd gets the number next.
    """

    def step() -> exchange.Call | _Result[Any]:
        try:
            return advance()
        except StopIteration as end:
            return _Result(end.value)

    running = asyncio.ensure_future(asyncio.to_thread(step))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        outcome = None if running.exception() else running.result()
        if isinstance(outcome, _Result) and isinstance(outcome.value, OutgoingSession | IncomingSession):
            outcome.value.close()  # nobody will get the session that was made
        raise


async def _receive(connection: socket.socket) -> tuple[bytes, tuple[Fd, ...]]:
    """`framing.receive` when there is something."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return framing.receive(connection)
        except BlockingIOError:
            readable = asyncio.Event()
            loop.add_reader(connection, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(connection)
