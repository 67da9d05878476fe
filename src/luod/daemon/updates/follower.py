"""A participant that follows updates, as data. It decides nothing.

`luod.daemon.updates.participants` makes followers, and `luod.daemon.updates.coordinator` waits for them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from luod.daemon.updates.mailbox import Mailbox
from luod.ipc.server.peer import Peer
from luod.ipc.types.updates import DeclaredFile, DeclaredSession, Event, FrozenDevice, When

_DEVICE: Final = "vfio"
"""The kind of a declared file that the kernel freezes."""


@dataclass
class Follower:
    """A connection that follows. `peer` belongs to it, and lives as long as the connection."""

    id: int
    secret: str
    name: str
    peer: Peer
    sessions: tuple[DeclaredSession, ...] = ()
    ended: set[str] = field(default_factory=set)
    """Declared sessions that were released since it declared or voted.

    A later one of the same name is another session.
    """
    events: Mailbox[Event] = field(default_factory=Mailbox)

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
