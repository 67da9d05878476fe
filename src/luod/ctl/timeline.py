"""Formats the phases and blackouts of an update as text, for `luoctl timeline`.

The JSON form is `Timeline` (docs/json.md); `luod.ctl.picture` draws the SVG.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from luod.ctl.output import escaped
from luod.frozen import frozen
from luod.ipc.types.admin import SessionTimes, UpdateTimes

_BAR: Final = 60
"""The width of a bar, in characters."""


@frozen
class Phase:
    """The time that a session spent in one phase. `dark`: the phase is part of a known blackout."""

    name: str
    start: float
    stop: float
    dark: bool


def end(told: UpdateTimes) -> float:
    """Returns the end of the time axis: the last resume, the cancellation, or now while sessions are awaited."""
    last = [p.resumed for p in told.sessions if p.resumed is not None]
    awaited = any(p.standing == "ready" and p.resumed is None and p.gone is None for p in told.sessions)
    if told.now is not None and (awaited or told.state in ("preparing", "freezing", "jumping")):
        last.append(told.now)
    if not last and told.ended is not None:
        last.append(told.ended)
    return max([*last, told.arrived or 0.0, told.jumping or 0.0, told.freezing or 0.0, 1e-6])


def phases(told: UpdateTimes, session: SessionTimes) -> list[Phase]:
    """Returns the phases of a session without gaps, from the start of the update to `end`."""
    resumed = session.resumed
    if resumed is None and told.state == "cancelled" and told.arrived is None:
        resumed = told.ended
    if resumed is None and session.standing in ("unasked", "torn", "lost"):
        resumed = session.gone
    until = end(told)
    starts = [("preparing", 0.0), ("freezing", told.freezing), ("jumping", told.jumping)]
    starts += [("restoring", told.arrived), ("resumed", resumed)]
    known = [(name, min(start, until)) for name, start in starts if start is not None]
    found = []
    for number, (name, start) in enumerate(known):
        stop = known[number + 1][1] if number + 1 < len(known) else until
        if stop > start:
            dark = session.standing not in ("unasked", "lost") and name in ("freezing", "jumping", "restoring")
            found.append(Phase(name, start, stop, dark))
    return found


def duration(seconds: float) -> str:
    """Returns a duration as text, with three significant digits below a minute."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    if seconds >= 60:
        return f"{whole // 60} min {whole % 60} s"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size * 0.9995:
            return f"{seconds / size:.3g} {unit}" if seconds < size * 999.5 else f"{seconds / size:.0f} {unit}"
    return "0 s" if seconds <= 0 else "under 1 µs"


def jump_clock(told: UpdateTimes) -> str:
    """Returns the clock that measured the kexec and its uncertainty, or "" before a kexec."""
    if told.clock is None:
        return ""
    name = "the processor's counter" if told.clock == "tsc" else "the wall clock"
    return f"measured with {name}, ±{duration(max(told.error or 0.0, 1e-6))}"


def headline(told: UpdateTimes) -> str:
    """Returns the update and its end, as one line without its reason."""
    state = escaped(told.state)
    if told.state not in ("done", "cancelled"):
        # The file may lack the last phases before the kexec.
        past = "nothing of it reached the next kernel"
        if told.arrived is not None:
            past = "its kernel ended before its sessions were restored"
        state = past if told.now is None else f"{state} now"
    asked = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(told.asked))
    skipped = ", --skip-unready" if told.skip_unready else ""
    way = f", --{told.way}" if told.way != "direct" else ""
    return f"update {escaped(told.update)}, generation {told.generation}, of {asked} UTC: {state}{skipped}{way}"


def stages(told: UpdateTimes) -> Iterator[tuple[str, float, str]]:
    """Yields the phases of the whole update: name, seconds, and for the kexec the clock that measured it."""
    stops = [told.freezing, told.jumping, told.arrived]
    starts: list[float | None] = [0.0, *stops]
    last = told.ended if told.ended is not None else told.now
    for number, name in enumerate(("preparing", "freezing", "jumping", "restoring")):
        start = starts[number]
        stop = next((s for s in (*stops[number:], last) if s is not None), None)
        if start is not None and stop is not None:
            yield name, max(0.0, stop - start), jump_clock(told) if name == "jumping" else ""


def lines(told: UpdateTimes) -> Iterator[str]:
    """Yields the timeline as text."""
    yield headline(told)
    if told.reason:
        yield f"  reason     {escaped(told.reason)}"
    for name, seconds, how in stages(told):
        yield f"  {name:<10} {duration(seconds)}{', ' if how else ''}{how}"
    if known := ", ".join(_blackouts(told)):
        yield f"  blackout   {known}"
    if not told.sessions:
        yield "no sessions"
        return
    width = max(7, *(len(escaped(p.name)) for p in told.sessions))
    yield ""
    yield f"{'SESSION':<{width}}  {_scale(end(told))}  BLACKOUT"
    for session in told.sessions:
        yield f"{escaped(session.name):<{width}}  {bar(told, session)}  {remark(told, session)}".rstrip()
    yield ""
    yield "p preparing  f freezing  j jumping  r restoring  . resumed; capitals: blackout"


def _blackouts(told: UpdateTimes) -> Iterator[str]:
    """Yields the longest blackout of a guest that runs again, and how many guests are paused still."""
    longest = max((p for p in told.sessions if p.blackout is not None), key=lambda p: p.blackout or 0.0, default=None)
    if told.blackout is not None and longest is not None:
        yield f"{duration(told.blackout)} at most, of {escaped(longest.name)}"
    paused = [p.name for p in told.sessions if p.standing == "ready" and p.resumed is None and p.gone is None]
    if told.state == "restoring" and paused:
        yield f"not over of {escaped(paused[0])}" + (f" and {len(paused) - 1} more" if len(paused) > 1 else "")


def _scale(seconds: float) -> str:
    return f"0{duration(seconds):>{_BAR - 1}}"


def bar(told: UpdateTimes, session: SessionTimes) -> str:
    """Returns a session's bar: each phase has at least one letter, which is a capital in the blackout."""
    parts = phases(told, session)
    text = ""
    for number, phase in enumerate(parts):
        rest = len(parts) - number - 1
        stop = round(phase.stop / end(told) * _BAR)
        stop = max(len(text) + 1, min(stop, _BAR - rest))
        letter = "." if phase.name == "resumed" else phase.name[0]
        text += (letter.upper() if phase.dark else letter) * (stop - len(text))
    return f"{text:<{_BAR}}"


def remark(told: UpdateTimes, session: SessionTimes) -> str:
    """Returns a session's blackout, and a remark if the session was not ready or is not resumed."""
    words = [] if session.blackout is None else [duration(session.blackout)]
    if session.standing != "ready":
        words.append(
            {"unasked": "no participant"}.get(session.standing, escaped(session.standing))
            + (f": {escaped(session.reason)}" if session.reason else "")
        )
    elif told.freezing is None:
        words.append("none")
    elif session.blackout is None:
        words.append("released, not resumed" if session.gone is not None else "not resumed yet")
    if session.outcome == "given_up":
        words.append("given up")
    return ", ".join(words)
