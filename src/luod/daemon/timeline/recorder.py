"""Records the timeline of the last update. It outlives luod and, with data from the registry, the kexec.

The file `timeline` in the state directory begins with the kernel's boot id, the time of the timeline's second 0, and
the number of its format; a file of another format is not read. Then comes a timeline, and then a line for each event.
The events of one turn of the loop are written together. While the state directory must not be written to
(`luod.daemon.store.write_hold`), the file is in the runtime directory; there it is always the newer one. Nothing
depends on it: a failed write is logged, and the timeline continues in memory.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from time import monotonic

from luod.daemon import clock
from luod.daemon.store.state_file import StateFile
from luod.daemon.store.states import IncomingState
from luod.daemon.timeline import blackouts
from luod.daemon.timeline.timeline import Event, Timeline, after, with_events
from luod.decode import Decoder, Misfit
from luod.frozen import replace
from luod.ipc.types.admin import Blackout, UpdateTimes
from luod.linux import Fd
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from luod.daemon.log import Log
    from luod.daemon.store.registry import Change
    from luod.daemon.store.schema import Departure, Record, Row
    from luod.daemon.store.write_hold import WriteHold
    from luod.daemon.timeline.earlier import Earlier
    from luod.daemon.timeline.timeline import Current, EventKind
    from luod.ipc.types.phases import UpdateState

_FILE: Final = "timeline"
_FORMAT: Final = 1
"""The format of the file. Before 1 it had no number."""
_MOST_BYTES: Final = 4 << 20
_DECODER: Final = Decoder(strict=True)


class Recorder:
    """Owns the file while it is open. Made inside a running loop."""

    def __init__(self, earlier: Earlier, directory: str, log: Log, hold: WriteHold, *, jumping: bool) -> None:
        """Continues the timeline on the disk, or begins one with the registry's data from before the kexec. Then
        records what happened `earlier`. `hold`: whether the file may be written now. `jumping`: the previous serve
        called reboot(2), so its update is not over.
        """
        self._hold = hold
        self._registry = earlier.registry
        self._directory = directory
        self._place = StateFile(directory, _FILE, hold)
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._file: Fd | None = None
        self._in_runtime = False
        """Whether `_file` is the one in the runtime directory."""
        self._blackouts: tuple[float, ...] = ()
        """The blackout that the file of blackouts lacks during a hold."""
        self._aside: Fd | None = None
        """The file in the state directory meanwhile: to close it could wait for the disk."""
        self._origin = 0.0
        self._timeline: Timeline | None = None
        self._past = False
        """The timeline is of a kernel that has ended: it gets no more events."""
        self._events: list[Event] = []
        """Events that `_timeline` lacks."""
        self._unwritten: list[Event] = []
        """Events that the file lacks."""
        self._recorded: set[tuple[EventKind, str]] = set()
        self._frozen: set[str] = set()
        """Sessions whose guests are to resume."""
        self._outcomes: dict[str, str] = {}
        self._replayed: float | None = None
        """The time of an earlier event that is recorded now, of CLOCK_MONOTONIC."""
        record = earlier.record
        self._left = Counter(row.base for row in record.incoming)
        """The number of incoming sessions of each workload that has any."""
        here, arrival = record.boot_id, self._measured(record)
        crossing = None if arrival is None else arrival.crossing
        found = self._found(here)
        if found is not None and found[0] == here:
            _here, self._origin, self._timeline = found
            self._frozen = self._timeline.frozen
            self._save()
            self._go_on(self._timeline, jumping=jumping)
        elif arrival is not None and crossing is not None:
            timeline = after(arrival, record.incoming)
            if found is not None and found[2].update == timeline.update:
                timeline = replace(timeline, way=found[2].way)
            self._begin(timeline, crossing.arrived - (timeline.arrived or 0.0))
            self._end_if_restored()
        elif found is not None:
            self._timeline, self._past = found[2], True
        for event in earlier.replay():
            self._replayed = event.at
            if event.noted is not None:
                self._noted(*event.noted)
            self._changed(event.changes)
        self._replayed = None
        if not self._left:
            log.restoring = None
        self._registry.watchers.append(self._changed)
        self._registry.noted = self._noted

    def _measured(self, record: Record) -> Departure | None:
        """Returns the update of the last kexec, with the duration of the kexec, which is measured once."""
        arrival = record.arrival
        if arrival is None or arrival.left is None or arrival.reached is None or arrival.crossing is not None:
            return arrival
        end = arrival.reached if arrival.pace is None else clock.counted(arrival.reached, arrival.pace)
        took = clock.crossing(arrival.left, arrival.pace, end)
        arrival = replace(arrival, crossing=took)
        self._registry.set_arrival(arrival)
        self._log(
            "arrived",
            update=arrival.update,
            sessions=len(record.incoming),
            torn=sum(row.state is IncomingState.TORN for row in record.incoming),
            jump_seconds=f"{took.seconds:.3f}",
            error_seconds=f"{took.error_seconds:.6f}",
            clock=took.clock,
        )
        return arrival

    def _go_on(self, timeline: Timeline, *, jumping: bool) -> None:
        """Continues the timeline of the previous serve, whose last events may not be in the file."""
        if timeline.state in ("preparing", "freezing", "jumping") and not jumping:
            self._record("cancelled", note="luod ended while it was under way")
        elif timeline.state == "restoring":
            for session in timeline.sessions.values():
                if session.gone is None and session.name not in self._left:
                    self._record("gone", session.name)
            self._end_if_restored()

    def _complete(self) -> Timeline | None:
        """Returns the timeline with all events; None without one."""
        if self._timeline is not None and self._events:
            self._timeline, self._events = with_events(self._timeline, self._events), []
        return self._timeline

    def report(self, current: Current | None) -> UpdateTimes | None:
        """Returns the timeline of the `current` update, or without one of the last update, as luoctl receives it."""
        timeline = self._complete() if current is None else current.timeline
        if timeline is None:
            return None
        over = timeline.state in ("done", "cancelled") or (current is None and self._past)
        origin = self._origin if current is None else current.origin
        members = vars(timeline) | {
            "now": None if over else round(monotonic() - origin, 6),
            "blackout": timeline.blackout,
            "sessions": [
                replace(session, blackout=timeline.blackout_of(session)) for session in timeline.sessions.values()
            ],
        }
        return UpdateTimes(**members)

    def begin(self, current: Current) -> None:
        """Records the timeline up to now, in place of the last update's."""
        self._begin(current.timeline, current.origin)

    def not_jumped(self, reason: str) -> None:
        """Records that the reboot(2) call of the previous serve returned."""
        if self._state in ("preparing", "freezing", "jumping"):
            self._record("cancelled", note=reason)

    @property
    def _state(self) -> UpdateState | None:
        return None if self._timeline is None else self._timeline.state

    def _noted(self, row: Row, what: str) -> None:
        """Records that an incoming session was retrieved, or keeps the outcome `what` of one that is about to end."""
        if self._state != "restoring" or row.direction != "incoming":
            return
        if what != "retrieved":
            self._outcomes = {row.name: what}
        else:
            self._record("retrieved", row.base)

    def _changed(self, changes: tuple[Change, ...]) -> None:
        """Follows the changes of the registry."""
        for row, now in changes:
            if row is None or row.direction != "incoming":
                continue
            if now is None or now.direction != "incoming":
                self._left[row.base] -= 1
                if not self._left[row.base]:
                    del self._left[row.base]
                    self._gone(row)
            elif now.state is not row.state and now.state is IncomingState.RESUMED:
                self._resumed(row.base)

    def _gone(self, row: Row) -> None:
        if self._state == "restoring":
            self._record("gone", row.base, note=self._outcomes.get(row.name))
            self._end_if_restored()

    def _end_if_restored(self) -> None:
        if not self._left and self._state == "restoring":
            self._record("done")
            timeline = self._complete()
            assert timeline is not None
            self._log(
                "restored",
                update=timeline.update,
                sessions=len(timeline.sessions),
                after_seconds=f"{timeline.ended or 0.0:.3f}",
            )
            self._loop.call_soon(self._over)  # what removed the last session has yet to log it
            if timeline.blackout is not None:
                seconds = timeline.blackout
                self._blackouts = (seconds,)
                self._hold.write("blackouts", lambda: self._add_blackout(seconds))

    def _add_blackout(self, seconds: float) -> None:
        """Adds the blackout of this update to the file."""
        self._blackouts = ()
        try:
            blackouts.add(self._directory, seconds)
        except OSError as error:
            self._log.warning("blackouts-file", error=error)

    def expected_blackout(self) -> Blackout | None:
        """Returns what the last updates let expect of the next one; None if none was recorded. For a thread."""
        return blackouts.expected((*self._blackouts, *blackouts.read(self._directory)))

    def _over(self) -> None:
        if not self._left:
            self._log.restoring = None

    def _resumed(self, name: str) -> None:
        if self._state != "restoring" or not self._record("resumed", name) or self._frozen:
            return
        timeline = self._complete()
        assert timeline is not None
        resumed = {p.resumed: p.name for p in timeline.sessions.values() if p.resumed is not None}
        if resumed:
            self._log(
                "resumed",
                update=timeline.update,
                sessions=sum(p.resumed is not None for p in timeline.sessions.values()),
                blackout_seconds=f"{timeline.blackout or 0.0:.3f}",
                longest=resumed[max(resumed)],
            )

    def _record(self, what: EventKind, session: str = "", *, note: str | None = None) -> bool:
        """Records an event. Returns whether it is the first of its kind."""
        if (what, session) in self._recorded:
            return False
        self._recorded.add((what, session))
        if what in ("resumed", "gone"):
            self._frozen.discard(session)
        now = monotonic() if self._replayed is None else self._replayed
        event = Event(what, round(now - self._origin, 6), session, note)
        self._events.append(event)
        if self._hold.waits(_FILE, self._save) is not self._in_runtime:
            self._save()
        elif self._file is not None:
            if not self._unwritten:
                self._loop.call_soon(self._write)
            self._unwritten.append(event)
        if not session:
            self._complete()
        return True

    # The file.

    def _begin(self, timeline: Timeline, origin: float) -> None:
        """Replaces the recorded timeline by another one."""
        self._timeline, self._origin, self._past = timeline, origin, False
        self._events, self._recorded, self._frozen = [], set(), timeline.frozen
        self._save()

    def _save(self) -> None:
        """Makes the file the present timeline: that in the runtime directory during a hold."""
        self._unwritten = []
        waits = self._hold.waits(_FILE, self._save)
        if waits and not self._in_runtime:
            self._file, self._aside = None, self._file
        self._close()
        self._in_runtime = waits
        lines = _line([self._registry.rest.boot_id, self._origin, _FORMAT]) + _line(self._complete())
        try:
            if (path := self._place.replace(lines, self._save)) is not None:
                self._file = Fd(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC))
        except OSError as error:
            self._log.warning("timeline-file", error=error)

    def _write(self) -> None:
        """Appends the events that the file lacks."""
        events, self._unwritten = self._unwritten, []
        if not events:
            return
        if self._hold.waits(_FILE, self._save) is not self._in_runtime:
            self._save()
            return
        if self._file is None:
            return
        try:
            os.write(self._file.fileno(), b"".join(map(_line, events)))
        except OSError as error:
            self._log.warning("timeline-file", error=error)
            self._close()

    def _found(self, here: str) -> tuple[str, float, Timeline] | None:
        """Returns what `_read` finds: that of the kernel `here`, or else that on the disk."""
        found = None
        for path in self._place.paths:
            found = self._read(path)
            if found is not None and found[0] == here:
                break
        return found

    def _read(self, path: str) -> tuple[str, float, Timeline] | None:
        """Returns the kernel and the second 0 of a file, and its timeline with all events but incomplete lines.

        None without a timeline.
        """
        try:
            with open(path, "rb") as file:
                kernel, origin, *number = json.loads(file.readline())
                if number not in ([], [_FORMAT]):
                    return None
                timeline = _DECODER(Timeline, json.loads(file.readline()))
                lines = file.read(_MOST_BYTES).splitlines()
        except (OSError, ValueError, TypeError, Misfit):
            return None
        events = []
        for line in lines:
            try:
                events.append(_DECODER(Event, json.loads(line)))
            except (ValueError, Misfit):
                continue
        return kernel, origin, with_events(timeline, events)

    def close(self) -> None:
        self._write()
        self._close()

    def _close(self) -> None:
        """Closes the file. During a hold, that in the state directory stays open."""
        closed = (self._file,) if self._hold.holds else (self._file, self._aside)
        for file in closed:
            if file is not None:
                file.close()
        self._file = None
        if not self._hold.holds:
            self._aside = None


def _line(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), default=vars).encode() + b"\n"
