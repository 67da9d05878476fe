"""Shows the progress of `luoctl update`: as a live table on a terminal, otherwise as a line a change, or as JSON.

luod reports each change as a `luod.ipc.types.admin.Progress`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from luod.ctl.findings import lines
from luod.ctl.output import WAYS, Output, counted, escaped, size
from luod.decode import encode
from luod.ipc.types.admin import Participant, Progress

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live

_WITHOUT_SESSION_MAX: Final = 5
"""The number of participants without a session that are named at a time. Any user may add them."""
_ROWS: Final = 15
"""The number of participants in the table. Awaited ones come first; those left out are counted."""


class View(Protocol):
    def show(self, progress: Progress) -> None: ...


@contextmanager
def view(output: Output) -> Iterator[View]:
    """Yields the view for JSON, a terminal or other text."""
    if output.json or not sys.stdout.isatty():
        yield _Stream(output)
        return
    from rich.live import Live

    table = _Table()
    # Refreshed twice a second, so that the remaining time counts down between events.
    with Live(get_renderable=table.draw, refresh_per_second=2, transient=False) as live:
        table.live = live
        yield table


class _Stream:
    """Prints JSON objects, or lines of text."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._started = time.monotonic()
        self._state = ""
        self._known: dict[int, Participant] = {}
        self._torn: tuple[str, ...] = ()
        self._reason: str | None = None
        self._way = False
        """Whether it is printed."""

    def show(self, progress: Progress) -> None:
        seconds = time.monotonic() - self._started
        if self._output.json:
            self._output.object({"seconds": round(seconds, 6), **encode(progress)})
            if progress.state == "cancelled":
                self._output.verdict(_cancelled(progress), good=False)
            elif progress.refused:
                refusals = ", ".join(escaped(each.name) for each in progress.findings if each.refuses)
                self._output.verdict(f"{_state(progress)}: {refusals}", good=False)
            return
        for line in self._lines(progress):
            self._output.line(f"{seconds:8.3f} s  {line}")

    def _lines(self, progress: Progress) -> Iterator[str]:
        if progress.state == "cancelled":
            yield _cancelled(progress)
            return
        yield from lines(progress.findings, brief=progress.state != "checked")
        before = self._known if progress.state == self._state else {}
        without_session: dict[tuple[str, str | None], list[Participant]] = {}
        for participant in progress.participants:
            old = before.get(participant.id)
            self._known[participant.id] = participant
            if participant.standing != "awaited" and (old is None or old.standing != participant.standing):
                if participant.sessions:
                    yield _sentence(participant)
                else:
                    without_session.setdefault((participant.standing, participant.reason), []).append(participant)
        for group in without_session.values():
            yield from map(_sentence, group[:_WITHOUT_SESSION_MAX])
            if len(group) > _WITHOUT_SESSION_MAX:
                more = counted(len(group) - _WITHOUT_SESSION_MAX, "more participant")
                yield f"and {more} without a session {escaped(group[0].standing)}"
        if progress.state != self._state:
            self._state = progress.state
            left = "" if _left(progress) is None else f", {_left(progress):.0f} s"
            known = counted(len(self._known), "participant")
            count = f": {known}{left}" if self._known and progress.state != "jumping" else ""
            if progress.way is not None and not self._way:
                self._way = True
                yield f"the way: {WAYS[progress.way]}"
            yield _state(progress) + count
            if progress.state == "prepared":
                yield _detached(progress)
        if progress.torn != self._torn:
            self._torn = progress.torn
            yield f"will be torn: {', '.join(map(escaped, progress.torn))}"
        if progress.reason not in (None, self._reason):
            self._reason = progress.reason
            yield escaped(progress.reason or "")


class _Table:
    """A live table of the participants and the remaining time."""

    def __init__(self) -> None:
        self.live: Live | None = None
        self._started = time.monotonic()
        self._known: dict[int, Participant] = {}
        self._heard: dict[int, float] = {}
        self._progress: Progress | None = None
        self._until: float | None = None

    def show(self, progress: Progress) -> None:
        self._known.update({participant.id: participant for participant in progress.participants})
        self._heard.update({participant.id: time.monotonic() for participant in progress.participants})
        self._progress = progress
        if self.live is not None and progress.findings:
            from rich.text import Text

            # Printed above the table, so that the refresh does not remove them.
            self.live.console.print(Text("\n".join(lines(progress.findings, brief=progress.state != "checked"))))
        left = _left(progress)
        self._until = None if left is None else time.monotonic() + left
        if self.live is not None:
            self.live.refresh()

    def draw(self) -> Group:
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        progress = self._progress
        if progress is None:
            return Group(Text("asking luod"))
        seconds = time.monotonic() - self._started
        head = Text(f"{_state(progress)}  {seconds:.1f} s", style="bold")
        if progress.way is not None:
            head.append(f"  {WAYS[progress.way]}", style="dim")
        if self._until is not None:
            head.append(f"  {max(0.0, self._until - time.monotonic()):.0f} s left", style="dim")
        parts: list[Text | Table] = [head]
        if self._known:
            table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
            for title in ("PARTICIPANT", "STANDING", "SECONDS", "SESSIONS", "SIZE", "REASON"):
                table.add_column(title)
            order = ("granted", "awaited", "vetoed", "lost", "ready")
            rows = sorted(
                self._known.values(), key=lambda p: (order.index(p.standing) if p.standing in order else -1, p.id)
            )
            for row in rows[:_ROWS]:
                took = f"{self._seconds(row):.3f}"
                cells = (row.name, row.standing, took, str(len(row.sessions)), size(row.bytes))
                # Text, not str: rich would read a name such as "[red]" as markup.
                table.add_row(*(Text(escaped(cell)) for cell in (*cells, row.reason or "")))
            parts.append(table)
            if len(rows) > _ROWS:
                parts.append(Text(f"and {len(rows) - _ROWS} more", style="dim"))
        if progress.torn and progress.state != "cancelled":
            parts.append(Text(f"will be torn: {', '.join(map(escaped, progress.torn))}", style="red"))
        if progress.reason:
            parts.append(Text(escaped(progress.reason), style="red"))
        if progress.state == "prepared":
            parts.append(Text(_detached(progress)))
        return Group(*parts)

    def _seconds(self, participant: Participant) -> float:
        """Returns the seconds until it reached its standing, or until now while it is awaited."""
        runs = participant.standing == "awaited" and self._progress is not None and self._progress.state != "cancelled"
        return participant.seconds + (time.monotonic() - self._heard[participant.id] if runs else 0.0)


def _left(progress: Progress) -> float | None:
    """Returns the seconds until the deadline; None without one, and in a dry run, which asks no participant."""
    return None if progress.state == "checked" else progress.seconds_left


def _cancelled(progress: Progress) -> str:
    return f"cancelled: {escaped(progress.reason or 'luod gives no reason')}"


def _state(progress: Progress) -> str:
    return "the update would be refused" if progress.refused else escaped(progress.state)


def _detached(progress: Progress) -> str:
    return f"`luoctl wait --update {escaped(progress.update)}` waits for the end of the update"


def _sentence(participant: Participant) -> str:
    why = f": {escaped(participant.reason)}" if participant.reason else ""
    return f"{escaped(participant.name)} {escaped(participant.standing)}{why}"
