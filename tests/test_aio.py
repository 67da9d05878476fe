"""What only asyncio has: calls at the same time, cancelling them, and a loop that goes on meanwhile.

Everything the two surfaces share is in test_client.py.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import luod.aio
from tests.impostor import Answer, Impostor, reply


def test_calls_run_at_the_same_time(tmp_path: Path) -> None:
    async def run(path: str) -> None:
        client = await luod.aio.connect(path)
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
        call = asyncio.create_task((await luod.aio.connect(path)).sessions())
        await asyncio.to_thread(impostor.asked.wait)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await asyncio.to_thread(impostor.hung_up.wait, 60)

    with Impostor(tmp_path, Answer(b'{"half": ', hold=True)) as impostor:
        asyncio.run(run(impostor.path))


def test_the_callers_own_timeout_works_too(tmp_path: Path) -> None:
    async def run(path: str) -> None:
        client = await luod.aio.connect(path)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.sessions()

    with Impostor(tmp_path, Answer(hold=True)) as impostor:
        asyncio.run(run(impostor.path))
