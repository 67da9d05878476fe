"""A workload's part in updates, on its own side and without I/O: `io.luod.Updates` for the client.

`Participation` is the state of a participant between two connections. It converts replies of Follow, and the end of a
connection, to events. A workload gets each event once, in an order on which it can act. The exchanges beside it run
like those of `luod.ipc.client.sessions`. `luod.participant` (a blocking socket) and `luod.aio` (a loop) add the socket.
docs/updates.md describes the protocol for any language.
"""

from __future__ import annotations

import time

from luod.errors import BadInput, Busy, CallFailed, DaemonUnreachable, LuodError, ProtocolError
from luod.frozen import frozen
from luod.ipc.client.sessions import Call
from luod.ipc.decode import decode
from luod.ipc.framing import encode_call
from luod.ipc.names import UPDATES
from luod.ipc.types.updates import DeclaredFile, DeclaredSession, FrozenDevice
from luod.manifest import MEMFD
from luod.session_name import SessionName
from luod.static import TYPE_CHECKING, Final, Literal, Protocol, TypeGuard

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from luod.ipc.client.sessions import Exchange
    from luod.ipc.framing import Reply
    from luod.ipc.types.phases import News, VotePhase
    from luod.ipc.types.updates import When
    from luod.manifest import Entry

_KINDS: Final = ("preparing", "granted", "freezing", "jumping", "cancelled", "lost")
_VOTES_IN: Final = {"preparing": "preparing", "granted": "preparing", "freezing": "freezing"}
"""The phase of a vote during an event."""
_UNCOUNTED: Final = (f"{UPDATES}.WrongPhase", f"{UPDATES}.NotFollowing")
"""luod's answers to a vote that is too late, or over a lost connection: an event follows."""
_MOST_FILES: Final = 120
_NAME: Final = 63
"""Files of one Declare, and characters of their names: a message has up to 64 KiB. Further files are summed up."""
_AGAIN_FIRST: Final = 0.05
AGAIN_LAST: Final = 1.0
PASSING: Final = (DaemonUnreachable, ProtocolError, Busy)
"""Errors after which the same call may succeed: luod is gone, starts, or has no room for a connection."""
REASON_MAX: Final = 500
"""The maximum length of a veto's reason in characters."""


class Carried(Protocol):
    """A session for which a participant answers: one from luod, or a `luod.liveupdate.OutgoingSession`."""

    @property
    def name(self) -> str: ...
    @property
    def contents(self) -> tuple[Entry, ...]: ...


class Closable(Protocol):
    def close(self) -> None: ...


@frozen
class PlannedFile:
    """A file that a participant will preserve, so that luod reserves the memory first. Sizes are in bytes.

    `session` is the name of a session that it has declared. `when`: "freezing", with `size` an upper bound, for any
    session of the file then; or "preparing", to be preserved at the event `granted`. `allocated` are the bytes that are
    not holes. `device` is the PCI address of a VFIO device.
    """

    session: str
    size: int
    when: VotePhase = "freezing"
    allocated: int = 0
    token: int = 0
    name: str | None = None
    kind: str = "memfd"
    device: str | None = None


@frozen
class Event:
    """An event of luod for a participant. `deadline`: seconds, at the time of luod's message.

    `frozen_devices`, of cancelled: see `luod.Phase`.
    """

    kind: News
    update: str | None = None
    generation: int | None = None
    deadline: float | None = None
    reason: str | None = None
    frozen_devices: tuple[FrozenDevice, ...] | None = ()

    @property
    def votes_in(self) -> str | None:
        """Returns the phase that waits for a vote, or None."""
        return _VOTES_IN.get(self.kind)


