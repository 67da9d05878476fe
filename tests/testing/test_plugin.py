"""The pytest plugin, in a pytest of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SUITE = """
from luod.testing import require_tool

def test_passes(machine):
    assert machine.boot == 1

def test_needs_a_tool():
    require_tool("no-such-tool", package="no-such-package")

def test_needs_another():
    require_tool("other-tool", package="another-package")

def test_fails_inside(machine):
    machine.run(["sh", "-c", "echo the reason >&2; exit 5"])
"""


def run(directory: Path, *arguments: str, ci: str = "") -> subprocess.CompletedProcess[str]:
    (directory / "test_suite.py").write_text(SUITE)
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
