"""`eventually`: the awaited condition comes, or the failure says what did not."""

from __future__ import annotations

import asyncio

import pytest

from luod.testing import eventually
from luod.testing.waiting import eventually_async


def test_it_returns_what_it_waited_for() -> None:
    answers = iter([0, "", None, "here"])
    assert eventually(lambda: next(answers), describe="an answer") == "here"


def test_it_says_what_did_not_come_and_what_was_seen_last() -> None:
    with pytest.raises(AssertionError, match=r"not within 0 s: the third boot; last seen: \[\]"):
        eventually(list, within=0, describe="the third boot")


def test_in_a_loop_it_waits_for_what_another_task_does() -> None:
    async def main() -> list[str]:
        done: list[str] = []
        asyncio.get_running_loop().call_later(0.01, done.append, "by another")
        await eventually_async(lambda: done, describe="another did it")
        return done

    assert asyncio.run(main()) == ["by another"]


def test_in_a_loop_it_says_what_did_not_come_and_what_was_seen_last() -> None:
    with pytest.raises(AssertionError, match=r"not within 0 s: the third boot; last seen: \[\]"):
        asyncio.run(eventually_async(list, within=0, describe="the third boot"))
