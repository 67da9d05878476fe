"""A change that was begun is completed, whatever its caller does."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from luod.daemon.completion import completed


class Change:
    """A change that waits until it may continue."""

    def __init__(self, error: Exception | None = None) -> None:
        self.begun = asyncio.Event()
        self.allowed = asyncio.Event()
        self.done = asyncio.Event()
        self.error = error

    async def run(self) -> str:
        self.begun.set()
        await self.allowed.wait()
        self.done.set()
        if self.error is not None:
            raise self.error
        return "result"


async def hang_up(change: Change, **options: Any) -> None:
    """Calls for the change, and is cancelled while it runs."""
    caller = asyncio.ensure_future(completed(change.run(), **options))
    await change.begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller


def test_the_caller_gets_the_result() -> None:
    async def main() -> str:
        change = Change()
        change.allowed.set()
        return await completed(change.run(), unclaimed=lambda result: pytest.fail(result))

    assert asyncio.run(main()) == "result"


def test_the_caller_gets_the_error() -> None:
    async def main() -> None:
        change = Change(ValueError("no"))
        change.allowed.set()
        await completed(change.run())

    with pytest.raises(ValueError, match="no"):
        asyncio.run(main())


def test_it_is_completed_when_the_caller_is_cancelled_and_the_result_is_disposed_of() -> None:
    async def main() -> list[str]:
        change, unclaimed = Change(), asyncio.Queue[str]()
        await hang_up(change, unclaimed=unclaimed.put_nowait)
        gc.collect()
        change.allowed.set()
        result = await asyncio.wait_for(unclaimed.get(), 5)
        assert change.done.is_set()
        return [result]

    assert asyncio.run(main()) == ["result"]


def test_an_error_after_the_caller_is_gone_is_dropped() -> None:
    complaints: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
        change = Change(ValueError("nobody reads this"))
        await hang_up(change, unclaimed=lambda result: pytest.fail(result))
        change.allowed.set()
        await asyncio.wait_for(change.done.wait(), 5)
        await asyncio.sleep(0)
        del change
        gc.collect()

    asyncio.run(main())
    assert complaints == []


def test_a_change_that_was_cancelled_itself_gives_no_result() -> None:
    async def main() -> None:
        change = Change()
        await hang_up(change, unclaimed=lambda result: pytest.fail(result))
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0)
        assert not change.done.is_set()

    asyncio.run(main())
