"""The timeline of one update: the times of its phases and of each session's events. Pure: no clock, no files.

All times are seconds since the update was requested, through the kexec. Before the kexec, `luod.daemon.updates.times`
makes the timeline from the state of the update. In the next kernel it is made from the registry, and then updated
event by event. `luod.daemon.timeline.recorder` writes it to the disk. `luod.decode` reads the annotations.
"""

from luod.daemon.store.states import IncomingState
from luod.frozen import frozen, replace
from luod.ipc.types.admin import SessionTimes
from luod.ipc.types.phases import Clock, UpdateState, Way
from luod.static import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from luod.daemon.store.schema import Departure, IncomingRow, Row

    R = TypeVar("R", bound=Row)

EventKind = Literal["retrieved", "resumed", "gone", "done", "cancelled"]


@frozen
class Event:
    """An event of one session, or of all if `session` is empty; `note` is an outcome or a reason."""

    what: EventKind
    at: float
    session: str = ""
    note: str | None = None


@frozen
class Timeline:
    """One update, requested `asked` seconds after 1970. `clock` measured the kexec's duration, `error` is its error."""

    update: str
    generation: int
    skip_unready: bool
    asked: float
    state: UpdateState
    sessions: dict[str, SessionTimes]
    """By name."""
    reason: str | None = None
    freezing: float | None = None
    jumping: float | None = None
    arrived: float | None = None
    ended: float | None = None
    clock: Clock | None = None
    error: float | None = None
    way: Way = "direct"

    @property
    def blackout(self) -> float | None:
        """Returns the longest blackout of a session; None if no frozen guest has resumed."""
        return max((b for b in map(self.blackout_of, self.sessions.values()) if b is not None), default=None)

    def blackout_of(self, session: SessionTimes) -> float | None:
        """Returns the seconds from the event freezing to the resumption; None if the guest did not freeze or resume."""
        resumed = session.resumed
        if self.state == "cancelled" and self.arrived is None and session.standing not in ("unasked", "lost"):
            resumed = self.ended
        return None if resumed is None or self.freezing is None else round(resumed - self.freezing, 6)

    @property
    def frozen(self) -> set[str]:
        """Returns the sessions whose guests were frozen for this update, and have neither resumed nor ended."""
        left = (p for p in self.sessions.values() if p.standing == "ready" and p.resumed is None and p.gone is None)
        return {session.name for session in left}


@frozen
class Current:
    """The running update: its timeline up to now, and CLOCK_MONOTONIC at the timeline's second 0."""

    timeline: Timeline
    origin: float


def after(departure: "Departure", rows: "Iterable[IncomingRow]") -> Timeline:
    """Returns the timeline, at the end of the kexec, of the update that preserved the incoming `rows`."""
    frozen = departure.preparing_seconds
    left = frozen + departure.freezing_seconds
    sessions = {}
    for name, group in groups(rows):
        main = group[0]
        ready = main.freezing_seconds > 0
        sessions[name] = SessionTimes(
            name,
            main.owner,
            bytes_of(group),
            "torn" if main.state is IncomingState.TORN else "ready" if ready else "unasked",
            prepared=main.preparing_seconds if ready else None,
            frozen=round(frozen + main.freezing_seconds, 6) if ready else None,
        )
    took = departure.crossing
    wall = 0.0 if departure.left is None else departure.left.wall
    return Timeline(
        departure.update,
        departure.generation,
        departure.skip_unready,
        round(wall - left, 6),
        "restoring",
        sessions,
        freezing=frozen,
        jumping=round(left, 6),
        arrived=round(left + (0.0 if took is None else took.seconds), 6),
        clock=None if took is None else took.clock,
        error=None if took is None else round(took.error_seconds, 9),
    )


def with_events(timeline: Timeline, events: "Iterable[Event]") -> Timeline:
    """Returns the timeline with more events. The first event of a kind counts, but the last of `gone`."""
    sessions = dict(timeline.sessions)
    for event in events:
        session = sessions.get(event.session)
        if event.what == "done" or event.what == "cancelled":
            timeline = replace(timeline, state=event.what, ended=event.at, reason=event.note)
        elif session is None:
            continue
        elif event.what == "gone":
            sessions[session.name] = replace(session, gone=event.at, outcome=event.note or session.outcome)
        elif getattr(session, event.what) is None:
            sessions[session.name] = replace(session, **{event.what: event.at})
    return replace(timeline, sessions=sessions)


def groups(rows: "Iterable[R]") -> "list[tuple[str, list[R]]]":
    """Groups rows by workload; in each group the session NAME precedes those that were created while frozen."""
    groups: dict[str, list[R]] = {}
    for row in sorted(rows, key=lambda row: (row.generation is not None, row.name)):
        groups.setdefault(row.base, []).append(row)
    return sorted(groups.items())


def bytes_of(group: "Sequence[Row]") -> int:
    """Returns the bytes of all sessions of a group."""
    return sum(row.bytes for row in group)