class Participation:
    """One participant over all its connections. Owns the sessions that are written while frozen."""

    def __init__(self, name: str, sessions: Iterable[Carried], planned: Iterable[PlannedFile]) -> None:
        self.name = name
        self.secret = ""
        """Names this participant to luod, for as long as the connection that follows now."""
        self.undeclared = True
        """Whether luod has yet to be told what there is to carry."""
        self.sessions: tuple[tuple[str, Carried], ...] = ()
        self.planned: tuple[PlannedFile, ...] = ()
        self._standing: Literal["out", "preparing", "granted", "freezing", "jumping", "lost"] = "out"
        """The last event of the update; "out" without one."""
        self.generation: int | None = None
        """The number of the update; None without one, or if luod did not tell it."""
        self._followed = False
        """Whether luod has ever let this participant follow."""
        self._told: list[DeclaredSession] | None = None
        self._frozen: list[Closable] = []
        self.carry(sessions, planned)

    def carry(self, sessions: Iterable[Carried], planned: Iterable[PlannedFile]) -> None:
        """Sets the files for the next Declare. Raises KernelRefused, ValueError: a session is closed."""
        named = tuple((session.name, session) for session in sessions)
        plans = tuple(planned)
        unknown = {plan.session for plan in plans} - {name for name, _ in named}
        if unknown:
            raise BadInput(
                f"planned files of sessions that are not declared: {sorted(unknown)}",
                hint="files written while frozen are planned for the session NAME, not for NAME#GENERATION",
            )
        self.sessions, self.planned, self.undeclared = named, plans, True

    def follow(self) -> bytes:
        """Returns the call that makes a connection the participant."""
        return encode_call(f"{UPDATES}.Follow", {"name": self.name}, more=True)

    def begun(self, reply: Reply) -> Event | None:
        """Handles the first reply of a connection. Returns the event that the earlier connection left, or None."""
        event, secret, state = (reply.parameters.get(member) for member in ("event", "participant", "state"))
        if event != "following" or not isinstance(secret, str) or not isinstance(state, str):
            raise ProtocolError("luod's first answer to Follow is not `following`")
        self.secret, self.undeclared, self._told, self._followed = secret, True, None, True
        if self._standing == "jumping" and state != "jumping":
            return self._cancelled("luod was started again, and the machine has not jumped", frozen=None)
        return None

    def check_refusal(self, error: LuodError) -> None:
        """Raises DaemonUnreachable for `error`, an answer to Follow, if luod has let this participant follow before.

        Such a luod may accept it later, as if it were gone now: an older one, for example, refuses all calls until the
        newer one is installed again.
        """
        if self._followed and not isinstance(error, PASSING):
            raise DaemonUnreachable(f"luod does not let {self.name!r} follow: {error}", hint=error.hint) from error

    def told(self, reply: Reply) -> Event | None:
        """Handles a further reply. Returns None if it has no news."""
        given = reply.parameters
        kind, generation, deadline = given.get("event"), given.get("generation"), given.get("deadline")
        if not _is_news(kind):
            return None  # of a newer luod
        event = Event(
            kind,
            _text(given.get("update")),
            generation if type(generation) is int else None,
            float(deadline) if isinstance(deadline, int | float) else None,
            _text(given.get("reason")),
            _frozen(given.get("frozen_devices")) if kind == "cancelled" else (),
        )
        if kind == "cancelled":
            # After a broken connection it was reported already.
            return None if self._standing == "out" else self._ended(event)
        if kind == "preparing" and any(plan.when == "preparing" for plan in self.planned):
            self.undeclared = True  # luod takes a Declare in this phase as a request for the grant
        self._standing, self.generation = kind, event.generation
        return event

    @property
    def declares(self) -> bool:
        """Returns whether luod is to be told now what there is to carry. It takes no Declare later in an update."""
        return self.undeclared and self._standing in ("out", "preparing")

    def broken(self, error: Exception) -> Event | None:
        """Handles the end of the connection, which is `error`.

        Before `jumping` it ends the update. After it, luod must be asked again; also if `jumping` may be in what was
        not read.
        """
        self.secret = ""
        if self._standing == "freezing" and not isinstance(error.__cause__, ConnectionError):
            self._standing = "jumping"  # it is not luod that closed the connection, after its last event
        if self._standing in ("out", "jumping"):
            return None
        return self._cancelled("the connection to luod broke")

    def froze(self, session: Closable, event: Event) -> None:
        """Takes `session`, which is closed when the update of `event` is cancelled, or with this object."""
        if self.generation == event.generation:
            self._frozen.append(session)
        else:
            session.close()  # another task was told meanwhile that the update is over

    def close(self) -> None:
        for session in self._frozen:
            session.close()
        self._frozen.clear()

    def _cancelled(self, reason: str, frozen: tuple[FrozenDevice, ...] | None = ()) -> Event:
        return self._ended(Event("cancelled", reason=reason, frozen_devices=frozen))

    def _ended(self, event: Event) -> Event:
        self._standing, self.generation = "out", None
        self.close()
        return event

    def frozen_name(self, event: Event, of: str | None) -> str:
        """Returns the name of the session for state written while frozen, beside the session `of`. Raises BadInput."""
        if event.kind != "freezing":
            raise BadInput("a session NAME#GENERATION is made at the event freezing", hint=f"this is {event.kind}")
        names = [name for name, _ in self.sessions]
        if of is None and len(names) == 1:
            of = names[0]
        if of not in names:
            raise BadInput(f"which session? {of!r} of {names}", hint="name one that was declared")
        return str(SessionName(of, event.generation))

    def news(self) -> list[DeclaredSession] | None:
        """Returns the sessions to declare; None if luod knows them already."""
        said = self._declaration()
        return said if self.undeclared or said != self._told else None

    def _declaration(self) -> list[DeclaredSession]:
        held = [(name, entry) for name, session in self.sessions for entry in session.contents]
        if len(held) > _MOST_FILES:
            held.sort(key=lambda each: each[1].kind == MEMFD)  # luod looks at each device: memory is summed up
        held, rest = held[:_MOST_FILES], held[_MOST_FILES:]
        files = [(name, _declared(entry, entry.seals, "preserved")) for name, entry in held]
        files += [(plan.session, _declared(plan, 0, plan.when)) for plan in self.planned]
        # The next kernel is checked for each kind, and memory for its seals.
        for alike in dict.fromkeys((name, entry.kind, entry.seals) for name, entry in rest):
            summed = [entry for name, entry in rest if (name, entry.kind, entry.seals) == alike]
            size, allocated = sum(entry.size for entry in summed), sum(entry.allocated for entry in summed)
            name, kind, seals = alike
            files.append((name, DeclaredFile(0, f"{len(summed)} more", kind, size, allocated, seals, "preserved")))
        return [DeclaredSession(name, [f for other, f in files if other == name]) for name, _ in self.sessions]


