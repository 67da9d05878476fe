"""The figures of all attacks, printed after the tests."""

from __future__ import annotations

import pytest

from tests.hostile.figures import Figures, lines


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    return Figures(request)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.getreports(outcome)]
    measured = list(lines(reports))
    if measured:
        terminalreporter.section("a well-behaved client while luod is attacked")
        for test, line in measured:
            terminalreporter.line(f"{test}: {line}")
