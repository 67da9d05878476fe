"""What only asyncio has: calls at the same time, cancelling them, and a loop that goes on meanwhile.

Everything the two surfaces share is in test_client.py.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import luod
from luod.ipc.client.async_connection import in_thread, send
from luod.linux import Fd
from luod.liveupdate import IncomingSession, OutgoingSession
from tests.impostor import Answer, Impostor, reply


def test_calls_run_at_the_same_time(tmp_path: Path) -> None:
    async def run(path: str) -> None:
        client = luod.AsyncClient(path)
        first = asyncio.create_task(client.sessions())
        await asyncio.to_thread(impostor.asked.wait)
        assert await client.sessions() == ()  # while the first has no answer
        assert not first.done()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first

    with Impostor(tmp_path, Answer(hold=True), Answer(reply({"sessions": []}))) as impostor:
        asyncio.run(run(impostor.path))


def test_a_cancelled_call_hangs_up(tmp_path: Path) -> None:
    async def run(path: str) -> None:
        call = asyncio.create_task(luod.AsyncClient(path).sessions())
        await asyncio.to_thread(impostor.asked.wait)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await asyncio.to_thread(impostor.hung_up.wait, 60)

    with Impostor(tmp_path, Answer(b'{"half": ', hold=True)) as impostor:
        asyncio.run(run(impostor.path))


def test_the_callers_own_timeout_works_too(tmp_path: Path) -> None:
    async def run(path: str) -> None:
        client = luod.AsyncClient(path)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.sessions()

    with Impostor(tmp_path, Answer(hold=True)) as impostor:
        asyncio.run(run(impostor.path))


class SlowSession(IncomingSession):
    """One whose FINISH takes until the test says so, as freeing hundreds of GiB does."""

    def __init__(self) -> None:
        super().__init__(Fd(os.open(os.devnull, os.O_RDWR)))
        self.begun = threading.Event()
        self.may_end = threading.Event()

    def finish(self, *, discard: bool = False, tokens: Iterable[int] | None = None) -> None:
        self.begun.set()
        assert self.may_end.wait(60)
        assert not self._fd.closed


def test_a_kernel_call_stops_neither_the_loop_nor_for_being_cancelled(tmp_path: Path) -> None:
    async def run(path: str) -> None:
        client = luod.AsyncClient(path)
        session = SlowSession()
        with luod.AsyncHeldIncomingSession(client, "vm", session) as held:
            call = asyncio.create_task(held.finish())
            await asyncio.to_thread(session.begun.wait)
            assert await client.sessions() == ()
            for _ in range(2):
                call.cancel()
                await asyncio.sleep(0)
            assert not call.done()
            session.may_end.set()
            with pytest.raises(asyncio.CancelledError):
                await call

    with Impostor(tmp_path, Answer(reply({"sessions": []}))) as impostor:
        asyncio.run(run(impostor.path))
    assert [call["method"] for call in impostor.calls] == ["io.luod.Sessions.List"]


def test_a_kernel_call_is_awaited_also_when_the_loop_ends() -> None:
    """Else the fds that it uses would be closed under it, and those of its result stay open."""
    begun, may_end = threading.Event(), threading.Event()
    made: list[Fd] = []

    def call() -> tuple[str, Fd]:
        begun.set()
        assert may_end.wait(60)
        made.append(Fd(os.open(os.devnull, os.O_RDWR)))
        return "vm", made[0]

    async def run() -> asyncio.Task[tuple[str, Fd]]:
        waiting = asyncio.create_task(in_thread(call))
        await asyncio.to_thread(begun.wait)
        threading.Timer(0.1, may_end.set).start()
        return waiting

    assert asyncio.run(run()).cancelled()
    assert [fd.closed for fd in made] == [True]


def test_a_message_that_does_not_fit_the_socket_is_sent_as_it_is_read() -> None:
    message = os.urandom(1 << 20)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    def read() -> bytes:
        found = b""
        while data := theirs.recv(1 << 16):
            found += data
        return found

    async def run() -> bytes:
        reading = asyncio.ensure_future(asyncio.to_thread(read))
        with ours:
            await send(ours, message, [])
        return await reading

    with theirs:
        assert asyncio.run(run()) == message


class SlowOutgoing(OutgoingSession):
    """One whose PRESERVE_FD takes until the test says so."""

    def __init__(self) -> None:
        super().__init__(Fd(os.open(os.devnull, os.O_RDWR)), manifest=False)
        self.begun = threading.Event()
        self.may_end = threading.Event()

    def preserve(self, *arguments: Any, **options: Any) -> int:
        self.begun.set()
        assert self.may_end.wait(60)
        return self.fileno()


def test_a_session_is_not_closed_under_a_kernel_call_of_another_task(tmp_path: Path) -> None:
    async def run(path: str) -> None:
        session = SlowOutgoing()
        held = luod.AsyncHeldOutgoingSession(luod.AsyncClient(path), "vm", session)
        preserving = asyncio.create_task(held.preserve(0))
        await asyncio.to_thread(session.begun.wait)
        releasing = asyncio.create_task(held.release())
        await asyncio.sleep(0)
        session.may_end.set()
        assert await preserving >= 0
        await releasing

    with Impostor(tmp_path, Answer(reply())) as impostor:
        asyncio.run(run(impostor.path))
