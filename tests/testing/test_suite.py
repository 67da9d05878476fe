"""Modules of tests that are imported before programs are forked: a program has what it would have imported itself."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from luod.errors import MachineError
from luod.testing import EmulatedMachine, Machine
from luod.testing.interpreter import Interpreter
from luod.testing.preload import Suite, preload
from luod.testing.starter import outside
from luod.testing.suite import missing

SHOW = """
import json, sys
found = sorted(name for name in sys.modules if name.partition(".")[0] in ("vmms", "single", "broken"))
try:
    import single, vmms.first
    said = [single.__file__, vmms.first.__file__, vmms.first.PLACE]
except ImportError as error:
    said = [str(error)]
print(json.dumps([found, said]))
"""
MODULES = ("vmms.first", "single", "broken", "broken_too")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes the directory of a suite: a package without __init__.py, a module, and two that cannot be imported."""
    directory = tmp_path_factory.mktemp("suite")
    _write(directory)
    (directory / "broken.py").write_text("raise ValueError('this is broken')")
    (directory / "broken_too.py").write_text("raise SystemExit('this ends')")
    return directory


def _write(directory: Path) -> None:
    (directory / "vmms").mkdir()
    (directory / "vmms" / "first.py").write_text("PLACE = __file__\nif __name__ == '__main__': print(PLACE, __name__)")
    (directory / "single.py").write_text("")


@pytest.fixture(scope="module")
def machine(directory: Path) -> Iterator[Machine]:
    before = preload(Suite((str(directory),), MODULES))
    try:
        with EmulatedMachine() as machine:
            yield machine
    finally:
        preload(before)


def shown(
    machine: Machine, python: Interpreter, *directories: Path, forked: bool = True
) -> tuple[list[str], list[str]]:
    """Returns the modules of the suite that a program has at its start, and those that it imports then."""
    path = os.pathsep.join([python.environment["PYTHONPATH"], *map(str, directories)])
    argv = [python.executable, "-c", SHOW]
    found, said = json.loads(machine.run(argv, env={"PYTHONPATH": path}, forked=forked).text)
    return found, said


def test_a_program_that_searches_the_directory_has_the_modules(
    machine: Machine, machine_python: Interpreter, directory: Path
) -> None:
    found, said = shown(machine, machine_python, directory)

    assert found == ["single", "vmms", "vmms.first"]
    assert said == shown(machine, machine_python, directory, forked=False)[1]


def test_a_program_that_searches_more_after_it_has_them_too(
    machine: Machine, machine_python: Interpreter, directory: Path, tmp_path: Path
) -> None:
    assert shown(machine, machine_python, directory, tmp_path)[0] == ["single", "vmms", "vmms.first"]


def test_a_program_that_does_not_search_the_directory_does_not_find_them(
    machine: Machine, machine_python: Interpreter
) -> None:
    assert shown(machine, machine_python) == ([], ["No module named 'single'"])


def test_a_program_that_searches_another_directory_first_has_the_modules_there(
    machine: Machine, machine_python: Interpreter, directory: Path, tmp_path: Path
) -> None:
    _write(tmp_path)

    first = str(tmp_path / "vmms" / "first.py")
    assert shown(machine, machine_python, tmp_path, directory) == ([], [str(tmp_path / "single.py"), first, first])


def test_a_module_that_is_run_is_executed_by_its_own_name(
    machine: Machine, machine_python: Interpreter, directory: Path
) -> None:
    path = os.pathsep.join([machine_python.environment["PYTHONPATH"], str(directory)])
    ran = machine.run(machine_python.module("vmms.first"), env={"PYTHONPATH": path}, forked=True)

    assert ran.text == f"{directory / 'vmms' / 'first.py'} __main__"


@pytest.mark.parametrize(("module", "reason"), [("broken", "this is broken"), ("broken_too", "this ends")])
def test_a_module_that_cannot_be_imported_says_why_where_it_is_run(
    machine: Machine, machine_python: Interpreter, directory: Path, module: str, reason: str
) -> None:
    path = os.pathsep.join([machine_python.environment["PYTHONPATH"], str(directory)])
    ran = machine.run(machine_python.module(module), env={"PYTHONPATH": path}, forked=True, check=False)

    assert ran.returncode == 1
    assert reason in ran.stderr.decode()


def imported_by_a_starter(
    python: Interpreter, directory: Path, name: str, *, stays: bool = False
) -> subprocess.CompletedProcess[str]:
    """Has a starter import the module. Its connection is closed already unless it `stays`."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        if not stays:
            ours.shutdown(socket.SHUT_WR)
        return subprocess.run(
            python.module("luod.testing.starter", str(theirs.fileno()), "json", str(directory), name),
            env={**os.environ, **python.environment},
            pass_fds=[theirs.fileno()],
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=30,
        )


THREAD = "threading.Thread(target=threading.Event().wait, daemon=True).start()"
REFUSALS = {
    THREAD: "starts a thread when it is imported, so no program can be forked after it",
    f"{THREAD}; raise ValueError": "starts a thread when it is imported, so no program can be forked after it",
    "atexit.register(print)": "registers an exit function when it is imported, which every process forked after it "
    "would run",
    "tempfile.TemporaryDirectory()": "registers an exit function when it is imported, which every process forked after "
    "it would run",
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)": "sets the handler of a signal when it is imported, which every "
    "process forked after it would have",
}


@pytest.mark.parametrize("source", REFUSALS)
def test_a_module_that_leaves_more_than_itself_is_refused(
    machine_python: Interpreter, tmp_path: Path, source: str
) -> None:
    (tmp_path / "doing.py").write_text(f"import atexit, signal, tempfile, threading\nkept = {source}")

    ran = imported_by_a_starter(machine_python, tmp_path, "doing", stays=True)

    assert (ran.returncode, ran.stderr) == (1, f"luod_preload: doing {REFUSALS[source]}\n")


def test_a_machine_says_that_a_module_was_refused(tmp_path: Path) -> None:
    (tmp_path / "doing.py").write_text("import atexit; atexit.register(print)")
    before = preload(Suite((str(tmp_path),), ("doing",)))
    try:
        with pytest.raises(MachineError, match="has ended with status 1; its stderr, which is the test's, says why"):
            EmulatedMachine()
    finally:
        preload(before)


def test_what_the_standard_library_registers_for_the_end_is_not_refused(
    machine_python: Interpreter, tmp_path: Path
) -> None:
    (tmp_path / "doing.py").write_text("import asyncio, concurrent.futures.thread, logging, multiprocessing.util")

    assert imported_by_a_starter(machine_python, tmp_path, "doing").returncode == 0


def test_a_machine_that_does_not_start_names_what_is_imported_before(
    machine_python: Interpreter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "blocking.py").write_text("import threading; threading.Event().wait()")
    monkeypatch.setattr(outside, "_SECONDS", 0.1)
    monkeypatch.setattr(outside, "_CLOSING_SECONDS", 0.1)
    before = preload(Suite((str(tmp_path),), ("blocking",)))
    try:
        with pytest.raises(MachineError, match=r"started none within 0 s; .* of luod_preload before: blocking"):
            EmulatedMachine()
        outside.starter_for(machine_python, {**os.environ, **machine_python.environment}).close()
    finally:
        preload(before)


def test_modules_without_a_file_are_missing(directory: Path) -> None:
    assert missing([str(directory)], ["vmms", "vmms.first", "single", "json.decoder"]) == []
    assert missing([str(directory)], ["vmms.second", "first", "double"]) == ["vmms.second", "first", "double"]
