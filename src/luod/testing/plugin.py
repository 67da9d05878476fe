"""The pytest plugin: fixtures that boot machines, and at the end the list of what was skipped and what brings it.

pytest finds it by itself wherever luod is installed. A machine is closed when its test ends, also when it failed, and
leaving something behind is a failure of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

import pytest

from luod.errors import MachineUnavailable
from luod.testing.emulated import EmulatedMachine
from luod.testing.interpreter import Interpreter, interpreter_for
from luod.testing.machine import Machine
from luod.testing.tools import cannot_run, package_of


class BootMachine(Protocol):
    """What the fixture `boot_machine` is: boots a machine that is closed when the test ends."""

    def __call__(
        self, *, profile: str = "mainline", user: int | None = None, arguments: tuple[str, ...] = ()
    ) -> Machine: ...


@contextlib.contextmanager
def booting_machines(kind: str) -> Iterator[BootMachine]:
    """Yields a function that boots machines of `kind` ("emulated"), which are closed when the block ends."""
    with contextlib.ExitStack() as machines:

        def boot(*, profile: str = "mainline", user: int | None = None, arguments: tuple[str, ...] = ()) -> Machine:
            try:
                machine = EmulatedMachine(profile=profile, user=user, arguments=arguments)
            except MachineUnavailable as error:
                cannot_run(str(error))
            return machines.enter_context(machine)

        yield boot


@pytest.fixture(scope="session", params=["emulated"])
def machine_kind(request: pytest.FixtureRequest) -> str:
    """The kind of machine `machine` and `boot_machine` give."""
    kind: str = request.param
    return kind


@pytest.fixture
def boot_machine(machine_kind: str) -> Iterator[BootMachine]:
    """Boots machines, as many as a test wants, each with its own profile, uid and arguments of `luoemu run`."""
    with booting_machines(machine_kind) as boot:
        yield boot


@pytest.fixture
def machine(boot_machine: BootMachine) -> Machine:
    """A booted machine (profile `mainline`, run as the test's own uid), closed when the test ends."""
    return boot_machine()


@pytest.fixture(scope="session")
def machine_python() -> Interpreter:
    """A Python that every uid in a machine can run luod's standard-library part with."""
    return interpreter_for() or cannot_run("there is no Python that can import luod")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Lists what was skipped, by name and reason, and the one line that brings what is missing."""
    skipped: list[pytest.TestReport] = terminalreporter.getreports("skipped")
    reasons: dict[str, list[str]] = {}
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons.setdefault(reason.removeprefix("Skipped: "), []).append(report.nodeid)
    if not reasons:
        return
    terminalreporter.section("skipped on this host")
    for reason, tests in sorted(reasons.items()):
        terminalreporter.line(f"{reason}:")
        for test in sorted(tests):
            terminalreporter.line(f"    {test}")
    if packages := sorted({package for package in map(package_of, reasons) if package}):
        terminalreporter.line(f"to run them too: apt-get install --yes {' '.join(packages)}")
