"""The questions to both machines and their results, added up over the tests of a run and printed at its end.

A test leaves its numbers in its report (`record`), so that they arrive from any process in which it ran.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import pytest

PROPERTY = "conformance"


@dataclass(frozen=True)
class Tally:
    """`allowed` is by row of docs/divergences.md; `fleeting` were seen once and not again, and do not count."""

    programs: int = 0
    questions: int = 0
    jumps: int = 0
    differences: int = 0
    allowed: Counter[str] = field(default_factory=Counter)
    fleeting: tuple[str, ...] = ()

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.programs + other.programs,
            self.questions + other.questions,
            self.jumps + other.jumps,
            self.differences + other.differences,
            self.allowed + other.allowed,
            self.fleeting + other.fleeting,
        )

    def lines(self) -> list[str]:
        found = [
            f"{self.questions} operations in {self.programs} random programs over {self.jumps} kexecs, asked of both",
            f"{self.differences} differences found, {sum(self.allowed.values())} allowed by docs/divergences.md",
        ]
        found += [f"{count:8}  {row}" for row, count in self.allowed.most_common()]
        return found + [f"seen once, and not when played again: {what}" for what in self.fleeting]


def record(record_property: Callable[[str, object], None], tally: Tally) -> None:
    """Leaves `tally` in the report of the present test, as plain types: reports cross processes."""
    record_property(PROPERTY, {**asdict(tally), "allowed": dict(tally.allowed)})


def collected(reports: Iterable[pytest.TestReport]) -> Tally:
    """Returns the sum of the numbers in the tests' reports."""
    total = Tally()
    for report in reports:
        for name, value in report.user_properties:
            if name == PROPERTY and isinstance(value, dict):
                total += _tally(value)
    return total


def _tally(value: dict[str, Any]) -> Tally:
    return Tally(**{**value, "allowed": Counter(value["allowed"]), "fleeting": tuple(value["fleeting"])})
