"""The order of turns, without a loop; and what a coroutine's steps cost, with one."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as some

from luod.ipc.server.turns import HALF_LIFE, ROOT, SHARE, Turns, Turnstile, charged, timed

ALICE, BOB, CAROL = 1000, 1001, 1002
MESSAGE = 0.005


def flood(turns: Turns[str], uid: int, connections: int) -> list[str]:
    names = [f"{uid}/{number}" for number in range(connections)]
    for name in names:
        turns.ask(uid, name)
    return names


def take(turns: Turns[str], now: float = 0.0) -> str:
    """Returns the next turn, after which the same connection asks again. A turn costs MESSAGE."""
    who = turns.next()
    assert who is not None
    uid = int(who.partition("/")[0])
    turns.charge(uid, MESSAGE, now)
    turns.ask(uid, who)
    return who


def test_root_is_next_whoever_waits() -> None:
    turns: Turns[str] = Turns()
    flood(turns, ALICE, 128)
    turns.ask(0, "0/root")
    assert turns.next() == "0/root"


def test_a_user_in_an_update_goes_before_one_that_is_not() -> None:
    turns: Turns[str] = Turns(lambda: {BOB})
    turns.charge(BOB, 60.0, 0.0)
    flood(turns, ALICE, 128)
    turns.ask(BOB, "1001/voter")
    assert turns.next() == "1001/voter"


def test_many_users_do_not_delay_a_participant() -> None:
    turns: Turns[str] = Turns(lambda: {BOB})
    for uid in range(100_000, 101_000):
        flood(turns, uid, 1)
    turns.ask(BOB, "1001/voter")
    assert turns.next() == "1001/voter"


def test_of_one_rank_the_user_goes_first_that_spent_less() -> None:
    turns: Turns[str] = Turns()
    flood(turns, ALICE, 128)
    for _ in range(20):
        take(turns)
    turns.ask(BOB, "1001/0")
    assert turns.next() == "1001/0"


def test_users_with_different_numbers_of_connections_get_the_same_time() -> None:
    turns: Turns[str] = Turns()
    flood(turns, ALICE, 128)
    flood(turns, BOB, 1)
    turned = Counter(take(turns).partition("/")[0] for _ in range(400))
    assert abs(turned["1000"] - turned["1001"]) <= 1


def test_the_connections_of_a_user_take_turns() -> None:
    turns: Turns[str] = Turns()
    names = flood(turns, ALICE, 10)
    assert [take(turns) for _ in range(20)] == names * 2


def test_no_rank_waits_for_ever() -> None:
    turns: Turns[str] = Turns(lambda: {ALICE})
    for uid in (0, ALICE, BOB):
        flood(turns, uid, 128)
    turned = Counter(take(turns).partition("/")[0] for _ in range(SHARE * 100))
    assert turned["1001"] >= 80
    assert turned["1000"] >= 80
    assert turned["0"] > turned["1000"] + turned["1001"]


def test_what_was_spent_is_forgotten_with_time() -> None:
    turns: Turns[str] = Turns()
    turns.charge(ALICE, 1.0, 0.0)
    turns.charge(BOB, 0.1, 10 * HALF_LIFE)
    turns.ask(BOB, "1001/0")
    turns.ask(ALICE, "1000/0")
    assert turns.next() == "1000/0"


def test_one_that_is_gone_gets_no_turn() -> None:
    turns: Turns[str] = Turns()
    turns.ask(ALICE, "1000/0")
    turns.withdraw(ALICE, "1000/0")
    turns.withdraw(BOB, "1001/0")
    assert turns.next() is None
    assert not turns


@given(some.lists(some.tuples(some.integers(1, 10**6), some.floats(0, 0.1), some.floats(0, 1000)), max_size=50))
def test_accounts_do_not_grow_without_end(charges: list[tuple[int, float, float]]) -> None:
    turns: Turns[str] = Turns()
    now = 0.0
    for uid in range(3000):
        turns.charge(uid, 1.0, now)
    for uid, seconds, later in charges:
        now += later
        turns.charge(uid, seconds, now)
    assert len(turns._spent) <= 2048


class Holder:
    """Takes its turns, and ends them when it is told."""

    def __init__(self, uid: int, got: list[int], *, interested: bool = True) -> None:
        self.uid = uid
        self._got = got
        self._interested = interested

    def granted(self) -> bool:
        self._got.append(self.uid)
        return self._interested


def test_one_turn_at_a_time() -> None:
    async def run() -> tuple[list[int], list[int]]:
        got: list[int] = []
        stile = Turnstile()
        first, second = Holder(ALICE, got), Holder(BOB, got)
        assert stile.take(first)
        assert not stile.take(second)
        stile.ask(second)
        await asyncio.sleep(0)
        during = list(got)
        stile.over(first)
        await asyncio.sleep(0)
        stile.close()
        return during, got

    assert asyncio.run(run()) == ([], [BOB])


def test_after_a_turn_that_ended_at_once_the_next_one_is_chosen_among_all_that_are_readable() -> None:
    async def run() -> tuple[bool, list[int]]:
        got: list[int] = []
        stile = Turnstile()
        first, second, root = Holder(ALICE, got), Holder(BOB, got), Holder(ROOT, got)
        assert stile.take(first)
        stile.over(first)
        taken = stile.take(second)
        stile.ask(second)
        stile.ask(root)
        await asyncio.sleep(0)
        stile.close()
        return taken, got

    assert asyncio.run(run()) == (False, [ROOT])


def test_one_that_has_no_use_for_its_turn_holds_nobody_up() -> None:
    async def run() -> list[int]:
        got: list[int] = []
        stile = Turnstile()
        holder = Holder(CAROL, got)
        stile.take(holder)
        stile.ask(Holder(ALICE, got, interested=False))
        stile.ask(Holder(BOB, got))
        stile.gone(holder)
        await asyncio.sleep(0)
        stile.close()
        return got

    assert asyncio.run(run()) == [ALICE, BOB]


def test_steps_are_charged_and_waiting_is_not() -> None:
    steps: list[float] = []

    async def work() -> str:
        begun = time.perf_counter()
        while time.perf_counter() - begun < 0.02:
            pass
        await asyncio.sleep(1)
        return "done"

    assert asyncio.run(timed(work, steps.append)) == "done"
    assert len(steps) >= 2
    assert steps[0] >= 0.02
    assert sum(steps[1:]) < 1


def test_a_task_of_a_call_is_charged_as_the_call() -> None:
    spent: list[float] = []

    async def work() -> None:
        begun = time.perf_counter()
        while time.perf_counter() - begun < 0.02:
            pass

    async def call() -> None:
        await asyncio.ensure_future(charged(work()))

    asyncio.run(timed(call, spent.append))
    of_the_call = len(spent)
    asyncio.run(charged(work()))
    assert max(spent) >= 0.02
    assert len(spent) == of_the_call


def test_a_cancellation_reaches_the_awaited() -> None:
    async def run() -> list[str]:
        said: list[str] = []

        async def work() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                said.append("cancelled")
                raise

        task = asyncio.ensure_future(timed(work, lambda _seconds: None))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return said

    assert asyncio.run(run()) == ["cancelled"]
