"""A participant that follows updates, as data, and the queue of its events. It decides nothing.

`luod.daemon.updates.participants` makes followers, and `luod.daemon.updates.coordinator` waits for them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

from luod.ipc.types.updates import DeclaredFile, DeclaredSession, Event, FrozenDevice, When
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection

    from luod.ipc.server.peer import Peer

_DELIVERY_SECONDS: Final = 5.0
"""The time for all participants to take an event, before the kexec, or before serve writes to the disk again."""
_DEVICE: Final = "vfio"
"""The kind of a declared file that the kernel freezes."""


class EventQueue:
    """Queued events for one connection. Its generator takes them, and they are known to have been sent.

    It is never long: an update has a few events, and `luod.ipc.server.wire` drops a connection that does not take them.
    """

    def __init__(self) -> None:
        self._open = True
        self._waiting: deque[Event] = deque()
        self._some = asyncio.Event()
        self._none = asyncio.Event()
        self._none.set()

    def put(self, event: Event) -> None:
        """Adds an event. Does nothing after the close."""
        if self._open:
            self._waiting.append(event)
            self._some.set()
            self._none.clear()

    async def next(self) -> Event:
        """Returns the oldest event, which stays until `sent`."""
        await self._some.wait()
        return self._waiting[0]

    def sent(self) -> None:
        """Removes the oldest event, which was sent."""
        self._waiting.popleft()
        if not self._waiting:
            self._some.clear()
            self._none.set()

    def close(self) -> None:
        self._open = False
        self._none.set()

    @property
    def empty(self) -> bool:
        """Returns whether all is sent, or the queue is closed."""
        return self._none.is_set()

    async def delivered(self) -> None:
        """Returns when all is sent, or the queue is closed."""
        await self._none.wait()


class Follower:
    """A connection that follows. `peer` belongs to it, and lives as long as the connection."""

    def __init__(self, id: int, secret: str, name: str, peer: Peer, sessions: tuple[DeclaredSession, ...] = ()) -> None:
        self.id: Final = id
        self.secret: Final = secret
        self.name: Final = name
        self.peer: Final = peer
        self.sessions = sessions
        self.ended: set[str] = set()
        """Declared sessions that were released since it declared or voted.

        A later one of the same name is another session.
        """
        self.events: Final = EventQueue()

    def files(self, when: When) -> list[DeclaredFile]:
        return [file for session in self.sessions for file in session.files if file.when == when]

    @property
    def names(self) -> list[str]:
        return [session.name for session in self.sessions]

    @property
    def devices(self) -> list[FrozenDevice]:
        return [
            FrozenDevice(session.name, file.token, file.name)
            for session in self.sessions
            for file in session.files
            if file.kind == _DEVICE
        ]


async def delivered(followers: Collection[Follower]) -> None:
    """Returns when all have taken their events, or some have not in time."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DELIVERY_SECONDS):
            for follower in followers:
                await follower.events.delivered()
