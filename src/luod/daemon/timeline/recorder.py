"""The story of the last update, kept so that it outlives luod and, with what the registry carries, the jump.

The file `timeline` in the state directory begins with the story and goes on with a line for each event, so that a luod
that is killed loses nothing that was written, and a thousand sessions cost a thousand lines. Nothing depends on it:
what cannot be written is said and goes on in memory.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from time import monotonic
from typing import Final

import msgspec
from msgspec.structs import replace

from luod.daemon.log import Log
from luod.daemon.store import state_file
from luod.daemon.store.registry import Change, Registry
from luod.daemon.store.schema import Row
from luod.daemon.timeline import timeline
from luod.daemon.timeline.timeline import Current, Event, Happening, Passage, Story
from luod.ipc.types.admin import SessionTimes, UpdateTimes
from luod.linux import Fd

_MOST_BYTES: Final = 4 << 20


class _Head(msgspec.Struct, frozen=True):
    """The first line. `origin` is CLOCK_MONOTONIC, in the kernel `boot_id`, of the story's second 0."""

    boot_id: str
    origin: float
    story: Story


class Chronicle:
    """Owns the file while it is open."""

    def __init__(self, registry: Registry, directory: Path, log: Log, *, jumping: bool) -> None:
        """Goes on with what is on the disk, or begins with what the registry carried over a jump. `jumping`: a serve
        before this one called reboot(2), so its update is not over.
        """
        self._registry = registry
        self._path = directory / "timeline"
        self._log = log
        self._file: Fd | None = None
        self._origin = 0.0
        self._story: Story | None = None
        self._outcomes: dict[str, str] = {}
        record = registry.record
        self._left = Counter(timeline.base_of(row) for row in record.rows if row.direction == "incoming")
        head = self._read()
        if head is not None and head.boot_id == record.boot_id:
            self._origin, self._story = head.origin, head.story
            self._open(new=False)
            if self._story.state in ("preparing", "freezing", "jumping") and not jumping:
                self._tell("cancelled", note="luod ended while it was under way")
            elif self._story.state == "restoring":
                # What was done while nobody wrote: the end of a session that came with the end of luod.
                for passage in self._story.sessions.values():
                    if passage.gone is None and not self._left[passage.name]:
                        self._tell("gone", passage.name)
                if not self._left.total():
                    self._end_restoring()
        elif record.arrival is not None and record.arrival.crossing is not None:
            told = timeline.after(record.arrival, record.rows)
            self._begin(told, record.arrival.crossing.arrived - (told.arrived or 0.0))
            if not self._left.total():
                self._end_restoring()
        elif head is not None:
            self._story = head.story
        registry.watchers.append(self._changed)
        registry.noted = self._noted

    def report(self, current: Current | None) -> UpdateTimes | None:
        """Returns the story of the `current` update, or without one of the last update, as luoctl receives it."""
        told = self._story if current is None else current.story
        if told is None:
            return None
        over = told.state in ("done", "cancelled")
        origin = self._origin if current is None else current.origin
        return UpdateTimes(
            update=told.update,
            generation=told.generation,
            skip_unready=told.skip_unready,
            asked=told.asked,
            state=told.state,
            reason=told.reason,
            freezing=told.freezing,
            jumping=told.jumping,
            arrived=told.arrived,
            ended=told.ended,
            now=None if over else round(monotonic() - origin, 6),
            clock=told.clock,
            error=told.error,
            blackout=told.blackout,
            sessions=[_times(told, passage) for passage in told.sessions.values()],
        )

    def begin(self, current: Current) -> None:
        """Records the story up to now, in place of the last update's."""
        self._begin(current.story, current.origin)

    def not_jumped(self, reason: str) -> None:
        """reboot(2), which a serve before this one called, came back."""
        if self._story is not None and self._story.state in ("preparing", "freezing", "jumping"):
            self._tell("cancelled", note=reason)

    def _noted(self, row: Row, what: str) -> None:
        """An incoming session was handed out, or is about to go as `what`."""
        if self._story is None or self._story.state != "restoring" or row.direction != "incoming":
            return
        passage = self._story.sessions.get(timeline.base_of(row))
        if what != "retrieved":
            self._outcomes = {row.name: what}
        elif passage is not None and passage.retrieved is None:
            self._tell("retrieved", passage.name)

    def _changed(self, changes: tuple[Change, ...]) -> None:
        """Of the registry."""
        for row, now in changes:
            if row is not None and row.direction == "incoming":
                self._incoming_changed(row, now)

    def _incoming_changed(self, row: Row, now: Row | None) -> None:
        name = timeline.base_of(row)
        gone = now is None or now.direction != "incoming"
        if gone:
            self._left[name] -= 1
        if self._story is None or self._story.state != "restoring":
            return
        if gone and not self._left[name]:
            self._tell("gone", name, note=self._outcomes.get(row.name))
        elif now is not None and now.resumed and not row.resumed:
            passage = self._story.sessions.get(name)
            if passage is not None and passage.resumed is None:
                self._tell("resumed", name)
                if self._story.all_resumed:
                    self._log_blackout()
        if not self._left.total():
            self._end_restoring()

    def _log_blackout(self) -> None:
        assert self._story is not None
        longest = max(
            (p for p in self._story.sessions.values() if p.resumed is not None),
            key=lambda p: p.resumed or 0.0,
            default=None,
        )
        if longest is not None:
            self._log(
                "resumed",
                update=self._story.update,
                sessions=sum(p.resumed is not None for p in self._story.sessions.values()),
                blackout_seconds=f"{self._story.blackout or 0.0:.3f}",
                longest=longest.name,
            )

    def _end_restoring(self) -> None:
        assert self._story is not None
        self._tell("done")
        self._log(
            "restored",
            update=self._story.update,
            sessions=len(self._story.sessions),
            after_seconds=f"{self._story.ended or 0.0:.3f}",
        )

    def _tell(self, what: Happening, session: str = "", *, note: str | None = None) -> None:
        assert self._story is not None
        event = Event(what, round(monotonic() - self._origin, 6), session, note)
        self._story = timeline.told(self._story, event)
        if self._file is not None:
            self._append(event)

    # The file.

    def _begin(self, told: Story, origin: float) -> None:
        """A story from its beginning, in place of the one that was there."""
        self._story, self._origin = told, origin
        if self._file is not None:
            self._file.close()
            self._file = None
        head = _Head(self._registry.record.boot_id, origin, told)
        try:
            state_file.replace(self._path, msgspec.json.encode(head) + b"\n")
        except OSError as error:
            self._log.warning("timeline-file", error=error)
            return
        self._open(new=True)

    def _open(self, *, new: bool) -> None:
        try:
            self._file = Fd(os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC))
            if not new:
                os.write(self._file.fileno(), b"\n")  # after a line that was cut off
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
        """What the file tells, with the story as it went on; lines that were cut off are left out. None: no story."""
        try:
            with open(self._path, "rb") as file:
                lines = file.read(_MOST_BYTES).splitlines()
            head = msgspec.json.decode(lines[0], type=_Head)
        except (OSError, IndexError, msgspec.DecodeError):
            return None
        told = head.story
        for line in lines[1:]:
            try:
                told = timeline.told(told, msgspec.json.decode(line, type=Event))
            except msgspec.DecodeError:
                continue
        return replace(head, story=told)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _times(told: Story, passage: Passage) -> SessionTimes:
    return SessionTimes(
        name=passage.name,
        owner=passage.owner,
        bytes=passage.bytes,
        standing=passage.standing,
        reason=passage.reason,
        prepared=passage.prepared,
        frozen=passage.frozen,
        retrieved=passage.retrieved,
        resumed=passage.resumed,
        gone=passage.gone,
        outcome=passage.outcome,
        blackout=told.blackout_of(passage),
    )
