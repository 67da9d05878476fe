"""One that follows updates, as serve knows it, and the shape of what it is told. Decides nothing.

`luod.daemon.updates.participants` makes followers, and `luod.daemon.updates.coordinator` waits for them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from luod.daemon.updates.mailbox import Mailbox
from luod.ipc.interfaces.updates import DeclaredFile, DeclaredSession, Event, EventKind, FrozenDevice, State, When
from luod.ipc.server.peer import Peer

_DEVICE: Final = "vfio"
"""A declared file's kind that the kernel freezes."""


@dataclass
class Follower:
    """A connection that follows. `peer` is its; it lives as long as the connection."""

    id: int
    secret: str
    name: str
    peer: Peer
    sessions: tuple[DeclaredSession, ...] = ()
    ended: set[str] = field(default_factory=set)
    """Declared sessions that were released since it declared or voted. One of the same name is another session."""
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


def event(
    kind: EventKind,
    state: State,
    *,
    participant: str | None = None,
    update: str | None = None,
    generation: int | None = None,
    deadline: float | None = None,
    reason: str | None = None,
    frozen_devices: list[FrozenDevice] | None = None,
) -> Event:
    return Event(
        event=kind,
        state=state,
        participant=participant,
        update=update,
        generation=generation,
        deadline=deadline,
        reason=reason,
        frozen_devices=frozen_devices,
    )
