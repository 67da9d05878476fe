"""The end of a run: compares its figures with docs/performance.md, or writes them there."""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from bench import figures, startup

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/performance.md"


def finish(measured: Mapping[str, float], mine: Callable[[str], bool], *, update: bool) -> None:
    """Prints what is worse than in the page, or writes the figures there. `mine`: whether a figure is of this run."""
    page = PAGE.read_text(encoding="utf-8")
    unit = 1000 * min(startup.unit() for _ in range(2 * startup.UNITS))
    machine = figures.Machine(os.cpu_count() or 1, sys.version.split()[0], unit)
    if update:
        date = datetime.datetime.now(datetime.UTC).date().isoformat()
        PAGE.write_text(figures.rewritten(page, measured, machine, date), encoding="utf-8")
        print(f"\nwrote {len(measured)} figures to {PAGE.relative_to(ROOT)}")
        return
    known = [figure for figure in figures.parse(page) if mine(figure.name)]
    worse = list(figures.compared(known, measured, machine))
    print(f"\nCompared with {PAGE.relative_to(ROOT)} (worse by {100 * (figures.WORSE - 1):.0f} % or more):")
    print("\n".join(f"  {line}" for line in worse) or "  nothing is worse")
