"""The common parts of `luod.Participant` and `luod.AsyncParticipant`, and of their phases, without the calls.

`luod.ipc.client.participation` has the events.
"""

from __future__ import annotations

import os
import time
import weakref

from luod.ipc.client import participation
from luod.ipc.client.failure import Failure
from luod.ipc.client.participation import Participation
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from luod.ipc.client.participation import Carried, Event, PlannedFile
    from luod.ipc.client.sessions import Exchange
    from luod.ipc.types.phases import News
    from luod.ipc.types.updates import FrozenDevice
    from luod.linux import HasFileno

_NO_VOTE: Final = "the workload left the phase without a vote"


class Told:
    """An event, and the deadline of its vote."""

    def __init__(self, part: Participation, failure: Failure, event: Event) -> None:
        self.event = event
        self._failure = failure
        self._voted = False
        self._part = part
        self._secret = part.secret
        self._ends = None if event.deadline is None else time.monotonic() + event.deadline

    @property
    def kind(self) -> News:
        """Returns preparing, granted, freezing, jumping, cancelled or lost, as in docs/updates.md."""
        return self.event.kind

    @property
    def generation(self) -> int | None:
        """Returns the update's number. None: the update is over, and luod was not there to report its number."""
        return self.event.generation

    @property
    def reason(self) -> str | None:
        """Returns the reason of cancelled and lost, for people."""
        return self.event.reason

    @property
    def frozen_devices(self) -> tuple[FrozenDevice, ...] | None:
        """Returns the declared devices that a failed kexec froze; of cancelled (docs/hazards.md, H22).

        Each was reset, and must be set up again, or is unusable until its driver is bound again: `luod.vfio.state`
        shows which, and `luod.vfio.revive` repairs it once the session is released. None: luod does not know; check
        every device.
        """
        return self.event.frozen_devices

    @property
    def seconds_left(self) -> float | None:
        """Returns the seconds until the vote is due; None if no vote is awaited.

        They count from the return of `next`: an event that waited to be read is due earlier.
        """
        return None if self._ends is None else max(0.0, self._ends - time.monotonic())

    @property
    def voted(self) -> bool:
        """Returns whether a vote was given."""
        return self._voted

    @property
    def awaits_vote(self) -> bool:
        """Returns whether `ready` or `veto` is due now. Not before an expected `granted`."""
        waits = self.event.votes_in is not None and not participation.awaits_grant(self.event, self._part.planned)
        return waits and not self._voted

    def _ballot(self, reason: str | None) -> Exchange[bool]:
        self._voted = True
        if reason is None:
            return participation.ready(self._part, self._secret, self.event)
        return participation.vote(self._secret, self.event, reason)

    def _frozen_name(self, of: str | None) -> str:
        return self._part.frozen_name(self.event, of)

    def _enter(self) -> None:
        self._failure.entered(self.event)

    def _veto_on_leaving(self, error: BaseException | None) -> str | None:
        """Returns the reason of the veto when `with` ends with this exception or without one; None: no veto."""
        if error is not None:
            # Also for an exception that is not kept, such as KeyboardInterrupt: luod must not wait for this
            # participant.
            return None if self.event.votes_in is None else participation.said_of(error)
        return _NO_VOTE if self.awaits_vote else None

    def _leave(self, error: BaseException | None, counted: bool) -> bool:
        """Returns whether the exception ends at `with`. `counted`: luod accepted the veto.

        Raises the exception of an earlier block of the update, if the guest was resumed here.
        """
        return self._failure.left(self.event, error, counted=counted)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.kind} of {self._part.name}>"


class ParticipantBase:
    """A participant, and the events that it has not handed out yet."""

    _connection: HasFileno | None

    def __init__(self, name: str, sessions: Iterable[Carried], planned: Iterable[PlannedFile]) -> None:
        self.name = name
        self._part = Participation(name, sessions, planned)
        self._failure = Failure()
        self._pending: list[Event] = []
        self._connection = None
        self._pause = 0.0
        self._declares_at = 0.0
        """When a Declare that luod refused is tried again, by the monotonic clock."""
        self._closed = False
        _living.add(self)

    def fileno(self) -> int:
        """Returns an fd that is readable when `next(0)` has work; another one after a restart of luod.

        The participant owns the fd. It is -1 while luod is gone: run `next(0)` periodically. A loop of asyncio has no
        use for it.
        """
        return -1 if self._connection is None else self._connection.fileno()

    def close(self) -> None:
        """Stops taking part. An update that waits for this participant is cancelled.

        The sessions are still judged at a kexec: see `declare`. A call of `next` that waits returns None. Raises the
        exception of a block of the update that was not raised yet, unless it is run where the guest resumes.
        """
        self._close()
        self._failure.raise_at_close()

    def _close(self) -> None:
        self._closed = True
        self._drop()
        self._part.close()

    def _drop(self) -> None:
        """Closes the connection."""
        raise NotImplementedError

    @property
    def _declares_now(self) -> bool:
        return self._part.declares and time.monotonic() >= self._declares_at

    def _put_off_declaring(self) -> None:
        """Has the events that follow read first, in a program that calls `next` again at once."""
        self._declares_at = time.monotonic() + participation.AGAIN_LAST

    def _put(self, event: Event | None) -> None:
        if event is not None:
            self._pending.append(event)

    def _left(self, error: BaseException | None) -> None:
        """Ends `with`. Raises the exception of a block of the update that was not raised yet."""
        self._close()
        self._failure.raise_again(error)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


_living: weakref.WeakSet[ParticipantBase] = weakref.WeakSet()


def _leave_to_parent() -> None:
    for participant in _living:
        participant._closed = True
        participant._drop()


os.register_at_fork(after_in_child=_leave_to_parent)
