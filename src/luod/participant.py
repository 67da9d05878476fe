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

It has no loop and no thread, since VMMs fork: a VMM with a loop polls `fileno()` and calls `next(0)`. The events come
from `luod.ipc.client.participation`. `luod.AsyncParticipant` is the same for asyncio. docs/updates.md describes the
protocol for any language. After the kexec, `Client.restore` returns the workload's sessions.
"""

from __future__ import annotations

import time

from luod.client import Client, HeldOutgoingSession
from luod.errors import BadInput, DaemonUnreachable, LuodError
from luod.ipc.client import creation, participation
from luod.ipc.client.connection import Connection, perform
from luod.ipc.client.participation import PlannedFile
from luod.ipc.client.phase import ParticipantBase, Told
from luod.ipc.types.updates import FrozenDevice
from luod.static import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from luod.ipc.client.participation import Carried, Event
    from luod.ipc.client.sessions import Exchange, T
    from luod.ipc.framing import Reply

__all__ = ["Participant", "Phase", "PlannedFile", "FrozenDevice"]  # noqa: RUF022 - most important first


class Phase(Told):
    """A phase of an update, and the workload's answers to it.

    In `with` an awaited vote must be given, by `ready` or `veto`. A block that ends without it is a veto, with that as
    its reason. A block that raises is a veto with the exception's text. The update is cancelled then, and the exception
    is raised again when the guest was resumed: at the end of the `with` of the phase cancelled (or lost), by the next
    call of `Participant.next` if that phase was not entered, or by `Participant.close`. If no vote is awaited, `with`
    changes nothing.
    """

    def __init__(self, participant: Participant, event: Event) -> None:
        super().__init__(participant._part, participant._failure, event)
        self._participant = participant

    def ready(self) -> bool:
        """Votes that this phase is done. Returns whether the vote counted.

        In freezing it means that no part of the guest runs, and that no thread is, or will be, in an ioctl on a session
        until `cancelled`. The vote does not count if the update or the connection is over; another phase reports that.
        Raises BadInput: no vote is awaited at this phase. Raises the LuodErrors of luod's answer.
        """
        return self._vote(None)

    def veto(self, reason: str) -> bool:
        """Votes against the update. `reason` is for people, up to 500 characters. Returns and raises as `ready`."""
        return self._vote(reason)

    def _vote(self, reason: str | None) -> bool:
        return self._participant._perform(self._ballot(reason))

    def create(self, of: str | None = None) -> HeldOutgoingSession:
        """Returns a new session NAME#GENERATION, in freezing, for state that is written now, beside the session `of`.

        `of` may be omitted if one session is declared. The caller owns the new session, and may close it when all files
        are preserved. When the update is cancelled it is closed, and luod has dropped it. Raises the errors of
        `Client.create`; BadInput.

        Raises WrongPhase: the update is over, and no session was created. Raises DaemonUnreachable: luod was killed. In
        `with` neither is a failure: `cancelled` is next, and the guest resumes there.
        """
        client, name = self._participant._client, self._frozen_name(of)
        bare = self._participant._perform(creation.create(name, client.path, manifest=True))
        session = HeldOutgoingSession(client, name, bare)
        self._part.froze(session, self.event)
        return session

    def __enter__(self) -> Self:
        self._enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        reason, counted = self._veto_on_leaving(error), False
        if reason is not None:
            try:
                counted = self.veto(reason)
            except (LuodError, OSError):
                pass  # the error of the block is raised when the guest was resumed
        return self._leave(error, counted)


class Participant(ParticipantBase):
    """A workload that takes part in updates. It follows from the start of `with`, or the first `next`, until `close`.

    luod may end and start again meanwhile: the participant follows and declares again by itself, and a phase
    `cancelled` reports the end of an update. A forked child is not a participant: its copy of the connection is closed.
    One thread at a time may use a participant and its phases.
    """

    def __init__(
        self,
        name: str,
        sessions: Iterable[Carried],
        *,
        planned: Iterable[PlannedFile] = (),
        client: Client | None = None,
    ) -> None:
        """Does not connect yet. Raises BadInput.

        `name` is shown to the operator. `sessions`, which the caller owns, are those for which the workload answers,
        with all files preserved in them: if one is carried over a kexec for which the workload was not ready, it is
        torn. `planned` are files to be preserved during an update, see `PlannedFile`. `client` is luod's, None the one
        at the default socket.
        """
        super().__init__(name, sessions, planned)
        self._connection: Connection | None = None
        self._client = Client() if client is None else client

    def declare(self, sessions: Iterable[Carried], *, planned: Iterable[PlannedFile] = ()) -> None:
        """Answers for these sessions from now on, and for no others.

        luod learns of files that are preserved in them later at `preparing`. If luod is not reachable, it learns of the
        sessions when it is back. Raises NoSuchSession, CallFailed (DeclaredByAnother by name, …), Refused, BadInput.
        """
        self._part.carry(sessions, planned)
        if self._connection is not None:
            self._tell()

    def next(self, timeout: float | None = None) -> Phase | None:
        """Returns the next phase. Waits for it, without limit or for `timeout` seconds, after which it returns None.

        It returns None also if the participant is closed meanwhile, such as by the handler of a signal. While luod is
        gone, or does not let it follow, this looks for it. A call to a luod that does not answer lasts up to the
        timeout of the client, also beyond `timeout`. Raises the errors of `declare`, when a restarted luod does not
        know a session any more: the guest runs then, the participant continues, and a later call tries again, once a
        second. Raises the exception of a block of a cancelled update that was not raised yet. Raises BadInput: the
        participant is closed.
        """
        self._failure.raise_overdue()
        if self._closed and not self._pending:
            raise BadInput("the participant is closed", hint="make another one")
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            while not self._pending:
                if self._closed:
                    return None
                try:
                    if self._connection is None:
                        self._follow()
                    if not self._pending:
                        if self._declares_now:
                            self._tell()
                        self._take(participation.left(end, 0.5 if self._part.declares else None))
                    self._pause = 0.0
                except participation.PASSING as error:
                    self._drop()
                    self._put(self._part.broken(error))
                    self._pause = participation.pause_after(self._pause)
                    if not self._pending:
                        time.sleep(participation.left(end, self._pause) or 0.0)
                except LuodError:
                    self._put_off_declaring()
                    if not self._pending:  # a guest that waits to be resumed comes first
                        raise
                if not self._pending and end is not None and time.monotonic() >= end:
                    return None
            event = self._pending.pop(0)
            reason = self._failure.vetoes(event)
            if reason is None:
                return Phase(self, event)
            try:
                self._perform(participation.vote(self._part.secret, event, reason))
            except (LuodError, OSError):
                pass

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
        """Runs these callbacks for the phases, each in `with phase`, until `close`.

        A phase without one is `ready` at once; a callback must vote.

        An exception of preparing, granted or freezing is a veto, and is raised here after cancelled or lost ran; the
        participant still follows then, and this can be run again. An exception of another callback is raised at once.
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

    def _follow(self) -> None:
        """Makes a connection the participant. After an error there is no connection."""
        connection = Connection(self._client.path, timeout=self._client.timeout)
        try:
            connection.begin(self._part.follow())
            reply = self._next_of(connection, self._client.timeout)
            if reply is None:
                raise DaemonUnreachable(f"luod at {self._client.path} did not answer in time")
            self._connection = connection
            with reply:
                self._put(self._part.begun(reply))
        except BaseException:
            self._connection = None
            connection.close()
            raise

    def _take(self, seconds: float | None) -> None:
        """Handles one event, if one arrives within `seconds`."""
        assert self._connection is not None
        reply = self._next_of(self._connection, seconds)
        if reply is None:
            return
        with reply:
            event = self._part.told(reply)
        self._put(event)
        if event is not None and event.kind == "preparing":
            # Reports files that were preserved since. luod grants the memory of planned files after this.
            self._tell()

    def _next_of(self, connection: Connection, seconds: float | None) -> Reply | None:
        try:
            return connection.next(seconds)
        except LuodError as error:
            self._part.check_refusal(error)
            raise

    def _tell(self) -> None:
        """Declares. Its failure does not end the connection that follows, which alone says what luod does."""
        try:
            self._perform(participation.declare(self._part))
        except participation.PASSING:
            pass  # tried again

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _perform(self, steps: Exchange[T]) -> T:
        return perform(steps, self._client.path, self._client.timeout)

    def __iter__(self) -> Iterator[Phase]:
        """Yields the phases as they arrive, until `close`."""
        while not self._closed:
            phase = self.next()
            if phase is not None:
                yield phase

    def __enter__(self) -> Self:
        """Follows, and declares. Raises DaemonUnreachable, Refused (the name), and the errors of `declare`."""
        if self._connection is None:
            try:
                self._follow()
                self._perform(participation.declare(self._part))
            except BaseException:
                self._close()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left(error)
