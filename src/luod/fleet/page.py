"""Writes the report of a rehearsal as a page: one file without scripts, for phones too, light or dark by the reader.

It has the hosts over time, with the phases in the colours of `luoctl timeline --svg`, the blackouts of guests, and the
findings by kind. Pure.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from html import escape
from typing import Final

from luod.ctl.output import escaped
from luod.ctl.picture import COLOURS, ticks
from luod.ctl.timeline import duration, stages
from luod.fleet import text
from luod.fleet.outcome import MEANINGS, HostReport, Report

_GROUPS: Final = 12
"""The most bars of the distribution."""
_STANDINGS: Final = {
    "updated": "var(--good)",
    "unchanged": "var(--dim)",
    "refused": "var(--warn)",
    "incomplete": "var(--bad)",
    "lost": "var(--bad)",
    "untouched": "var(--dim)",
}
_STYLE: Final = """
:root { color-scheme: light dark; --page: #fff; --ink: #1f2328; --dim: #59636e; --line: #d1d9e0; --box: #f6f8fa;
  --good: #1a7f37; --warn: #bc4c00; --bad: #cf222e; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 1rem; font: 1rem/1.45 sans-serif; background: var(--page);
  color: var(--ink); }
h1 { font-size: 1.4rem; margin: 0 0 .3rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; }
.dim { color: var(--dim); } .sums { display: flex; flex-wrap: wrap; gap: .6rem; padding: 0; list-style: none; }
.sums li { background: var(--box); border-left: .3rem solid; border-radius: .3rem; padding: .4rem .8rem; }
.sums b { font-size: 1.3rem; display: block; color: var(--ink); } .sums span { color: var(--ink); }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1rem; margin: 0 0 .6rem; padding: 0; list-style: none; }
.legend i { display: inline-block; width: .8rem; height: .8rem; margin-right: .3rem; border-radius: .15rem; }
.host { display: grid; grid-template-columns: 14rem 1fr 14rem; gap: .1rem .8rem; align-items: center;
  padding: .3rem 0; border-top: 1px solid var(--line); }
