"""Draws the picture of `luoctl timeline --svg`: each session has a bar of its phases, with a frame around the blackout.

The SVG is made of rectangles and text, without a library. It is readable on light and dark pages, and repeats in
text the meaning of its colours. No I/O.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from luod.ctl.output import escaped
from luod.ctl.timeline import duration, end, headline, jump_clock, phases, remark, stages
from luod.ipc.types.admin import SessionTimes, UpdateTimes

_WIDTH: Final = 1000
_LEFT: Final = 190
_RIGHT: Final = 810
_TOP: Final = 96
_ROW: Final = 26
_BAR: Final = 14
_NAME: Final = 24
"""The number of characters of a name that are drawn. The bar's title has the whole name."""
COLOURS: Final = {
    "preparing": ("#9ec5fe", "#3d8bfd"),
    "freezing": ("#fd9843", "#fd9843"),
    "jumping": ("#dc3545", "#dc3545"),
    "restoring": ("#e685b5", "#e685b5"),
    "resumed": ("#75b798", "#198754"),
}
"""The colour of each phase on light pages, and on dark ones."""


def _fills(dark: bool) -> str:
    return "\n".join(f".{phase} {{ fill: {colours[dark]}; }}" for phase, colours in COLOURS.items())


_STYLE: Final = f"""
text {{ font: 12px sans-serif; fill: #1f2328; }}
.head {{ font-size: 15px; font-weight: bold; }}
.dim {{ fill: #59636e; }}
.page {{ fill: #ffffff; }}
.grid {{ stroke: #d1d9e0; stroke-width: 1; }}
{_fills(dark=False)}
.aside {{ opacity: 0.45; }}
.blackout {{ fill: none; stroke: #1f2328; stroke-width: 1.5; }}
@media (prefers-color-scheme: dark) {{
text {{ fill: #e6edf3; }}
.dim {{ fill: #9198a1; }}
.page {{ fill: #0d1117; }}
.grid {{ stroke: #3d444d; }}
{_fills(dark=True)}
.blackout {{ stroke: #e6edf3; }}
}}
"""


def svg(told: UpdateTimes) -> str:
    """Returns the picture as a standalone SVG document that ends with a line break."""
    return "\n".join(_parts(told)) + "\n"


def _parts(told: UpdateTimes) -> Iterator[str]:
    height = _TOP + _ROW * max(1, len(told.sessions)) + 44
    label = quoteattr(headline(told))
    yield '<?xml version="1.0" encoding="UTF-8"?>'
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" aria-label={label}>'
    )
    yield f"<style>{_STYLE}</style>"
    yield f'<rect class="page" width="{_WIDTH}" height="{height}"/>'
    yield _text(16, 26, headline(told), "head")
    yield _text(16, 46, _summary(told), "dim")
    for number, name in enumerate(COLOURS):
        yield f'<rect class="{name}" x="{_LEFT + number * 110}" y="60" width="12" height="12"/>'
        yield _text(_LEFT + number * 110 + 17, 70, name)
    yield f'<rect class="blackout" x="{_LEFT + 550}" y="60" width="12" height="12"/>'
    yield _text(_LEFT + 567, 70, "blackout")
    bottom = height - 34
    for moment in ticks(end(told)):
        x = _x(told, moment)
        yield f'<line class="grid" x1="{x:.1f}" y1="{_TOP - 8}" x2="{x:.1f}" y2="{bottom}"/>'
        yield _text(x, bottom + 16, duration(moment), "dim", anchor="middle")
    if not told.sessions:
        yield _text(_LEFT, _TOP + 16, "no sessions", "dim")
    for number, session in enumerate(told.sessions):
        yield from _row(told, session, _TOP + number * _ROW)
    yield "</svg>"


def _summary(told: UpdateTimes) -> str:
    words = [f"{name} {duration(seconds)}" for name, seconds, _ in stages(told)]
    if told.blackout is not None:
        words.append(f"longest blackout {duration(told.blackout)}")
    if told.clock is not None:
        words.append(f"jumping {jump_clock(told)}")
    if told.reason:
        words.append(told.reason)
    return escaped("; ".join(words))


def _row(told: UpdateTimes, session: SessionTimes, y: int) -> Iterator[str]:
    name = escaped(session.name)
    yield "<g>"
    parts = phases(told, session)
    lengths = ", ".join(f"{phase.name} {duration(phase.stop - phase.start)}" for phase in parts)
    yield f"<title>{escape(f'{name}: {lengths}')}</title>"
    yield _text(_LEFT - 10, y + 12, name if len(name) <= _NAME else name[: _NAME - 1] + "…", anchor="end")
    for phase in parts:
        start, stop = _x(told, phase.start), _x(told, phase.stop)
        kind = phase.name if phase.dark or phase.name in ("preparing", "resumed") else f"{phase.name} aside"
        yield f'<rect class="{kind}" x="{start:.2f}" y="{y}" width="{max(stop - start, 0.75):.2f}" height="{_BAR}"/>'
    dark = [phase for phase in parts if phase.dark]
    if dark:
        start, stop = _x(told, dark[0].start), _x(told, dark[-1].stop)
        width = max(stop - start, 0.75)
        yield f'<rect class="blackout" x="{start:.2f}" y="{y - 2}" width="{width:.2f}" height="{_BAR + 4}"/>'
    yield _text(_RIGHT + 10, y + 12, remark(told, session))
    yield "</g>"


def _x(told: UpdateTimes, seconds: float) -> float:
    return _LEFT + (_RIGHT - _LEFT) * min(1.0, seconds / end(told))


def ticks(end: float) -> Iterator[float]:
    """Yields four to nine round values from 0 to `end`, which is greater than 0."""
    step = next(base * 10.0**power for power in range(-6, 12) for base in (1, 2, 5) if base * 10.0**power * 8 >= end)
    for number in range(int(end / step) + 1):
        yield number * step


def _text(x: float, y: float, text: str, kind: str = "", *, anchor: str = "") -> str:
    """Returns a text element. `text` must be `escaped`: XML has no control characters."""
    attributes = (f' class="{kind}"' if kind else "") + (f' text-anchor="{anchor}"' if anchor else "")
    return f'<text x="{x:.1f}" y="{y}"{attributes}>{escape(text)}</text>'
