"""A VMM's part in updates, blocking: `luod.Participant`.

    with luod.Participant("vm-1", [session]) as participant:
        for phase in participant:
            with phase:                       # leaving it votes `ready`; an exception in it is a veto
                if phase.kind == "freezing":
                    guest.pause()
                    with phase.create() as frozen:
                        frozen.preserve(guest.state(), name="state")
                elif phase.kind == "cancelled":
                    guest.resume()

No loop and no thread, since VMMs fork: whoever has a loop polls `fileno()` and calls `next(0)`. What is told and when
is `luod.ipc.client.participation`, the same for asyncio is `luod.aio`, the story for any language docs/updates.md. The
other side of the jump is `Client.arrive`.
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

from luod.client import Client
from luod.errors import BadInput, DaemonUnreachable, LuodError, ProtocolError
from luod.ipc.client import participation, sessions
from luod.ipc.client.connection import Connection, perform
from luod.ipc.client.participation import Event, Participation, PlannedFile
from luod.ipc.client.phase import Told
from luod.ipc.framing import SESSIONS_SOCKET
from luod.liveupdate import OutgoingSession

__all__ = ["Participant", "Phase", "PlannedFile"]


class Phase(Told):
    """What luod tells, and what can be said to it. In `with`: left normally it votes `ready`, left by an exception it
    vetoes with the exception's text, and the exception (`failure`) ends there: the guest goes on. So it is where votes
    are waited for, unless one was given by hand, or `granted` is to come first; elsewhere `with` does nothing.
    """

    def __init__(self, participant: Participant, event: Event) -> None:
        super().__init__(participant._part, event)
        self._participant = participant

    def ready(self) -> bool:
        """Votes: this phase is done. In freezing it says that nothing of the guest runs, and that no thread is, or will
        be, in an ioctl on a session until `cancelled`.

        False: it did not count, since the update or the connection is over; another phase says so. BadInput: nobody
        waits for a vote. LuodError: luod's own.
        """
        return self._vote(None)

    def veto(self, reason: str) -> bool:
        """Votes: not now. `reason` is for people, up to 500 characters. Answer and errors as of `ready`."""
        return self._vote(reason)

    def _vote(self, reason: str | None) -> bool:
        return self._participant._perform(self._ballot(reason))

    def create(self, of: str | None = None) -> OutgoingSession:
        """In freezing: the session NAME#GENERATION for what is written now, beside the declared session `of`, not to
        be named when it is the only one. The caller may close it when all is preserved; when the update is
        cancelled it is closed, and luod has let go of it. Errors of `Client.create`; BadInput.

        WrongPhase: the update is over, and no session was created. In `with` this is no failure: `cancelled` comes
        next, and there the guest resumes.
        """
        path = self._participant._client.path
        session = self._participant._perform(sessions.create(self._frozen_name(of), path, manifest=True))
        self._part.froze(session)
        return session

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None:
            if self._votes_ready:
                self.ready()
            return False
        if self.event.votes_in is None:
            return False
        # Also for an exception that goes on, such as KeyboardInterrupt: nobody is to wait for who will not vote.
        counted = False
        with contextlib.suppress(LuodError):
            counted = self.veto(participation.said_of(error))
        return self._failed(error, counted)


class Participant:
    """A workload that takes part in updates. It follows from when it is made until `close`, or the end of `with`.

    luod may die and come back meanwhile: the participant follows and declares again by itself, and a phase `cancelled`
    tells that the update is over when it is. A forked child is no participant: its copy of the connection is closed.
    """

    def __init__(
        self,
        name: str,
        sessions: Iterable[OutgoingSession],
        *,
        planned: Iterable[PlannedFile] = (),
        client: Client | None = None,
    ) -> None:
        """`name` is what the operator is shown. `sessions`, the caller's, are those it answers for, with all that is
        preserved in them: carried over a jump that it was not ready for, they are torn. `planned` are files it will
        preserve in an update, see `PlannedFile`. `client` is luod's, None the one at the usual socket.

        DaemonUnreachable, Refused (the name), NoSuchSession, CallFailed (DeclaredByAnother by name, …), BadInput.
        """
        self.name = name
        self._client = Client(SESSIONS_SOCKET) if client is None else client
        self._part = Participation(name, sessions, planned)
        self._pending: deque[Event] = deque()
        self._connection: Connection | None = None
        self._pause = 0.0
        self._closed = False
        try:
            self._follow()
        except BaseException:
            self.close()
            raise
        _living.add(self)

    def declare(self, sessions: Iterable[OutgoingSession], *, planned: Iterable[PlannedFile] = ()) -> None:
        """Answers for these sessions from now on, and for no others. What is preserved in them later is told to luod by
        itself, at `preparing`. Errors as of the constructor; unreachable, luod is told when it is back.
        """
        self._part.carry(sessions, planned)
        if self._connection is not None:
            with contextlib.suppress(DaemonUnreachable):
                self._perform(participation.declare(self._part))

    def next(self, timeout: float | None = None) -> Phase | None:
        """The next phase; waits for it, for ever or for `timeout` seconds, after which it is None. While luod is gone,
        this looks for it.

        Errors of `declare`, when a luod that was started again knows nothing of a session any more; the participant
        goes on, and the next call tries once more. BadInput: it is closed.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while not self._pending:
            if self._closed:
                raise BadInput("the participant is closed", hint="make another one")
            try:
                if self._connection is None:
                    self._follow()
                elif self._part.undeclared:
                    self._perform(participation.declare(self._part))
                self._take(_left(end, 0.5 if self._part.undeclared else None))
                self._pause = 0.0
            except (DaemonUnreachable, ProtocolError):
                self._broken()
                self._pause = participation.pause_after(self._pause)
                if not self._pending:
                    time.sleep(_left(end, self._pause) or 0.0)
            if not self._pending and end is not None and time.monotonic() >= end:
                return None
        return Phase(self, self._pending.popleft())

    def run(
        self,
        *,
        preparing: Callable[[Phase], object] | None = None,
        granted: Callable[[Phase], object] | None = None,
        freezing: Callable[[Phase], object] | None = None,
        jumping: Callable[[Phase], object] | None = None,
        cancelled: Callable[[Phase], object] | None = None,
        lost: Callable[[Phase], object] | None = None,
        failed: Callable[[Phase, Exception], object] | None = None,
    ) -> None:
        """Calls these for the phases, each in `with phase`, until `close`. One that is not given is `ready` at once.

        What preparing, granted or freezing raises is a veto; `failed` is told. What the others raise comes out of here:
        nobody else could know that a guest was not resumed.
        """
        calls = {"preparing": preparing, "granted": granted, "freezing": freezing}
        calls |= {"jumping": jumping, "cancelled": cancelled, "lost": lost}
        for phase in self:
            call = calls[phase.kind]
            with phase:
                if call is not None:
                    call(phase)
            if phase.failure is not None and failed is not None:
                failed(phase, phase.failure)

    def fileno(self) -> int:
        """An fd that is readable when `next(0)` has something to do: another one after luod was started again. -1 while
        luod is gone: call `next(0)` now and then.
        """
        return -1 if self._connection is None else self._connection.fileno()

    def close(self) -> None:
        """Takes part no longer. An update that waits for it is cancelled. The sessions are judged on: see `declare`."""
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
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Participant {self.name}>"


def _left(end: float | None, most: float | None) -> float | None:
    """Seconds to wait, when there is time until `end`, and for no longer than `most`."""
    left = None if end is None else max(0.0, end - time.monotonic())
    return most if left is None else left if most is None else min(left, most)


_living: weakref.WeakSet[Participant] = weakref.WeakSet()


def _leave_to_parent() -> None:
    for participant in _living:
        participant._closed = True
        participant._drop()


os.register_at_fork(after_in_child=_leave_to_parent)
