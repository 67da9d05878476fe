"""A VMM's part in updates, blocking: `luod.Participant`.

    with luod.Participant("vm-1", [session]) as participant:
        for phase in participant:
            with phase:
                if phase.kind == "preparing":
                    phase.ready()
                elif phase.kind == "freezing":
                    guest.pause()
                    with phase.create() as frozen:
                        frozen.preserve(guest.state(), name="state")
                    phase.ready()
                elif phase.kind == "cancelled":
                    guest.resume()

No loop and no thread, since VMMs fork: a VMM with a loop polls `fileno()` and calls `next(0)`. What is told and when
is `luod.ipc.client.participation`, the same for asyncio is `luod.AsyncParticipant`, the story for any language
docs/updates.md. The other side of the jump is `Client.restore`.
"""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self

from luod.client import Client, HeldOutgoingSession
from luod.errors import BadInput, DaemonUnreachable, LuodError, ProtocolError
from luod.ipc.client import participation, sessions
from luod.ipc.client.connection import Connection, perform
from luod.ipc.client.failure import Failure
from luod.ipc.client.participation import Carried, Event, FrozenDevice, Participation, PlannedFile
from luod.ipc.client.phase import Told

__all__ = ["Participant", "Phase", "PlannedFile", "FrozenDevice"]  # noqa: RUF022 - most important first


class Phase(Told):
    """What luod tells, and what can be said to it.

    In `with` a vote that is awaited has to be said, by `ready` or `veto`. A block that ends without it is a veto, with
    that as its reason. So is a block that raises, with the exception's text; the update is cancelled, and the exception
    is raised again when the guest was resumed: at the end of the `with` of the phase cancelled (or lost), by the next
    call of `Participant.next` where that phase was not entered, or by `Participant.close`. Where no vote is awaited,
    `with` changes nothing.
    """

    def __init__(self, participant: Participant, event: Event) -> None:
        super().__init__(participant._part, participant._failure, event)
        self._participant = participant

    def ready(self) -> bool:
        """Votes: this phase is done. In freezing it says that nothing of the guest runs, and that no thread is, or will
        be, in an ioctl on a session until `cancelled`.

        False: it did not count, since the update or the connection is over; another phase says so. BadInput: no vote is
        awaited at this phase. LuodError: luod's own.
        """
        return self._vote(None)

    def veto(self, reason: str) -> bool:
        """Votes: not now. `reason` is for people, up to 500 characters. Answer and errors as of `ready`."""
        return self._vote(reason)

    def _vote(self, reason: str | None) -> bool:
        return self._participant._perform(self._ballot(reason))

    def create(self, of: str | None = None) -> HeldOutgoingSession:
        """Creates, in freezing, the session NAME#GENERATION for what is written now, beside the declared session `of`,
        not to be named when it is the only one. The caller may close it when all is preserved; when the update is
        cancelled it is closed, and luod has dropped it. Errors of `Client.create`; BadInput.

        WrongPhase: the update is over, and no session was created. DaemonUnreachable: luod was killed. In `with` these
        are no failures: `cancelled` comes next, and there the guest resumes.
        """
        client, name = self._participant._client, self._frozen_name(of)
        bare = self._participant._perform(sessions.create(name, client.path, manifest=True))
        session = HeldOutgoingSession(client, name, bare)
        self._part.froze(session)
        return session

    def __enter__(self) -> Self:
        self._enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        reason, counted = self._veto_on_leaving(error), False
        if reason is not None:
            with contextlib.suppress(LuodError):
                counted = self.veto(reason)
        return self._leave(error, counted)


