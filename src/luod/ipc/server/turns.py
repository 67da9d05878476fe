"""The order in which connections are read: one message of one connection at a time, shared fairly among users.

`Turns` is the order itself: pure, no loop, no clock, no sockets. `Turnstile` applies it in a running loop: it gives one
turn at a time, and the holder says when it is over. `timed` measures the steps of a coroutine, so that a user is
charged for what its calls cost. What is read and answered in a turn is `luod.ipc.server.wire`.
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
"""Seconds after which half of what a user spent is forgotten."""
SHARE: Final = 8
"""Of so many turns a rank that waits gets one, whatever the ranks before it ask for."""
TURN_SECONDS: Final = 1e-4
"""The least a turn is charged: what it costs the loop to see, grant and read a message, however small."""
HOLD_SECONDS: Final = 1.0
"""A holder that has not ended its turn by then loses it."""
_MOST_ACCOUNTS: Final = 2048
_MOST_SCALE: Final = 2.0**40


class Turns(Generic[T]):
    """Who waits for a turn, and what each user has spent.

    Root goes first, then users in `favoured`, then all others. Among users of one rank the one goes first that has
    spent the least processor time of late, and the connections of a user take turns. No rank waits for ever: see SHARE.
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
        """Whether anybody waits."""
        return bool(self._waiting)

    def ask(self, uid: int, who: T) -> None:
        self._waiting.setdefault(uid, {})[who] = None

    def withdraw(self, uid: int, who: T) -> None:
        """Does nothing if `who` does not wait."""
        connections = self._waiting.get(uid, {})
        connections.pop(who, None)
        if not connections:
            self._waiting.pop(uid, None)

    def next(self) -> T | None:
        """Takes the next out of those that wait; None: nobody does."""
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
        """A user has spent this much. `now` is of a monotonic clock."""
        scale = 2.0 ** min((now - self._epoch) / HALF_LIFE, 1000.0)
        if scale > _MOST_SCALE or len(self._spent) >= _MOST_ACCOUNTS:
            self._rescale(scale, now)
            scale = 1.0
        self._spent[uid] = self._spent.get(uid, 0.0) + seconds * scale

    def _rescale(self, scale: float, now: float) -> None:
        """Makes `now` the epoch, and forgets users whose account is as good as empty; half of all if need be."""
        left = {uid: spent / scale for uid, spent in self._spent.items() if spent / scale >= TURN_SECONDS}
        if len(left) >= _MOST_ACCOUNTS // 2:
            left = dict(sorted(left.items(), key=lambda item: item[1])[-_MOST_ACCOUNTS // 2 :])
        self._spent, self._epoch = left, now

    def spent(self, uid: int) -> float:
        """A number to compare users by."""
        return self._spent.get(uid, 0.0)


class Holder(Protocol):
    """What is given turns: a connection of the user `uid`."""

    @property
    def uid(self) -> int: ...

    def granted(self) -> bool:
        """The turn is its own until it calls `over`. False: it has no use for it any more."""
        ...


class Turnstile:
    """Gives turns in a running loop: at once where nobody waits, else in the order of `turns`."""

    def __init__(self, turns: Turns[Holder] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._turns: Turns[Holder] = Turns() if turns is None else turns
        self._holder: Holder | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._granting = False

    def take(self, who: Holder) -> bool:
        """Takes the turn at once. False: somebody has it, or waits; then `ask`."""
        if self._holder is not None or self._turns:
            return False
        self._hold(who)
        return True

    def ask(self, who: Holder) -> None:
        """`who.granted` is called once, unless `gone` is called before."""
        self._turns.ask(who.uid, who)
        self._grant_soon()

    def over(self, who: Holder) -> None:
        """Ends the turn of `who`. Does nothing if it has none."""
        if self._holder is who:
            self._release()
            self._grant_soon()

    def gone(self, who: Holder) -> None:
        """`who` wants no turn any more, and has none."""
        self._turns.withdraw(who.uid, who)
        self.over(who)

    def charge(self, uid: int, seconds: float) -> None:
        self._turns.charge(uid, seconds, self._loop.time())

    def close(self) -> None:
        self._release()

    def _hold(self, who: Holder) -> None:
        self._holder = who
        # So that no mistake in a holder stops everybody.
        self._patience = self._loop.call_later(HOLD_SECONDS, self.over, who)
        self.charge(who.uid, TURN_SECONDS)

    def _release(self) -> None:
        self._holder = None
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _grant_soon(self) -> None:
        if self._turns and self._holder is None and not self._granting:
            self._granting = True
            # Soon, not now: so that those that became readable in this turn of the loop are compared first.
            self._loop.call_soon(self._grant)

    def _grant(self) -> None:
        self._granting = False
        while self._holder is None and (who := self._turns.next()) is not None:
            self._hold(who)
            if not who.granted():
                self._release()


_charge: ContextVar[Callable[[float], None] | None] = ContextVar("charge", default=None)


async def timed(begin: Callable[[], Awaitable[T]], charge: Callable[[float], None]) -> T:
    """Runs what `begin` makes. `charge` is told the seconds of each of its steps, from one suspension to the next."""
    _charge.set(charge)
    return await _Timed(begin(), charge)


async def charged(awaitable: Awaitable[T]) -> T:
    """Runs a part of a call that is a task of its own, and charges its steps as the call's; outside of a call it
    charges nothing.
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
