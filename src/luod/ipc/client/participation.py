"""A workload's part in updates, seen from the workload and without I/O: `io.luod.Updates` from the client's side.

`Participation` is what a participant knows between two connections: it turns replies of Follow, and the end of a
connection, into events, of which a workload sees each once and in an order it can act on. The exchanges beside it are
run like those of `luod.ipc.client.sessions`. `luod.participant` (a blocking socket) and `luod.aio` (a loop) add the
socket. The story, for any language, is docs/updates.md.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, cast, get_args

from luod.errors import BadInput, CallFailed, DaemonUnreachable, ProtocolError
from luod.ipc.client.sessions import Call, Exchange
from luod.ipc.decode import decode
from luod.ipc.framing import Reply, encode_call
from luod.ipc.names import UPDATES
from luod.ipc.types.phases import News, VotePhase
from luod.ipc.types.updates import FrozenDevice
from luod.manifest import Entry
from luod.session_name import SessionName

_KINDS: Final = get_args(News)
_VOTES_IN: Final = {"preparing": "preparing", "granted": "preparing", "freezing": "freezing"}
"""The phase that a vote during an event is for."""
_UNCOUNTED: Final = (f"{UPDATES}.WrongPhase", f"{UPDATES}.NotFollowing")
"""What luod says to a vote that came too late, or over a connection that is gone: an event is on its way."""
_MOST_FILES: Final = 120
_NAME: Final = 63
"""Files of one Declare, and characters of their names: a message has up to 64 KiB. Further files are summed up."""
_AGAIN_FIRST: Final = 0.05
_AGAIN_LAST: Final = 1.0
REASON_MAX: Final = 500
"""Characters of a veto's reason."""


class Carried(Protocol):
    """A session that a participant answers for: one that luod gave, or a `luod.liveupdate.OutgoingSession`."""

    @property
    def name(self) -> str: ...
    @property
    def contents(self) -> tuple[Entry, ...]: ...


class Closable(Protocol):
    def close(self) -> None: ...


@dataclass(frozen=True)
class PlannedFile:
    """A file that a participant will preserve, for luod to see to the memory first. Sizes are bytes.

    `session` is the name of a session it has declared. `when`: "freezing", with `size` an upper bound, whatever session
    the file will be in then; or "preparing", to be preserved at the event `granted`. `allocated` are the bytes that are
    no hole. `device` is the PCI address of a VFIO device.
    """

    session: str
    size: int
    when: VotePhase = "freezing"
    allocated: int = 0
    token: int = 0
    name: str | None = None
    kind: str = "memfd"
    device: str | None = None


@dataclass(frozen=True)
class Event:
    """What luod tells a participant. `deadline`: seconds, as they were when luod said so. `frozen_devices`, of
    cancelled: as `luod.Phase` tells them.
    """

    kind: News
    update: str | None = None
    generation: int | None = None
    deadline: float | None = None
    reason: str | None = None
    frozen_devices: tuple[FrozenDevice, ...] | None = ()

    @property
    def votes_in(self) -> str | None:
        """The phase that is waiting for a vote; None: none is."""
        return _VOTES_IN.get(self.kind)


