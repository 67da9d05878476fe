"""The figures that docs/performance.md promises: a table of it, compared with a run and rewritten by one. Pure.

Less is better in every figure. A figure in seconds depends on the machine, so it is compared in units of the time of
`python3 -c 'import asyncio'`, which each row's note has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from luod.frozen import frozen, replace

WORSE = 1.2
"""A figure that is larger by this factor is marked."""
_HEADER = "| figure | unit | now | aim | date | machine |"
_RULE = "|---|---|---|---|---|---|"
_SECONDS = ("s", "ms", "us")
_NOTE = re.compile(r"(\d+) CPUs, Python (\S+), `import asyncio` in (\d+) ms")


@frozen
class Machine:
    """The machine of a run. `unit`: the milliseconds that `import asyncio` takes there."""

    processors: int
    python: str
    unit: float

    def note(self) -> str:
        return f"{self.processors} CPUs, Python {self.python}, `import asyncio` in {self.unit:.0f} ms"


@frozen
class Figure:
    """A row of the table. `now` is None where nothing was measured yet; `aim` is text, and may be empty."""

    name: str
    unit: str
    now: float | None
    aim: str = ""
    date: str = ""
    machine: Machine | None = None


def parse(page: str) -> list[Figure]:
    """Returns the rows of the table in a page. Raises ValueError for a damaged one."""
    return [_figure(line) for line in _rows(page)]


def rewritten(page: str, measured: Mapping[str, float], machine: Machine, date: str) -> str:
    """Returns the page with the measured figures in place of the earlier ones.

    Raises KeyError for a figure that the table does not have.
    """
    figures = {figure.name: figure for figure in parse(page)}
    for name, value in measured.items():
        figures[name] = replace(figures[name], now=value, date=date, machine=machine)
    table = "\n".join([_HEADER, _RULE, *map(_row, figures.values())])
    return page.replace("\n".join([_HEADER, _RULE, *_rows(page)]), table)


def compared(figures: list[Figure], measured: Mapping[str, float], machine: Machine) -> Iterator[str]:
    """Yields a line for each figure that is worse than in the table, or that one of the two does not have."""
    known = {figure.name: figure for figure in figures}
    for name, value in measured.items():
        figure = known.get(name)
        if figure is None or figure.now is None:
            yield f"{name}: {value:.3g}, and the table has no figure"
            continue
        ratio = value / figure.now if figure.now else float(value > 0) + 1
        if figure.unit in _SECONDS and figure.machine is not None:
            ratio *= figure.machine.unit / machine.unit
        if ratio > WORSE:
            yield f"{name}: {value:.3g} {figure.unit}, {ratio:.2f} times the table's {figure.now:.3g}"
    yield from (f"{name}: not measured" for name in known if name not in measured)


def _rows(page: str) -> list[str]:
    begin = page.find(f"{_HEADER}\n{_RULE}\n")
    if begin < 0:
        raise ValueError(f"the page has no table that begins with {_HEADER}")
    lines = page[begin:].splitlines()[2:]
    end = next((at for at, line in enumerate(lines) if not line.startswith("|")), len(lines))
    return lines[:end]


def _figure(line: str) -> Figure:
    cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
    if len(cells) != 6:
        raise ValueError(f"a row has 6 cells, not {len(cells)}: {line}")
    name, unit, now, aim, date, note = cells
    match = _NOTE.fullmatch(note)
    if note and match is None:
        raise ValueError(f"this is no note on a machine: {note}")
    machine = Machine(int(match[1]), match[2], float(match[3])) if match else None
    return Figure(name, unit, float(now) if now else None, aim, date, machine)


def _row(figure: Figure) -> str:
    now = "" if figure.now is None else f"{figure.now:.3g}"
    note = "" if figure.machine is None else figure.machine.note()
    return f"| {figure.name} | {figure.unit} | {now} | {figure.aim} | {figure.date} | {note} |"
