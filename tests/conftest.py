"""What holds for all of luod's own tests: none may leave an fd open, and ^C means ^C. And the fixture `luod`."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from luod.testing import Machine
from luod.testing.interpreter import Interpreter
from luod.testing.plugin import KINDS, BootMachine, booting_machines
from luod.testing.starter import outside
from tests.conformance.random_programs.report import collected
from tests.daemon.host import Luod

# A host with other work is slow, and says nothing about the code.
settings.register_profile("any host", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", settings.get_profile("any host"), max_examples=1000)  # `make test-random`
settings.load_profile("any host")


def pytest_configure(config: pytest.Config) -> None:
    """Restores SIGINT's default action: a background job of a shell, such as CI, ignores it, and so would every started
    program.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "jumps_on: the test's machine goes on after it, and holds more after each jump")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Disables the garbage collector while tests are collected: it finds nothing, and takes a fifth of that time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuses names of tests that are others in each process: the workers of xdist must have the same."""
    if named := [item.nodeid for item in items if " at 0x" in item.nodeid]:
        raise pytest.UsageError(f"the name of a test has an address, so give it an id: {named[0]}")


def pytest_addoption(parser: pytest.Parser) -> None:
    short = parser.getgroup("luod's own tests")
    short.addoption("--machine", dest="luod_machine", action="append", choices=KINDS, help="as --luod-machine")
    group = parser.getgroup("random programs")
    group.addoption("--random-programs", type=int, default=11, help="how many, in tests/kernel (default: %(default)s)")
    group.addoption("--random-seed", type=int, default=1, help="the first one's seed (default: %(default)s)")
    group.addoption("--random-program", metavar="FILE", help="this one instead: JSON, as a failure prints it")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the conformance report."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.getreports(outcome)]
    if (tally := collected(reports)).programs:
        terminalreporter.section("conformance of the emulated machine with the real kernel")
        for line in tally.lines():
            terminalreporter.line(line)


def open_fds() -> dict[int, str]:
    """Returns the fds of this process by number, with their links in /proc, without those that serve all tests."""
    found = {}
    for number in set(map(int, os.listdir("/proc/self/fd"))) - outside.fds():
        try:
            found[number] = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:  # the one that read the directory
            continue
    return found


@pytest.fixture(autouse=True)
def _leaves_no_fd_open(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compares /proc/self/fd before and after each test; set up first, so every fixture of the test is over by then."""
    before = open_fds()
    yield
    if open_fds() != before and request.node.get_closest_marker("jumps_on") is None:
        gc.collect()  # a cycle may still hold one; with filterwarnings=error its ResourceWarning fails the test
        assert open_fds() == before


# luod's own tests have its plugin's fixtures by shorter names.


@pytest.fixture(scope="session")
def machine_kind(luod_machine_kind: str) -> str:
    return luod_machine_kind


@pytest.fixture
def boot_machine(luod_boot_machine: BootMachine) -> BootMachine:
    return luod_boot_machine


@pytest.fixture
def machine(boot_machine: BootMachine) -> Machine:
    return boot_machine()


@pytest.fixture(scope="session")
def machine_python(luod_python: Interpreter) -> Interpreter:
    return luod_python


@pytest.fixture
def luod(machine: Machine, tmp_path: Path) -> Luod:
    """Boots a machine with luod running."""
    luod = Luod(machine, state_directory=tmp_path / "state")
    luod.start()
    return luod


@pytest.fixture(scope="module")
def shared_luod(machine_kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Luod]:
    """Boots a machine with luod for the tests of a module that preserve nothing and change nothing of it."""
    with booting_machines(machine_kind, scratch=tmp_path_factory.getbasetemp()) as boot:
        luod = Luod(boot(), tmp_path_factory.mktemp("state"))
        luod.start()
        yield luod