.name, .note { overflow-wrap: anywhere; } .note { font-size: .85rem; }
.bar { position: relative; height: 1.1rem; background: var(--box); border-radius: .2rem; overflow: hidden; }
.bar i { position: absolute; top: 0; bottom: 0; min-width: 2px; }
.axis { display: grid; grid-template-columns: 14rem 1fr 14rem; gap: .8rem; font-size: .75rem; }
.axis div { grid-column: 2; position: relative; height: 1.2rem; }
.axis span { position: absolute; white-space: nowrap; }
.axis span + span { transform: translateX(-50%); } .axis span:last-child { transform: translateX(-100%); }
.row { display: grid; grid-template-columns: 11rem 1fr 4rem; gap: .8rem; align-items: center; margin: .2rem 0; }
.row i { display: block; height: 1rem; border-radius: .2rem; background: var(--jumping); }
.badge { font-size: .8rem; font-weight: bold; }
@media (max-width: 45rem) {
  .host { grid-template-columns: 1fr auto; } .host .bar { grid-column: 1 / -1; grid-row: 2; }
  .host .note { grid-column: 1 / -1; grid-row: 3; } .axis { grid-template-columns: 1fr; } .axis div { grid-column: 1; }
  .row { grid-template-columns: 7.5rem 1fr 3rem; }
}
@media (prefers-color-scheme: dark) {
  :root { --page: #0d1117; --ink: #e6edf3; --dim: #9198a1; --line: #3d444d; --box: #1c2128;
    --good: #3fb950; --warn: #f0883e; --bad: #f85149; }
}
"""


def html(report: Report) -> str:
    """Returns the page as a document that ends with a line break."""
    return "\n".join(_parts(report)) + "\n"


def _parts(report: Report) -> Iterator[str]:
    asked = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(report.asked))
    title = f"Rehearsal of {escaped(report.playbook)}"
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{escape(title)}</title>\n<style>{_colours(dark=False)}{_STYLE}"
    yield f"@media (prefers-color-scheme: dark) {{ {_colours(dark=True)} }}\n</style>\n</head>\n<body>"
    yield f"<h1>{escape(title)}</h1>"
    stopped = f", and stopped at {', '.join(map(escaped, report.stopped_at))}" if report.stopped_at else ""
    took = f"{asked} UTC; the roll-out took {duration(report.seconds)}{stopped}"
    yield f'<p class="dim">{escape(took)}; ansible-playbook ended with status {report.status}</p>'
    yield '<ul class="sums">'
    for standing, meaning in MEANINGS.items():
        if number := len(report.of(standing)):
            what = f'<b>{number}</b> <span title="{escape(meaning)}">{standing}</span>'
            yield f'<li style="border-color: {_STANDINGS[standing]}">{what}</li>'
    yield "</ul>\n<h2>Hosts</h2>\n" + _legend()
    end = _end(report)
    yield _axis(end)
    for host in report.hosts:
        yield _host(report, host, end)
    yield from _distribution(text.blackouts_of(report))
    yield from _findings(report)
    yield "</body>\n</html>"


def _colours(*, dark: bool) -> str:
    variables = "; ".join(f"--{phase}: {colours[dark]}" for phase, colours in COLOURS.items())
    return f":root {{ {variables}; }}"


def _legend() -> str:
    items = (f'<li><i style="background: var(--{name})"></i>{name}</li>' for name in COLOURS if name != "resumed")
    return f'<ul class="legend">{"".join(items)}</ul>'


def _end(report: Report) -> float:
    """Returns the end of the axis, in seconds since the roll-out began."""
    ends = [part[2] for host in report.hosts for part in _bars(report, host)]
    return max([report.seconds, *ends, 1e-3])


def _bars(report: Report, host: HostReport) -> Iterator[tuple[str, float, float]]:
    """Yields the phases of a host's update: name, begin and end in seconds since the roll-out began."""
    told = host.timeline
    if told is None:
        return
    at = told.asked - report.asked
    for name, seconds, _how in stages(told):
        if at + seconds > 0:  # an update of an earlier run of the playbook has none
            yield name, max(0.0, at), at + seconds
        at += seconds


def _axis(end: float) -> str:
    marks = "".join(f'<span style="left: {at / end:.2%}">{duration(at)}</span>' for at in ticks(end))
    return f'<div class="axis dim"><div>{marks}</div></div>'


def _host(report: Report, host: HostReport, end: float) -> str:
    parts = "".join(
        f'<i style="left: {start / end:.3%}; width: {(stop - start) / end:.3%}; background: var(--{name})" '
        f'title="{name} {duration(stop - start)}"></i>'
        for name, start, stop in _bars(report, host)
    )
    colour = _STANDINGS[host.standing]
    badge = f'<span class="badge" style="color: {colour}">{host.standing}</span>'
    notes = [] if host.blackout is None else [f"blackout {duration(host.blackout)}"]
    if note := text.note(host):
        notes.append(note)
    return (
        f'<div class="host"><div class="name">{escape(escaped(host.name))} {badge}</div><div class="bar">{parts}</div>'
        f'<div class="note dim">{escape("; ".join(notes))}</div></div>'
    )


def _distribution(blackouts: list[float]) -> Iterator[str]:
    if not blackouts:
        return
    yield f"<h2>Blackouts of {len(blackouts)} guests</h2>"
    yield from _rows(groups(blackouts))


def groups(blackouts: list[float]) -> list[tuple[str, int]]:
    """Returns the number of blackouts in each step of a round scale, from the step of the shortest to the longest's.

    `blackouts` has one at least.
    """
    longest = max(*blackouts, 1e-3)
    marks = list(ticks(longest * _GROUPS / 8))
    step = marks[1] if len(marks) > 1 else longest
    counted = Counter(int(seconds / step) for seconds in blackouts)
    steps = range(min(counted), max(counted) + 1)
    return [(f"{duration(number * step)} to {duration((number + 1) * step)}", counted[number]) for number in steps]


def _findings(report: Report) -> Iterator[str]:
    found = Counter(name for host in report.hosts for name in host.findings)
    if found:
        yield "<h2>Findings, by number of hosts</h2>"
        yield from _rows([(escaped(name), number) for name, number in found.most_common()])


def _rows(rows: list[tuple[str, int]]) -> Iterator[str]:
    most = max(number for _name, number in rows)
    for name, number in rows:
        width = f"{number / most:.1%}"
        yield f'<div class="row"><span>{escape(name)}</span><i style="width: {width}"></i><span>{number}</span></div>'
