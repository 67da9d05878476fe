"""Records the timeline of the last update. It outlives luod and, with data from the registry, the kexec.

The file `timeline` in the state directory begins with a timeline, followed by a line for each event. A luod that is
killed loses no written event, and a thousand sessions cost a thousand lines. Nothing depends on the file: a failed
write is logged, and the timeline continues in memory.
"""

from __future__ import annotations

import os
from collections import Counter
from time import monotonic
from typing import Final

import msgspec
from msgspec import structs

from luod.daemon.log import Log
from luod.daemon.store import state_file
from luod.daemon.store.registry import Change
from luod.daemon.store.schema import IncomingRow, Row
from luod.daemon.store.states import IncomingState
from luod.daemon.timeline.earlier import Earlier
from luod.daemon.timeline.timeline import (
    Current,
    Event,
    EventKind,
    Timeline,
    after,
    with_event,
)
from luod.decode import Decoder, encode
from luod.frozen import replace
from luod.ipc.types.admin import UpdateTimes
from luod.linux import Fd

_MOST_BYTES: Final = 4 << 20


class _Head(msgspec.Struct, frozen=True):
    """The first line. `origin` is CLOCK_MONOTONIC, in the kernel `boot_id`, of the timeline's second 0."""

    boot_id: str
    origin: float
    timeline: Timeline


