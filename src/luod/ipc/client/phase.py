"""What luod tells a participant, as far as `luod.Phase` and `luod.AsyncPhase` are the same: all but making calls.

What the events are is `luod.ipc.client.participation`.
"""

from __future__ import annotations

import time
from typing import Final

from luod.ipc.client import participation
from luod.ipc.client.failure import Failure
from luod.ipc.client.participation import Event, Participation
from luod.ipc.client.sessions import Exchange
from luod.ipc.types.phases import News
from luod.ipc.types.updates import FrozenDevice

_NO_VOTE: Final = "the workload left the phase without a vote"


class Told:
    """An event, and until when it can be voted on."""

    def __init__(self, part: Participation, failure: Failure, event: Event) -> None:
        self.event = event
        self._failure = failure
        self._voted = False
        self._part = part
        self._secret = part.secret
        self._ends = None if event.deadline is None else time.monotonic() + event.deadline

    @property
    def kind(self) -> News:
        """preparing, granted, freezing, jumping, cancelled or lost, as docs/updates.md tells them."""
        return self.event.kind

    @property
    def generation(self) -> int | None:
        """The update's number. None: the update is over, and luod was not there to say which it was."""
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
        """Seconds until the vote has to be there; None where no vote is awaited."""
        return None if self._ends is None else max(0.0, self._ends - time.monotonic())

    @property
    def voted(self) -> bool:
        """Whether a vote was given."""
        return self._voted

    @property
    def awaits_vote(self) -> bool:
        """Whether `ready` or `veto` is to be said now. Not while `granted` is to come first."""
        waits = self.event.votes_in is not None and not participation.awaits_grant(self.event, self._part.planned)
        return waits and not self._voted

    def _ballot(self, reason: str | None) -> Exchange[bool]:
        self._voted = True
        return participation.vote(self._secret, self.event, reason)

    def _frozen_name(self, of: str | None) -> str:
        return self._part.frozen_name(self.event, of)

    def _enter(self) -> None:
        self._failure.entered(self.event)

    def _veto_on_leaving(self, error: BaseException | None) -> str | None:
        """Returns the reason of the veto that leaving `with` is, with this exception or none; None: it is no veto."""
        if error is not None:
            # Also for an exception that goes on, such as KeyboardInterrupt: luod must not wait for this participant.
            return None if self.event.votes_in is None else participation.said_of(error)
        return _NO_VOTE if self.awaits_vote else None

    def _leave(self, error: BaseException | None, counted: bool) -> bool:
        """Returns whether the exception ends at `with`. `counted`: luod took the veto.

        Raises what an earlier block of the update raised, when this is where the guest was resumed.
        """
        return self._failure.left(self.event, error, counted=counted)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.kind} of {self._part.name}>"
