"""The pytest plugin, in a pytest of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = """
from luod.testing import require_tool

def test_passes(luod_machine):
    assert luod_machine.boot == 1

def test_needs_a_tool():
    require_tool("no-such-tool", package="no-such-package")

def test_needs_another():
    require_tool("other-tool", package="another-package")

def test_fails_inside(luod_machine):
    luod_machine.run(["sh", "-c", "echo the reason >&2; exit 5"])
"""


FOREIGN_CONFTEST = """
import pytest

def pytest_addoption(parser):
    parser.addoption("--machine")

@pytest.fixture
def machine(request):
    return request.config.getoption("--machine")
"""
FOREIGN_SUITE = """
import pytest

def test_has_its_own_machine(machine):
    assert machine == "mine"

def test_is_skipped():
    pytest.skip("for a reason of its own")
"""


def run(directory: Path, *arguments: str, ci: str = "", suite: str = SUITE) -> subprocess.CompletedProcess[str]:
    (directory / "test_suite.py").write_text(suite)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments, "test_suite.py"],
        cwd=directory,
        env={**os.environ, "CI": ci, "PYTEST_ADDOPTS": "", "PYTEST_XDIST_WORKER": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def test_skips_are_listed_with_what_brings_the_tools(tmp_path: Path) -> None:
    output = run(tmp_path).stdout
    assert "1 failed, 1 passed, 2 skipped" in output
    section = output.partition("skipped on this host")[2]
    assert "needs no-such-tool, of the Debian package no-such-package:\n    test_suite.py::test_needs_a_tool" in section
    assert "apt-get install --yes another-package no-such-package\n" in section


def test_skips_are_listed_with_xdist(tmp_path: Path) -> None:
    output = run(tmp_path, "-n", "2").stdout
    assert "apt-get install --yes another-package no-such-package\n" in output


def test_missing_tools_fail_in_ci(tmp_path: Path) -> None:
    done = run(tmp_path, "-k", "tool or another", ci="true")
    assert done.returncode == 1
    assert "2 failed" in done.stdout
    assert "nothing may be missing" in done.stdout


def test_failure_inside_is_an_ordinary_failure(tmp_path: Path) -> None:
    output = run(tmp_path, "-k", "fails_inside").stdout
    assert "1 failed" in output
    assert "boot 1" in output
    assert "the reason" in output


def test_a_suite_that_does_not_use_it_looks_as_without_it(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(FOREIGN_CONFTEST)
    done = run(tmp_path, "--machine", "mine", suite=FOREIGN_SUITE)
    assert "1 passed, 1 skipped" in done.stdout
    assert "luod" not in done.stdout.partition("collected")[2]
    assert "skipped on this host" not in done.stdout


def test_every_name_of_the_plugin_begins_with_luod(tmp_path: Path) -> None:
    done = run(tmp_path, "--fixtures", "-q", suite="")
    fixtures = [line.split()[0] for line in done.stdout.splitlines() if "luod/testing/plugin.py" in line]
    assert fixtures
    assert all(name.startswith("luod_") for name in fixtures), fixtures


def test_the_errors_of_machines_are_in_luod_testing() -> None:
    import luod.errors
    import luod.testing

    for name in ("MachineError", "MachineUnavailable", "MachineEnded", "MachineJumped", "ProgramFailed"):
        assert getattr(luod.testing, name) is getattr(luod.errors, name)


@pytest.mark.parametrize("option", ["", "pythonpath = vmms\n"])
def test_programs_find_the_modules_of_luod_preload_imported(tmp_path: Path, option: str) -> None:
    (tmp_path / "vmms").mkdir()
    place = tmp_path / "vmms" if option else tmp_path
    (place / "my_vmm.py").write_text("")
    (tmp_path / "pytest.ini").write_text(f"[pytest]\nluod_preload = my_vmm json\n{option}")
    suite = f"""
SHOW = "import sys; print('my_vmm' in sys.modules)"

def test_has_it(luod_machine, luod_python):
    path = luod_python.environment["PYTHONPATH"] + ":{place}"
    argv = [luod_python.executable, "-c", SHOW]
    assert luod_machine.run(argv, env={{"PYTHONPATH": path}}, forked=True).text == "True"
    assert luod_machine.run(argv, env={{"PYTHONPATH": path}}).text == "False"
"""
    done = run(tmp_path, suite=suite)
    assert "1 passed" in done.stdout, done.stdout


def test_a_module_of_luod_preload_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nluod_preload = json my_vm\n")
    done = run(tmp_path)
    assert done.returncode == 4
    assert f"luod_preload: no module my_vm in {tmp_path}\n" in done.stderr
