"""The timeline of one update: the times of its phases and of each session's events. Pure: no clock, no files.

All times are seconds since the update was requested, through the kexec. Before the kexec, `luod.daemon.updates.times`
makes the timeline from the state of the update. In the next kernel it is made from the registry, and then updated
event by event. `luod.daemon.timeline.recorder` writes it to the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import msgspec
from msgspec import structs

from luod.daemon.store.schema import Departure, IncomingRow, Row
from luod.daemon.store.states import IncomingState
from luod.frozen import replace
from luod.ipc.types.admin import SessionTimes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from luod.ipc.types.phases import Clock, UpdateState
else:
    Clock = UpdateState = str  # msgspec does not know our Literal

R = TypeVar("R", bound=Row)
EventKind = Literal["retrieved", "resumed", "gone", "done", "cancelled"]


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event of one session, or of all if `session` is empty; `note` is an outcome or a reason."""

    what: EventKind
    at: float
    session: str = ""
    note: str | None = None


class Timeline(msgspec.Struct, frozen=True, omit_defaults=True):
    """One update, requested `asked` seconds after 1970. `clock` measured the kexec's duration, `error` is its error."""

    update: str
    generation: int
    skip_unready: bool
    asked: float
    state: UpdateState
    reason: str | None = None
    freezing: float | None = None
    jumping: float | None = None
    arrived: float | None = None
    ended: float | None = None
    clock: Clock | None = None
    error: float | None = None
    sessions: dict[str, SessionTimes] = {}
    """By name."""

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
    def all_resumed(self) -> bool:
        """Returns whether all guests that were frozen for this update have resumed or ended."""
        return all(p.resumed is not None or p.gone is not None for p in self.sessions.values() if p.standing == "ready")


@dataclass(frozen=True)
class Current:
    """The running update: its timeline up to now, and CLOCK_MONOTONIC at the timeline's second 0."""

    timeline: Timeline
    origin: float


def after(departure: Departure, rows: Iterable[IncomingRow]) -> Timeline:
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
        freezing=frozen,
        jumping=round(left, 6),
        arrived=round(left + (0.0 if took is None else took.seconds), 6),
        clock=None if took is None else took.clock,
        error=None if took is None else round(took.error_seconds, 9),
        sessions=sessions,
    )


def with_event(timeline: Timeline, event: Event) -> Timeline:
    """Returns the timeline with one more event. The first event of a kind counts, but the last of `gone`."""
    if event.what == "done" or event.what == "cancelled":
        return structs.replace(timeline, state=event.what, ended=event.at, reason=event.note)
    if event.what == "retrieved":
        return _changed(timeline, event.session, lambda p: replace(p, retrieved=event.at) if p.retrieved is None else p)
    if event.what == "resumed":
        return _changed(timeline, event.session, lambda p: replace(p, resumed=event.at) if p.resumed is None else p)
    return _changed(timeline, event.session, lambda p: replace(p, gone=event.at, outcome=event.note or p.outcome))


def _changed(timeline: Timeline, name: str, change: Callable[[SessionTimes], SessionTimes]) -> Timeline:
    session = timeline.sessions.get(name)
    return (
        timeline
        if session is None
        else structs.replace(timeline, sessions={**timeline.sessions, name: change(session)})
    )


def groups(rows: Iterable[R]) -> list[tuple[str, list[R]]]:
    """Groups rows by workload; in each group the session NAME precedes those that were created while frozen."""
    groups: dict[str, list[R]] = {}
    for row in sorted(rows, key=lambda row: (row.generation is not None, row.name)):
        groups.setdefault(row.base, []).append(row)
    return sorted(groups.items())


def bytes_of(group: Sequence[Row]) -> int:
    """Returns the bytes of all sessions of a group."""
    return sum(row.bytes for row in group)
