"""A temporary directory is removed by its owner, or, if that was killed, when the next one is made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from luod.testing.scratch import Scratch
from luod.testing.tools import cannot_run

OWNER = """
import os, sys
from luod.testing.scratch import Scratch
scratch = Scratch("luod-test-", directory=sys.argv[1])
(scratch.path / "file").touch()
if len(sys.argv) > 2:
    os.chown(scratch.path, int(sys.argv[2]), int(sys.argv[2]))
print(scratch.path, flush=True)
sys.stdin.read()
"""


def owner(directory: Path, *arguments: str) -> tuple[subprocess.Popen[str], Path]:
    """Starts a process that owns a scratch directory. Returns it and the directory."""
    command = [sys.executable, "-c", OWNER, str(directory), *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def kill(process: subprocess.Popen[str]) -> None:
    with process:
        process.send_signal(signal.SIGKILL)


def test_it_is_removed_with_what_is_in_it(tmp_path: Path) -> None:
    scratch = Scratch("luod-test-", directory=tmp_path)
    assert scratch.path.name.startswith("luod-test-")
    (scratch.path / "file").touch()
    scratch.remove()
    scratch.remove()
    assert list(tmp_path.iterdir()) == []


def test_that_of_a_killed_process_is_removed_by_the_next(tmp_path: Path) -> None:
    process, left = owner(tmp_path)
    kill(process)
    assert (left / "file").exists()

    Scratch("luod-test-", directory=tmp_path).remove()

    assert list(tmp_path.iterdir()) == []


def test_so_is_one_that_was_given_to_another_uid(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        cannot_run("only root can give a directory to another uid")
    process, left = owner(tmp_path, "1000")
    kill(process)
    assert left.stat().st_uid == 1000

    Scratch("luod-test-", directory=tmp_path).remove()

    assert list(tmp_path.iterdir()) == []


def test_that_of_a_live_process_stays(tmp_path: Path) -> None:
    process, theirs = owner(tmp_path)

    Scratch("luod-test-", directory=tmp_path).remove()

    assert (theirs / "file").exists()
    kill(process)


def test_one_that_is_kept_stays_after_the_process(tmp_path: Path) -> None:
    scratch = Scratch("luod-test-", directory=tmp_path)
    (scratch.path / "serial.log").touch()
    scratch.keep()
    scratch.remove()

    Scratch("luod-test-", directory=tmp_path).remove()

    assert [path.name for path in scratch.path.iterdir()] == ["serial.log"]


@pytest.mark.parametrize("name", ["luod-other-1", "luod-test-2"])
def test_a_directory_of_another_kind_or_without_an_owner_stays(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    if name.startswith("luod-other-"):
        (tmp_path / name / ".owner").touch()

    Scratch("luod-test-", directory=tmp_path).remove()

    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    elsewhere, places = tmp_path / "elsewhere", tmp_path / "places"
    elsewhere.mkdir()
    places.mkdir()
    (elsewhere / "file").touch()
    (elsewhere / ".owner").touch()
    (places / "luod-test-1").symlink_to(elsewhere)

    Scratch("luod-test-", directory=places).remove()

    assert (elsewhere / "file").exists()
