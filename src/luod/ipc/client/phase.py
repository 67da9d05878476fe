"""What luod tells a participant, as far as `luod.Phase` and `luod.aio.Phase` are the same: all but making calls.

What the events are is `luod.ipc.client.participation`. Used by `luod.participant` and `luod.aio.participant`.
"""

from __future__ import annotations

import time

from luod.errors import WrongPhase
from luod.ipc.client import participation
from luod.ipc.client.participation import Event, FrozenDevice, Kind, Participation
from luod.ipc.client.sessions import Exchange


class Told:
    """An event, until when it can be voted on, and what came of it."""

    def __init__(self, part: Participation, event: Event) -> None:
        self.event = event
        self.failure: Exception | None = None
        """What the body of `with` raised; None where it only raised that the update is over (WrongPhase)."""
        self.voted = False
        self._part = part
        self._secret = part.secret
        self._ends = None if event.deadline is None else time.monotonic() + event.deadline

    @property
    def kind(self) -> Kind:
        """preparing, granted, freezing, jumping, cancelled or lost, as docs/updates.md tells them."""
        return self.event.kind

    @property
    def generation(self) -> int | None:
        """The update's number. None: it is over, and luod is not there to say."""
        return self.event.generation

    @property
    def reason(self) -> str | None:
        """Of cancelled and lost, for people."""
        return self.event.reason

    @property
    def frozen_devices(self) -> tuple[FrozenDevice, ...] | None:
        """Of cancelled: the declared devices that are not as they were, since a jump was tried that froze them (H22).
        Each was reset, and is to be set up anew, or is dead until its driver is bound again: `luod.vfio.state` tells
        which, and `luod.vfio.revive` mends it once the session is released. None: nobody can tell; look at each.
        """
        return self.event.frozen_devices

    @property
    def seconds_left(self) -> float | None:
        """To vote; None where no vote is awaited."""
        return None if self._ends is None else max(0.0, self._ends - time.monotonic())

    def _ballot(self, reason: str | None) -> Exchange[bool]:
        self.voted = True
        return participation.vote(self._secret, self.event, reason)

    def _frozen_name(self, of: str | None) -> str:
        return self._part.frozen_name(self.event, of)

    @property
    def _votes_ready(self) -> bool:
        """Whether `with`, left normally, is to vote."""
        waits = self.event.votes_in is not None and not participation.awaits_grant(self.event, self._part.planned)
        return waits and not self.voted

    def _failed(self, error: BaseException, counted: bool) -> bool:
        """Whether an exception ends at `with`, which has vetoed with it. Those that end a program go on.

        `counted`: luod took the veto. Otherwise WrongPhase only says that the update is over, as the next phase does.
        """
        if isinstance(error, WrongPhase) and not counted:
            return True
        if isinstance(error, Exception):
            self.failure = error
            return True
        return False

    def __repr__(self) -> str:
        return f"<Phase {self.kind} of {self._part.name}>"
