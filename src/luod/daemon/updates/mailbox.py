"""Queued events for one connection. Its generator takes them, and they are known to have been sent.

It is never long: an update has a few events, and `luod.ipc.server.wire` drops a connection that does not take them.
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
        """Adds an item. Does nothing after the close."""
        if self.open:
            self._waiting.append(item)
            self._some.set()
            self._none.clear()

    async def next(self) -> T:
        """Returns the oldest item, which stays until `sent`."""
        await self._some.wait()
        return self._waiting[0]

    def sent(self) -> None:
        """Removes the oldest item, which was sent."""
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