def declare(participation: Participation) -> Exchange[bool]:
    """Declares the sessions to luod, if it does not know them.

    Returns False if luod refuses it until the update is over.
    """
    said = participation.news()
    if said is None:
        return True
    participation.undeclared = True
    try:
        declaration: dict[str, object] = {"participant": participation.secret, "sessions": said}
        if participation.generation is not None:
            declaration["generation"] = participation.generation
        yield Call("Declare", declaration, UPDATES)
    except CallFailed as error:
        if error.name not in _UNCOUNTED:
            raise
        return False
    participation.undeclared, participation._told = False, said
    return True


def ready(participation: Participation, secret: str, event: Event) -> Exchange[bool]:
    """Votes "ready" as `vote`. Before that it declares in `preparing` what luod could not be told at the event: luod
    checks what it carries.
    """
    if event.kind == "preparing" and participation.undeclared:
        try:
            yield from declare(participation)
        except DaemonUnreachable:
            return False
    return (yield from vote(secret, event, None))


def vote(secret: str, event: Event, reason: str | None) -> Exchange[bool]:
    """Votes. Returns False if the vote did not count; an event follows then.

    `reason` None is "ready", any text a veto.
    """
    if event.votes_in is None:
        raise BadInput(f"no vote is awaited at {event.kind}", hint="preparing, granted and freezing are voted on")
    ballot: dict[str, object] = {
        "participant": secret,
        "phase": event.votes_in,
        "vote": "ready" if reason is None else "veto",
    }
    if reason is not None:
        ballot["reason"] = reason[:REASON_MAX]
    if event.generation is not None:
        ballot["generation"] = event.generation
    try:
        yield Call("Vote", ballot, UPDATES)
    except DaemonUnreachable:
        return False
    except CallFailed as error:
        if error.name not in _UNCOUNTED:
            raise
        return False
    return True


def _frozen(given: object) -> tuple[FrozenDevice, ...] | None:
    """Returns the devices; None if luod does not know them, or sends unknown data."""
    try:
        return tuple(decode(list[FrozenDevice], given))
    except ProtocolError:
        return None


def pause_after(pause: float) -> float:
    """Returns the seconds until the next attempt to follow a missing luod, or to repeat a refused Declare.

    `pause` is the wait before the last attempt, 0 before the first.
    """
    return min(max(pause * 2, _AGAIN_FIRST), AGAIN_LAST)


def left(end: float | None, most: float | None) -> float | None:
    """Returns the seconds to wait until `end`, but at most `most`; None: no limit."""
    left = None if end is None else max(0.0, end - time.monotonic())
    return most if left is None else left if most is None else min(left, most)


def said_of(error: BaseException) -> str:
    """Returns an exception as a veto's reason."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _declared(file: Entry | PlannedFile, seals: int, when: When) -> DeclaredFile:
    name = None if file.name is None else file.name[:_NAME]
    return DeclaredFile(file.token, name, file.kind, file.size, file.allocated, seals, when, file.device)


def _is_news(kind: object) -> TypeGuard[News]:
    return kind in _KINDS


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def awaits_grant(event: Event, planned: Sequence[PlannedFile]) -> bool:
    """Returns whether files are to be preserved in this phase, so that the vote comes after `granted`."""
    return event.kind == "preparing" and any(plan.when == "preparing" for plan in planned)
