"""Modules of tests that are imported before programs are forked: a program has what it would have imported itself."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from luod.testing import EmulatedMachine, Machine
from luod.testing.interpreter import Interpreter
from luod.testing.starter import outside
from luod.testing.starter.outside import Suite
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
    before = outside.preload(Suite((str(directory),), MODULES))
    try:
        with EmulatedMachine() as machine:
            yield machine
    finally:
        outside.preload(before)


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


def test_a_module_that_starts_a_thread_is_refused(machine_python: Interpreter, tmp_path: Path) -> None:
    (tmp_path / "threaded.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()"
    )
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ran = subprocess.run(
            machine_python.module("luod.testing.starter", str(theirs.fileno()), "json", str(tmp_path), "threaded"),
            env={**os.environ, **machine_python.environment},
            pass_fds=[theirs.fileno()],
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=30,
        )

    assert ran.returncode == 1
    assert ran.stderr == (
        "luod_preload: threaded starts a thread when it is imported, so no program can be forked after it\n"
    )


def test_modules_without_a_file_are_missing(directory: Path) -> None:
    assert missing([str(directory)], ["vmms", "vmms.first", "single", "json.decoder"]) == []
    assert missing([str(directory)], ["vmms.second", "first", "double"]) == ["vmms.second", "first", "double"]