class Participant:
    """A workload that takes part in updates. It follows from the beginning of `with` on, or from the first `next`,
    until `close`, or the end of `with`.

    luod may die and come back meanwhile: the participant follows and declares again by itself, and a phase `cancelled`
    tells that the update is over when it is. A forked child is no participant: its copy of the connection is closed.
    """

    def __init__(
        self,
        name: str,
        sessions: Iterable[Carried],
        *,
        planned: Iterable[PlannedFile] = (),
        client: Client | None = None,
    ) -> None:
        """Connects to nothing yet. `name` is what the operator is shown. `sessions`, the caller's, are those it answers
        for, with all that is preserved in them: carried over a jump that it was not ready for, they are torn. `planned`
        are files it will preserve in an update, see `PlannedFile`. `client` is luod's, None the one at the usual
        socket. BadInput.
        """
        self.name = name
        self._client = Client() if client is None else client
        self._part = Participation(name, sessions, planned)
        self._failure = Failure()
        self._pending: deque[Event] = deque()
        self._connection: Connection | None = None
        self._pause = 0.0
        self._closed = False
        _living.add(self)

    def declare(self, sessions: Iterable[Carried], *, planned: Iterable[PlannedFile] = ()) -> None:
        """Answers for these sessions from now on, and for no others. What is preserved in them later is told to luod by
        itself, at `preparing`. Unreachable, luod is told when it is back.

        NoSuchSession, CallFailed (DeclaredByAnother by name, …), Refused, BadInput.
        """
        self._part.carry(sessions, planned)
        if self._connection is not None:
            with contextlib.suppress(DaemonUnreachable):
                self._perform(participation.declare(self._part))

    def next(self, timeout: float | None = None) -> Phase | None:
        """Returns the next phase; waits for it, for ever or for `timeout` seconds, after which it is None. While luod
        is gone, this looks for it.

        Errors of `declare`, when a luod that was started again knows nothing of a session any more; the participant
        goes on, and the next call tries once more. What a block of a cancelled update raised, where it was not raised
        yet. BadInput: the participant is closed.
        """
        self._failure.raise_overdue()
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            while not self._pending:
                if self._closed:
                    raise BadInput("the participant is closed", hint="make another one")
                try:
                    if self._connection is None:
                        self._follow()
                    elif self._part.undeclared:
                        self._perform(participation.declare(self._part))
                    self._take(participation.left(end, 0.5 if self._part.undeclared else None))
                    self._pause = 0.0
                except (DaemonUnreachable, ProtocolError):
                    self._broken()
                    self._pause = participation.pause_after(self._pause)
                    if not self._pending:
                        time.sleep(participation.left(end, self._pause) or 0.0)
                if not self._pending and end is not None and time.monotonic() >= end:
                    return None
            event = self._pending.popleft()
            reason = self._failure.vetoes(event)
            if reason is None:
                return Phase(self, event)
            with contextlib.suppress(LuodError):
                self._perform(participation.vote(self._part.secret, event, reason))

    def run(
        self,
        *,
        preparing: Callable[[Phase], object] | None = None,
        granted: Callable[[Phase], object] | None = None,
        freezing: Callable[[Phase], object] | None = None,
        jumping: Callable[[Phase], object] | None = None,
        cancelled: Callable[[Phase], object] | None = None,
        lost: Callable[[Phase], object] | None = None,
    ) -> None:
        """Calls these for the phases, each in `with phase`, until `close`. A phase without one is `ready` at once; one
        that is given has to vote.

        What preparing, granted or freezing raises is a veto, and comes out of here when cancelled or lost was called;
        the participant still follows then, and this can be called again. What the others raise comes out at once.
        """
        calls = {"preparing": preparing, "granted": granted, "freezing": freezing}
        calls |= {"jumping": jumping, "cancelled": cancelled, "lost": lost}
        for phase in self:
            call = calls[phase.kind]
            with phase:
                if call is not None:
                    call(phase)
                elif phase.awaits_vote:
                    phase.ready()

    def fileno(self) -> int:
        """Returns an fd that is readable when `next(0)` has something to do: another one after luod was started again.
        -1 while luod is gone: call `next(0)` now and then.
        """
        return -1 if self._connection is None else self._connection.fileno()

    def close(self) -> None:
        """Takes part no longer. An update that waits for it is cancelled. The sessions are judged on: see `declare`.

        Raises what a block of the update raised that was not raised yet, unless it is called where the guest resumes.
        """
        self._close()
        self._failure.raise_at_close()

    def _close(self) -> None:
        self._closed = True
        self._drop()
        self._part.close()

    def _follow(self) -> None:
        """Makes a connection the participant, and declares. Its errors leave none."""
        connection = Connection(self._client.path, timeout=self._client.timeout)
        try:
            connection.begin(self._part.follow())
            reply = connection.next(self._client.timeout)
            if reply is None:
                raise DaemonUnreachable(f"luod at {self._client.path} did not answer in time")
            self._connection = connection
            with contextlib.closing(reply):
                self._put(self._part.begun(reply))
            self._perform(participation.declare(self._part))
        except BaseException:
            self._connection = None
            connection.close()
            raise

    def _take(self, seconds: float | None) -> None:
        """Takes one event, if one comes in `seconds`."""
        assert self._connection is not None
        reply = self._connection.next(seconds)
        if reply is None:
            return
        with contextlib.closing(reply):
            event = self._part.told(reply)
        self._put(event)
        if event is not None and event.kind == "preparing":
            # So that luod knows what was preserved since. What is planned for `preparing` is granted after this.
            self._perform(participation.declare(self._part))

    def _put(self, event: Event | None) -> None:
        if event is not None:
            self._pending.append(event)

    def _broken(self) -> None:
        self._drop()
        self._put(self._part.broken())

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _perform(self, steps: sessions.Exchange[sessions.T]) -> sessions.T:
        return perform(steps, self._client.path, self._client.timeout)

    def __iter__(self) -> Iterator[Phase]:
        """The phases as they come, until `close`."""
        while not self._closed:
            phase = self.next()
            if phase is not None:
                yield phase

    def __enter__(self) -> Self:
        """Follows, and declares. DaemonUnreachable, Refused (the name), errors of `declare`."""
        if self._connection is None:
            try:
                self._follow()
            except BaseException:
                self._close()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        self._failure.raise_again(error)

    def __repr__(self) -> str:
        return f"<Participant {self.name}>"


_living: weakref.WeakSet[Participant] = weakref.WeakSet()


def _leave_to_parent() -> None:
    for participant in _living:
        participant._closed = True
        participant._drop()


os.register_at_fork(after_in_child=_leave_to_parent)
