"""The order in which connections are read: one message of one connection at a time, shared fairly among users.

`Turns` is the order itself: pure, no loop, no clock, no sockets. `Turnstile` applies it in a running loop: it gives one
turn at a time, and the holder ends it. `timed` measures the steps of a coroutine, so that a user is charged for its
calls. `luod.ipc.server.wire` reads and answers in a turn.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Generator
from contextvars import ContextVar
from typing import Any, Final, Generic, Protocol, TypeVar

T = TypeVar("T")

ROOT: Final = 0
HALF_LIFE: Final = 10.0
"""The half-life of a user's spent time in seconds."""
SHARE: Final = 8
"""One of so many turns goes to a rank that waits, even if the ranks before it use all."""
TURN_SECONDS: Final = 1e-4
"""The minimum charge of a turn: the loop's time to see, grant and read a small message."""
HOLD_SECONDS: Final = 1.0
"""A holder that has not ended its turn by then loses it."""
_MOST_ACCOUNTS: Final = 2048
_MOST_SCALE: Final = 2.0**40


class Turns(Generic[T]):
    """The connections that wait for a turn, and the time that each user has spent.

    Root goes first, then users in `favoured`, then all others. Among users of one rank the one goes first that has
    spent the least recent processor time, and the connections of a user take turns. No rank waits for ever: see SHARE.
    """

    def __init__(self, favoured: Callable[[], Collection[int]] = frozenset) -> None:
        self._favoured = favoured
        self._waiting: dict[int, dict[T, None]] = {}
        self._passed = [0, 0, 0]
        """By rank: the turns that went to a rank before it while it waited."""
        self._spent: dict[int, float] = {}
        """By uid, in seconds as of `_epoch`: what is spent later weighs more, so that nothing has to be decayed."""
        self._epoch = 0.0

    def __bool__(self) -> bool:
        """Returns whether a connection waits."""
        return bool(self._waiting)

    def ask(self, uid: int, who: T) -> None:
        self._waiting.setdefault(uid, {})[who] = None

    def withdraw(self, uid: int, who: T) -> None:
        """Removes `who`. Does nothing if it does not wait."""
        connections = self._waiting.get(uid, {})
        connections.pop(who, None)
        if not connections:
            self._waiting.pop(uid, None)

    def next(self) -> T | None:
        """Returns the next connection and removes it; None if no connection waits."""
        if not self._waiting:
            return None
        favoured = self._favoured()
        first: dict[int, int] = {}
        for uid in self._waiting:
            rank = 0 if uid == ROOT else 1 if uid in favoured else 2
            if rank not in first or self.spent(uid) < self.spent(first[rank]):
                first[rank] = uid
        rank = self._rank(first)
        uid = first[rank]
        connections = self._waiting[uid]
        who = next(iter(connections))
        self.withdraw(uid, who)
        return who

    def _rank(self, waiting: Collection[int]) -> int:
        overdue = [rank for rank in waiting if self._passed[rank] >= SHARE - 1]
        chosen = min(overdue or waiting)
        for rank in range(len(self._passed)):
            if rank == chosen or rank not in waiting:
                self._passed[rank] = 0
            elif rank > chosen:
                self._passed[rank] += 1
        return chosen

    def charge(self, uid: int, seconds: float, now: float) -> None:
        """Adds to the time that a user has spent. `now` is of a monotonic clock."""
        scale = 2.0 ** min((now - self._epoch) / HALF_LIFE, 1000.0)
        if scale > _MOST_SCALE or len(self._spent) >= _MOST_ACCOUNTS:
            self._rescale(scale, now)
            scale = 1.0
        self._spent[uid] = self._spent.get(uid, 0.0) + seconds * scale

    def _rescale(self, scale: float, now: float) -> None:
        """Makes `now` the epoch, and forgets users with nearly empty accounts; half of all if necessary."""
        left = {uid: spent / scale for uid, spent in self._spent.items() if spent / scale >= TURN_SECONDS}
        if len(left) >= _MOST_ACCOUNTS // 2:
            left = dict(sorted(left.items(), key=lambda item: item[1])[-_MOST_ACCOUNTS // 2 :])
        self._spent, self._epoch = left, now

    def spent(self, uid: int) -> float:
        """Returns a number for comparing users."""
        return self._spent.get(uid, 0.0)


class Holder(Protocol):
    """A connection of the user `uid`, which can have a turn."""

    @property
    def uid(self) -> int: ...

    def granted(self) -> bool:
        """Takes the turn until it uses `over`, now or later. Returns False if it does not need the turn any more."""
        ...


class Turnstile:
    """Gives turns in a running loop: at once if no other connection waits, otherwise in the order of `turns`."""

    def __init__(self, turns: Turns[Holder] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._turns: Turns[Holder] = Turns() if turns is None else turns
        self._holder: Holder | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._granting = False

    def take(self, who: Holder) -> bool:
        """Takes the turn at once. Returns False if another has it, or had it in this turn of the loop, or waits; use
        `ask` then.
        """
        if self._holder is not None or self._turns or self._granting:
            return False
        self._hold(who)
        return True

    def ask(self, who: Holder) -> None:
        """Requests a turn. `who.granted` runs once, unless `gone` is used before."""
        self._turns.ask(who.uid, who)
        self._grant_soon()

    def over(self, who: Holder) -> None:
        """Ends the turn of `who`. Does nothing if it has none."""
        if self._holder is who:
            self._release()
            self._grant_soon()

    def gone(self, who: Holder) -> None:
        """Withdraws the request of `who`, and ends its turn."""
        self._turns.withdraw(who.uid, who)
        self.over(who)

    def charge(self, uid: int, seconds: float) -> None:
        self._turns.charge(uid, seconds, self._loop.time())

    def close(self) -> None:
        self._release()

    def _hold(self, who: Holder) -> None:
        self._holder = who
        # A mistake in a holder must not stop all others.
        self._patience = self._loop.call_later(HOLD_SECONDS, self.over, who)
        self.charge(who.uid, TURN_SECONDS)

    def _release(self) -> None:
        self._holder = None
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _grant_soon(self) -> None:
        if self._holder is None and not self._granting:
            self._granting = True
            # Soon, not now: connections that became readable in this turn of the loop are compared first. None of them
            # takes the turn before, even if the one that had it was answered already.
            self._loop.call_soon(self._grant)

    def _grant(self) -> None:
        self._granting = False
        while self._holder is None and (who := self._turns.next()) is not None:
            self._hold(who)
            if who.granted():
                return
            self._release()


_charge: ContextVar[Callable[[float], None] | None] = ContextVar("charge", default=None)


async def timed(begin: Callable[[], Awaitable[T]], charge: Callable[[float], None]) -> T:
    """Runs the awaitable of `begin`. `charge` gets the seconds of each of its steps, between two suspensions."""
    _charge.set(charge)
    return await _Timed(begin(), charge)


async def charged(awaitable: Awaitable[T]) -> T:
    """Runs a part of a call that is a task of its own, and charges its steps as the call's.

    Outside of a call it charges nothing.
    """
    charge = _charge.get()
    return await (awaitable if charge is None else _Timed(awaitable, charge))


class _Timed(Awaitable[T]):
    def __init__(self, awaitable: Awaitable[T], charge: Callable[[float], None]) -> None:
        self._awaitable = awaitable
        self._charge = charge

    def __await__(self) -> Generator[Any, Any, T]:
        steps = self._awaitable.__await__()
        thrown: BaseException | None = None
        while True:
            begun = time.perf_counter()
            try:
                awaited = next(steps) if thrown is None else _throw(steps, thrown)
            except StopIteration as end:
                result: T = end.value
                return result
            finally:
                thrown = None
                self._charge(time.perf_counter() - begun)
            try:
                yield awaited
            except BaseException as error:  # noqa: BLE001 - a cancellation is the awaitable's
                thrown = error


def _throw(steps: Generator[Any, Any, Any], error: BaseException) -> Any:
    return steps.throw(error)
