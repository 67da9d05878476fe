"""bench.figures: the table of docs/performance.md is read, compared with a run, and rewritten by one."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import figures
from bench.figures import Figure, Machine

HERE = Machine(2, "3.11.2", 50)
PAGE = """# Performance

Text | with a bar.

| figure | unit | now | aim | date | machine |
|---|---|---|---|---|---|
| start | `import asyncio` | 3.9 | 1.8 | 2026-11-27 | 2 CPUs, Python 3.11.2, `import asyncio` in 50 ms |
| a session | ms | 4.5 | 1.5 | 2026-11-27 | 2 CPUs, Python 3.11.2, `import asyncio` in 50 ms |
| memory | MiB |  | 40 |  |  |

More text.
"""


def marked(**measured: float) -> list[str]:
    same = {"start": 3.9, "a_session": 4.5, "memory": 41.0}
    names = {name.replace("_", " "): value for name, value in {**same, **measured}.items()}
    return list(figures.compared(figures.parse(PAGE), names, HERE))


def test_a_table_is_read() -> None:
    assert figures.parse(PAGE) == [
        Figure("start", "`import asyncio`", 3.9, "1.8", "2026-11-27", HERE),
        Figure("a session", "ms", 4.5, "1.5", "2026-11-27", HERE),
        Figure("memory", "MiB", None, "40"),
    ]


@pytest.mark.parametrize(
    ("page", "why"),
    [
        ("", "no table"),
        (PAGE.replace("| 3.9 |", "|"), "6 cells"),
        (PAGE.replace("| 3.9 |", "| fast |"), "fast"),
        (PAGE.replace("50 ms |", "long |"), "no note"),
    ],
)
def test_a_damaged_table_is_refused(page: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        figures.parse(page)


def test_what_is_worse_by_a_fifth_is_marked() -> None:
    assert marked(start=4.6) == marked()
    (worse, unknown) = marked(start=4.8)
    assert worse == "start: 4.8 `import asyncio`, 1.23 times the table's 3.9"
    assert unknown in marked()


def test_what_is_better_is_not_marked() -> None:
    assert marked(start=0.5) == marked()


def test_seconds_are_compared_by_the_speed_of_the_machines() -> None:
    slow = Machine(8, "3.13.1", 100)
    table = figures.parse(PAGE)
    measured = {"start": 3.9, "a session": 9.0, "memory": 41.0}

    assert not [line for line in figures.compared(table, measured, slow) if line.startswith("a session")]
    assert [line for line in figures.compared(table, measured, HERE) if line.startswith("a session")]


def test_figures_of_the_table_or_of_the_run_alone_are_named() -> None:
    lines = list(figures.compared(figures.parse(PAGE), {"start": 3.9, "other": 1.0, "memory": 41.0}, HERE))
    assert lines == [
        "other: 1, and the table has no figure",
        "memory: 41, and the table has no figure",
        "a session: not measured",
    ]


def test_a_run_rewrites_what_it_measured_and_nothing_else() -> None:
    there = Machine(4, "3.13.1", 25)
    page = figures.rewritten(PAGE, {"memory": 41.237, "start": 2.0}, there, "2026-12-01")

    before, after = PAGE.splitlines(), page.splitlines()
    assert [at for at, (old, new) in enumerate(zip(before, after, strict=True)) if old != new] == [6, 8]
    assert figures.parse(page) == [
        Figure("start", "`import asyncio`", 2.0, "1.8", "2026-12-01", there),
        Figure("a session", "ms", 4.5, "1.5", "2026-11-27", HERE),
        Figure("memory", "MiB", 41.2, "40", "2026-12-01", there),
    ]


def test_a_run_cannot_add_a_figure() -> None:
    with pytest.raises(KeyError):
        figures.rewritten(PAGE, {"other": 1.0}, HERE, "2026-12-01")


def test_the_page_of_the_documentation_has_such_a_table() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/performance.md").read_text(encoding="utf-8")
    names = [figure.name for figure in figures.parse(page)]
    assert len(set(names)) == len(names) > 0