class Participation:
    """One participant over all its connections. Owns the sessions it was told are written while frozen."""

    def __init__(self, name: str, sessions: Iterable[Carried], planned: Iterable[PlannedFile]) -> None:
        self.name = name
        self.secret = ""
        """Names this participant to luod, for as long as the connection that follows now."""
        self.undeclared = True
        """Whether luod has yet to be told what there is to carry."""
        self.sessions: tuple[tuple[str, Carried], ...] = ()
        self.planned: tuple[PlannedFile, ...] = ()
        self._standing: Literal["out", "in", "jumping"] = "out"
        self._told: list[dict[str, Any]] | None = None
        self._frozen: list[Closable] = []
        self.carry(sessions, planned)

    def carry(self, sessions: Iterable[Carried], planned: Iterable[PlannedFile]) -> None:
        """From the next Declare on this is what there is. KernelRefused, ValueError: a session that is closed."""
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
        """The call that makes a connection the participant."""
        return encode_call(f"{UPDATES}.Follow", {"name": self.name}, more=True)

    def begun(self, reply: Reply) -> Event | None:
        """The first reply of a connection. What the one before leaves to be told, if anything."""
        event, secret, state = (reply.parameters.get(member) for member in ("event", "participant", "state"))
        if event != "following" or not isinstance(secret, str) or not isinstance(state, str):
            raise ProtocolError("luod's first answer to Follow is not `following`")
        self.secret, self.undeclared, self._told = secret, True, None
        if self._standing == "jumping" and state != "jumping":
            return self._cancelled("luod was started again, and the machine has not jumped", frozen=None)
        return None

    def told(self, reply: Reply) -> Event | None:
        """A further reply. None: it says nothing new."""
        given = reply.parameters
        kind, generation, deadline = given.get("event"), given.get("generation"), given.get("deadline")
        if kind not in _KINDS:
            return None  # of a newer luod
        event = Event(
            cast(News, kind),
            _text(given.get("update")),
            generation if type(generation) is int else None,
            float(deadline) if isinstance(deadline, int | float) else None,
            _text(given.get("reason")),
            _frozen(given.get("frozen_devices")) if kind == "cancelled" else (),
        )
        if kind == "cancelled":
            # After a broken connection it was told already.
            return None if self._standing == "out" else self._ended(event)
        if kind == "preparing" and any(plan.when == "preparing" for plan in self.planned):
            self.undeclared = True  # luod takes a Declare in this phase as asking for the grant
        self._standing = "jumping" if kind == "jumping" else "in"
        return event

    def broken(self) -> Event | None:
        """The connection is gone. Before `jumping` that is the end of the update; after it, one has to ask again."""
        self.secret = ""
        return self._cancelled("the connection to luod broke") if self._standing == "in" else None

    def froze(self, session: Closable) -> None:
        """`session` is closed when the update is cancelled, and no later than with this."""
        self._frozen.append(session)

    def close(self) -> None:
        for session in self._frozen:
            session.close()
        self._frozen.clear()

    def _cancelled(self, reason: str, frozen: tuple[FrozenDevice, ...] | None = ()) -> Event:
        return self._ended(Event("cancelled", reason=reason, frozen_devices=frozen))

    def _ended(self, event: Event) -> Event:
        self._standing = "out"
        self.close()
        return event

    def frozen_name(self, event: Event, of: str | None) -> str:
        """The name of the session for what is written while frozen, beside the session `of`. BadInput."""
        if event.kind != "freezing":
            raise BadInput("a session NAME#GENERATION is made at the event freezing", hint=f"this is {event.kind}")
        names = [name for name, _ in self.sessions]
        if of is None and len(names) == 1:
            of = names[0]
        if of not in names:
            raise BadInput(f"which session? {of!r} of {names}", hint="name one that was declared")
        return str(SessionName(of, event.generation))

    def news(self) -> list[dict[str, Any]] | None:
        """What is to be declared; None: luod was told the same already."""
        said = self._declaration()
        return said if self.undeclared or said != self._told else None

    def _declaration(self) -> list[dict[str, Any]]:
        files = [
            (name, _file(e.token, e.name, e.kind, e.size, e.allocated, e.seals, "preserved", e.device))
            for name, session in self.sessions
            for e in session.contents
        ]
        files, rest = files[:_MOST_FILES], files[_MOST_FILES:]
        files += [
            (p.session, _file(p.token, p.name, p.kind, p.size, p.allocated, 0, p.when, p.device)) for p in self.planned
        ]
        for name in dict.fromkeys(name for name, _ in rest):
            summed = [file for other, file in rest if other == name]
            size, allocated = (sum(file[member] for file in summed) for member in ("size", "allocated"))
            files.append((name, _file(0, f"{len(summed)} more", "memfd", size, allocated, 0, "preserved")))
        return [{"name": name, "files": [f for other, f in files if other == name]} for name, _ in self.sessions]


def declare(participation: Participation) -> Exchange[bool]:
    """Tells luod what there is to carry, if it does not know. False: it will not hear it before the update is over."""
    said = participation.news()
    if said is None:
        return True
    try:
        yield Call("Declare", {"participant": participation.secret, "sessions": said}, UPDATES)
    except CallFailed as error:
        if error.name not in _UNCOUNTED:
            raise
        return False
    participation.undeclared, participation._told = False, said
    return True


def vote(secret: str, event: Event, reason: str | None) -> Exchange[bool]:
    """`reason` None is "ready", anything else a veto. False: it did not count, and an event is on its way."""
    if event.votes_in is None:
        raise BadInput(f"nobody waits for a vote at {event.kind}", hint="preparing, granted and freezing are voted on")
    ballot = {"participant": secret, "phase": event.votes_in, "vote": "ready" if reason is None else "veto"}
    if reason is not None:
        ballot["reason"] = reason[:REASON_MAX]
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
    """None where luod cannot tell, or says what we do not understand."""
    try:
        return tuple(decode(list[FrozenDevice], given))
    except ProtocolError:
        return None


def pause_after(pause: float) -> float:
    """Seconds until the next attempt to follow a luod that is gone, or to declare what it does not want to hear now;
    `pause` is what was waited for before the last one, 0 when that was the first.
    """
    return min(max(pause * 2, _AGAIN_FIRST), _AGAIN_LAST)


def left(end: float | None, most: float | None) -> float | None:
    """Returns the seconds to wait, when there is time until `end`, and for no longer than `most`; None: for ever."""
    left = None if end is None else max(0.0, end - time.monotonic())
    return most if left is None else left if most is None else min(left, most)


def said_of(error: BaseException) -> str:
    """An exception as a veto's reason."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _file(
    token: int,
    name: str | None,
    kind: str,
    size: int,
    allocated: int,
    seals: int,
    when: str,
    device: str | None = None,
) -> dict[str, Any]:
    name = None if name is None else name[:_NAME]
    said: dict[str, Any] = {
        "token": token, "name": name, "kind": kind, "size": size, "allocated": allocated, "seals": seals, "when": when
    }  # fmt: skip
    # An older luod refuses a member that it does not know.
    return said if device is None else {**said, "device": device}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def awaits_grant(event: Event, planned: Sequence[PlannedFile]) -> bool:
    """Whether files are to be preserved in this phase, so that the vote comes after `granted`."""
    return event.kind == "preparing" and any(plan.when == "preparing" for plan in planned)
