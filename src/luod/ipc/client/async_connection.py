"""Runs an exchange in an asyncio loop: a connection for each call, kernel calls in a thread.

`luod.ipc.client.sessions` defines exchanges.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from luod.errors import LuodError
from luod.ipc import framing
from luod.ipc.client import sessions
from luod.ipc.client.connection import ROOM_PAUSE, ROOM_SECONDS, answer, is_crowded, unreachable
from luod.ipc.client.restore import Arrived
from luod.linux import Fd
from luod.liveupdate import IncomingSession, OutgoingSession

if TYPE_CHECKING:
    from luod.ipc.client.sessions import Exchange

T = TypeVar("T")

_QUEUE_FULL_PAUSE: Final = 0.01
"""Seconds between two attempts to connect while luod's queue is full: the kernel does not report free room."""


async def perform(steps: Exchange[T], path: str, timeout: float) -> T:
    """Runs an exchange with luod at `path`. Raises luod's errors, and those of the exchange.

    `timeout`, in seconds, is for each call.
    """
    try:
        step = await _in_thread(lambda: next(steps))
        while isinstance(step, sessions.Call):
            step = await _exchange(step, steps, path, timeout)
        result: T = step.value
        return result
    finally:
        steps.close()


async def _exchange(call: sessions.Call, steps: Exchange[T], path: str, timeout: float) -> sessions.Call | _Result[T]:
    try:
        reply = await retried(lambda: _ask(call, path, timeout), is_crowded, min(timeout, ROOM_SECONDS), ROOM_PAUSE)
    except LuodError as error:
        failure = error
        return await _in_thread(lambda: steps.throw(failure))
    with reply:
        return await _in_thread(lambda: steps.send(reply))


async def retried(
    attempt: Callable[[], Awaitable[T]], may_pass: Callable[[LuodError], bool], seconds: float, pause: float
) -> T:
    """See `luod.ipc.client.connection.retried`."""
    until = time.monotonic() + seconds
    while True:
        try:
            return await attempt()
        except LuodError as error:
            if not may_pass(error) or time.monotonic() >= until:
                raise
        await asyncio.sleep(pause)


async def _ask(call: sessions.Call, path: str, timeout: float) -> framing.Reply:
    message, fds = call.encode(), [fd.fileno() for fd in call.fds]
    inbox = framing.Inbox()
    try:
        async with asyncio.timeout(timeout):
            with await connected(path) as connection:
                with contextlib.suppress(
                    BrokenPipeError
                ):  # luod may have sent the reason before it closed the connection
                    await send(connection, message, fds)
                reply = await received(connection, inbox)
    except (OSError, ValueError) as error:
        raise unreachable(path, error) from error
    finally:
        inbox.close()
    return answer(reply)


async def connected(path: str) -> socket.socket:
    """Returns a connection to luod, which the caller closes. Raises OSError, ValueError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        while True:
            try:
                connection.connect(path)
                return connection
            except BlockingIOError:
                await asyncio.sleep(_QUEUE_FULL_PAUSE)
    except BaseException:
        connection.close()
        raise


async def send(connection: socket.socket, message: bytes, fds: list[int]) -> None:
    """Sends a whole message, `fds` with its first byte. The caller keeps its fds. Raises OSError."""
    loop = asyncio.get_running_loop()
    rest = memoryview(message)
    while rest:
        try:
            rest, fds = rest[framing.send_some(connection, rest, fds) :], []
        except BlockingIOError:
            await _until(lambda ready: loop.add_writer(connection, ready), lambda: loop.remove_writer(connection))


async def received(connection: socket.socket, inbox: framing.Inbox) -> framing.Reply:
    """Returns the next reply, which the caller closes. Raises OSError, ProtocolError.

    `inbox` keeps bytes read beyond it, or before a cancellation.
    """
    while (reply := inbox.take()) is None:
        data, fds = await _receive(connection)
        if not data:
            raise ConnectionResetError
        inbox.feed(data, fds)
    return reply


async def _receive(connection: socket.socket) -> tuple[bytes, tuple[Fd, ...]]:
    """Returns `framing.receive` when there is data."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return framing.receive(connection)
        except BlockingIOError:
            await _until(lambda ready: loop.add_reader(connection, ready), lambda: loop.remove_reader(connection))


async def _until(watch: Callable[[Callable[[], None]], object], unwatch: Callable[[], object]) -> None:
    """Returns when the callback that `watch` gets was called."""
    ready = asyncio.Event()
    watch(ready.set)
    try:
        await ready.wait()
    finally:
        unwatch()


@dataclass(frozen=True)
class _Result(Generic[T]):
    """The result of an exchange: a coroutine cannot raise StopIteration."""

    value: T


async def _in_thread(advance: Callable[[], sessions.Call]) -> sessions.Call | _Result[Any]:
    """Runs one step of an exchange, which may make kernel calls, in a thread."""

    def step() -> sessions.Call | _Result[Any]:
        try:
            return advance()
        except StopIteration as end:
            return _Result(end.value)

    return await in_thread(step)


async def in_thread(call: Callable[[], T]) -> T:
    """Makes a call that may take long in a thread.

    It always runs to its end: closing fds under a thread that uses them would affect the next fd with that number. When
    cancelled, it closes the fds in the call's result.
    """
    # A task would be cancelled with all others when the loop ends, and the thread would go on alone.
    running = asyncio.get_running_loop().run_in_executor(None, call)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        if running.exception() is None:
            _close(running.result())
        raise


def _close(value: object) -> None:
    """Closes the fds of a result that its caller will not get."""
    match value:
        case _Result():
            _close(value.value)
        case dict():
            for each in value.values():
                _close(each)
        case tuple():
            for each in value:
                _close(each)
        case Fd() | OutgoingSession() | IncomingSession() | Arrived():
            value.close()