class Recorder:
    """Owns the file while it is open."""

    def __init__(self, earlier: Earlier, directory: str, log: Log, *, jumping: bool) -> None:
        """Continues the timeline on the disk, or begins one with the registry's data from before the kexec. Then
        records what happened `earlier`. `jumping`: the previous serve called reboot(2), so its update is not over.
        """
        self._registry = earlier.registry
        self._path = os.path.join(directory, "timeline")
        self._log = log
        self._file: Fd | None = None
        self._origin = 0.0
        self._timeline: Timeline | None = None
        self._outcomes: dict[str, str] = {}
        self._replayed: float | None = None
        """The time of an earlier event that is recorded now, of CLOCK_MONOTONIC."""
        record = earlier.record
        self._left = Counter(row.base for row in record.incoming)
        head = self._read()
        if head is not None and head.boot_id == record.boot_id:
            self._origin, self._timeline = head.origin, head.timeline
            self._open(new=False)
            if self._timeline.state in ("preparing", "freezing", "jumping") and not jumping:
                self._record("cancelled", note="luod ended while it was under way")
            elif self._timeline.state == "restoring":
                # Sessions that ended with the previous luod: their events were not written.
                for session in self._timeline.sessions.values():
                    if session.gone is None and not self._left[session.name]:
                        self._record("gone", session.name)
                if not self._left.total():
                    self._end_restoring()
        elif record.arrival is not None and record.arrival.crossing is not None:
            timeline = after(record.arrival, record.incoming)
            self._begin(timeline, record.arrival.crossing.arrived - (timeline.arrived or 0.0))
            if not self._left.total():
                self._end_restoring()
        elif head is not None:
            self._timeline = head.timeline
        for event in earlier.replay():
            self._replayed = event.at
            if event.noted is not None:
                self._noted(*event.noted)
            self._changed(event.changes)
        self._replayed = None
        self._registry.watchers.append(self._changed)
        self._registry.noted = self._noted

    def report(self, current: Current | None) -> UpdateTimes | None:
        """Returns the timeline of the `current` update, or without one of the last update, as luoctl receives it."""
        timeline = self._timeline if current is None else current.timeline
        if timeline is None:
            return None
        over = timeline.state in ("done", "cancelled")
        origin = self._origin if current is None else current.origin
        members = structs.asdict(timeline) | {
            "now": None if over else round(monotonic() - origin, 6),
            "blackout": timeline.blackout,
            "sessions": tuple(
                replace(session, blackout=timeline.blackout_of(session)) for session in timeline.sessions.values()
            ),
        }
        return UpdateTimes(**members)

    def begin(self, current: Current) -> None:
        """Records the timeline up to now, in place of the last update's."""
        self._begin(current.timeline, current.origin)

    def not_jumped(self, reason: str) -> None:
        """Records that the reboot(2) call of the previous serve returned."""
        if self._timeline is not None and self._timeline.state in ("preparing", "freezing", "jumping"):
            self._record("cancelled", note=reason)

    def _noted(self, row: Row, what: str) -> None:
        """Records that an incoming session was retrieved, or keeps the outcome `what` of one that is about to end."""
        if self._timeline is None or self._timeline.state != "restoring" or row.direction != "incoming":
            return
        session = self._timeline.sessions.get(row.base)
        if what != "retrieved":
            self._outcomes = {row.name: what}
        elif session is not None and session.retrieved is None:
            self._record("retrieved", session.name)

    def _changed(self, changes: tuple[Change, ...]) -> None:
        """Follows the changes of the registry."""
        for row, now in changes:
            if isinstance(row, IncomingRow):
                self._incoming_changed(row, now)

    def _incoming_changed(self, row: IncomingRow, now: Row | None) -> None:
        name = row.base
        now = now if isinstance(now, IncomingRow) else None
        if now is None:
            self._left[name] -= 1
        if self._timeline is None or self._timeline.state != "restoring":
            return
        if now is None and not self._left[name]:
            self._record("gone", name, note=self._outcomes.get(row.name))
        elif now is not None and now.state is IncomingState.RESUMED and row.state is not IncomingState.RESUMED:
            session = self._timeline.sessions.get(name)
            if session is not None and session.resumed is None:
                self._record("resumed", name)
                if self._timeline.all_resumed:
                    self._log_blackout()
        if not self._left.total():
            self._end_restoring()

    def _log_blackout(self) -> None:
        assert self._timeline is not None
        longest = max(
            (p for p in self._timeline.sessions.values() if p.resumed is not None),
            key=lambda p: p.resumed or 0.0,
            default=None,
        )
        if longest is not None:
            self._log(
                "resumed",
                update=self._timeline.update,
                sessions=sum(p.resumed is not None for p in self._timeline.sessions.values()),
                blackout_seconds=f"{self._timeline.blackout or 0.0:.3f}",
                longest=longest.name,
            )

    def _end_restoring(self) -> None:
        assert self._timeline is not None
        self._record("done")
        self._log(
            "restored",
            update=self._timeline.update,
            sessions=len(self._timeline.sessions),
            after_seconds=f"{self._timeline.ended or 0.0:.3f}",
        )

    def _record(self, what: EventKind, session: str = "", *, note: str | None = None) -> None:
        assert self._timeline is not None
        now = monotonic() if self._replayed is None else self._replayed
        event = Event(what, round(now - self._origin, 6), session, note)
        self._timeline = with_event(self._timeline, event)
        if self._file is not None:
            self._append(event)

    # The file.

    def _begin(self, timeline: Timeline, origin: float) -> None:
        """Replaces the recorded timeline by another one."""
        self._timeline, self._origin = timeline, origin
        if self._file is not None:
            self._file.close()
            self._file = None
        head = _Head(self._registry.record.boot_id, origin, timeline)
        try:
            state_file.replace(self._path, msgspec.json.encode(head, enc_hook=encode) + b"\n")
        except OSError as error:
            self._log.warning("timeline-file", error=error)
            return
        self._open(new=True)

    def _open(self, *, new: bool) -> None:
        try:
            self._file = Fd(os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC))
            if not new:
                os.write(self._file.fileno(), b"\n")  # ends a line that may be cut off
        except OSError as error:
            self._log.warning("timeline-file", error=error)

    def _append(self, event: Event) -> None:
        assert self._file is not None
        try:
            os.write(self._file.fileno(), msgspec.json.encode(event) + b"\n")
        except OSError as error:
            self._log.warning("timeline-file", error=error)
            self.close()

    def _read(self) -> _Head | None:
        """Returns the head of the file with all events applied, except incomplete lines; None without a timeline."""
        try:
            with open(self._path, "rb") as file:
                lines = file.read(_MOST_BYTES).splitlines()
            head = msgspec.json.decode(lines[0], type=_Head, dec_hook=Decoder(strict=True))
        except (OSError, IndexError, msgspec.DecodeError):
            return None
        timeline = head.timeline
        for line in lines[1:]:
            try:
                timeline = with_event(timeline, msgspec.json.decode(line, type=Event, dec_hook=Decoder(strict=True)))
            except msgspec.DecodeError:
                continue
        return structs.replace(head, timeline=timeline)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
