"""The pytest plugin: fixtures that boot machines, and at the end a list of skipped tests and the packages they need.

pytest loads it wherever luod is installed, so every name begins with `luod`, and a run that does not use it looks as
without it. `--luod-machine kernel` boots a real kernel instead of the emulated machine; given for both, every test runs
on both. A machine is closed when its test ends, also after a failure. Processes that it leaves behind are a failure of
its own.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

import pytest

from luod.errors import MachineUnavailable
from luod.testing import preload, suite
from luod.testing.emulated import EmulatedMachine
from luod.testing.interpreter import Interpreter, needed_interpreter
from luod.testing.kernel import KernelMachine
from luod.testing.machine import Machine
from luod.testing.tools import cannot_run, is_ours, package_of

KINDS: Final = ("emulated", "kernel")


class BootMachine(Protocol):
    """The type of the fixture `luod_boot_machine`: boots a machine that is closed when the test ends."""

    def __call__(
        self, *, profile: str = "mainline", user: int | None = None, arguments: tuple[str, ...] = ()
    ) -> Machine: ...


@contextlib.contextmanager
def booting_machines(kind: str, *, scratch: Path | None = None, processors: int = 1) -> Iterator[BootMachine]:
    """Yields a function that boots machines of `kind` (one of KINDS), which are closed when the block ends.

    `processors` are a real kernel's: each is emulated and takes one of the host's, mostly idle. `scratch` is a
    directory of the host to which every machine may write: pytest's base temporary directory. A real kernel's serial
    log goes there too.
    """
    with contextlib.ExitStack() as machines:

        def boot(*, profile: str = "mainline", user: int | None = None, arguments: tuple[str, ...] = ()) -> Machine:
            machine: Machine
            try:
                if kind == "emulated":
                    machine = EmulatedMachine(profile=profile, user=user, arguments=arguments)
                elif profile != "mainline" or user is not None or arguments:
                    pytest.skip("a real kernel has no profiles, and no luoemu to run as a user or with arguments")
                else:
                    folder = None if scratch is None else tempfile.mkdtemp(prefix="kernel-", dir=scratch)
                    shared = [] if scratch is None else [scratch]
                    machine = KernelMachine(folder=folder, writable=shared, processors=processors)
            except MachineUnavailable as error:
                cannot_run(_with_hint(error))
            return machines.enter_context(machine)

        yield boot


def _with_hint(error: MachineUnavailable) -> str:
    return f"{error} ({error.hint})" if error.hint else str(error)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("luod").addoption(
        "--luod-machine",
        action="append",
        choices=KINDS,
        help="the kind of machine that the fixtures of luod give (default: emulated); repeatable",
    )
    parser.addini(
        "luod_preload",
        type="args",
        default=[],
        help="modules of programs that machines start with forked=True, from `pythonpath` or the root directory",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "luod_processors(number): how many a real kernel's machine has (1)")
    if modules := config.getini("luod_preload"):
        _preload(config, modules)


def _preload(config: pytest.Config, modules: list[str]) -> None:
    """Has the modules imported before programs are forked, until `config` is no longer used."""
    directories = [os.path.abspath(path) for path in config.getini("pythonpath") or [config.rootpath]]
    if missing := suite.missing(directories, modules):
        raise pytest.UsageError(f"luod_preload: no module {', '.join(missing)} in {', '.join(directories)}")
    before = preload.preload(preload.Suite(tuple(directories), tuple(modules)))

    def restore() -> None:
        preload.preload(before)

    config.add_cleanup(restore)


def machine_kinds(config: pytest.Config) -> list[str]:
    """Returns the kinds of machine on which this run's tests are to run."""
    return list(dict.fromkeys(config.getoption("luod_machine") or ["emulated"]))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "luod_machine_kind" in metafunc.fixturenames:
        metafunc.parametrize("luod_machine_kind", machine_kinds(metafunc.config), indirect=True, scope="session")


@pytest.fixture(scope="session")
def luod_machine_kind(request: pytest.FixtureRequest) -> str:
    """Returns the kind of the machines: one of KINDS, by the option --luod-machine."""
    kind: str = request.param
    return kind


@pytest.fixture
def luod_boot_machine(
    luod_machine_kind: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BootMachine]:
    """Boots any number of machines, each with its own profile, uid and arguments of `luoemu run`.

    A real kernel has one processor, or as many as the marker `luod_processors` gives.
    """
    marker = request.node.get_closest_marker("luod_processors")
    processors = 1 if marker is None else int(marker.args[0])
    with booting_machines(luod_machine_kind, scratch=tmp_path_factory.getbasetemp(), processors=processors) as boot:
        yield boot


@pytest.fixture
def luod_machine(luod_boot_machine: BootMachine) -> Machine:
    """Returns a booted machine (profile `mainline`, run as the test's own uid), which is closed when the test ends."""
    return luod_boot_machine()


@pytest.fixture(scope="session")
def luod_python() -> Interpreter:
    """Returns a Python with which every uid in a machine can run luod's standard-library part."""
    try:
        return needed_interpreter()
    except MachineUnavailable as error:
        cannot_run(_with_hint(error))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Lists the tests that were skipped by `luod.testing.tools`, and one command that installs the missing packages."""
    skipped: list[pytest.TestReport] = terminalreporter.getreports("skipped")
    reasons: dict[str, list[str]] = {}
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = reason.removeprefix("Skipped: ")
        if is_ours(reason):
            reasons.setdefault(reason, []).append(report.nodeid)
    if not reasons:
        return
    terminalreporter.section("skipped on this host")
    for reason, tests in sorted(reasons.items()):
        terminalreporter.line(f"{reason}:")
        for test in sorted(tests):
            terminalreporter.line(f"    {test}")
    if packages := sorted({package for package in map(package_of, reasons) if package}):
        terminalreporter.line(f"to run them too: apt-get install --yes {' '.join(packages)}")
