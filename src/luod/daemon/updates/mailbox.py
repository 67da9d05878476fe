"""Events on their way to one connection: put by anybody, taken by its generator, and known to have been sent.

Never long: an update has a handful of events, and a connection that does not take them is dropped by
`luod.ipc.server.wire`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    def __init__(self) -> None:
        self.open = True
        self._waiting: deque[T] = deque()
        self._some = asyncio.Event()
        self._none = asyncio.Event()
        self._none.set()

    def put(self, item: T) -> None:
        """Does nothing when nobody takes any more."""
        if self.open:
            self._waiting.append(item)
            self._some.set()
            self._none.clear()

    async def next(self) -> T:
        """The oldest, which stays until `sent`."""
        await self._some.wait()
        return self._waiting[0]

    def sent(self) -> None:
        """The oldest is on its way for good."""
        self._waiting.popleft()
        if not self._waiting:
            self._some.clear()
            self._none.set()

    def close(self) -> None:
        self.open = False
        self._none.set()

    async def delivered(self) -> None:
        """Returns when all is sent, or the mailbox is closed."""
        await self._none.wait()
