"""A child process waits at its gate, is waited for, and is killed with its process group."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from luod.daemon.processes.child import Child, Children, Outcome
from luod.linux import Fd
from luod.testing import eventually

NAME = "child.1"


@contextmanager
def child(script: str, **options: Any) -> Iterator[Child]:
    """Yields a shell that runs `script` behind the gate."""
    started = Child("luod.daemon.processes.gate", ["/bin/sh", "-c", script], **options)
    try:
        yield started
    finally:
        started.close()


class Store(dict[str, Fd]):
    """The part of `luod.daemon.store.fd_store` that `Children` needs, without a supervisor."""

    async def store(self, files: dict[str, Fd]) -> None:
        self.update({name: file.duplicate() for name, file in files.items()})

    async def drop(self, name: str) -> None:
        self.pop(name).close()


def run(script: str, seconds: float = 60.0, **options: Any) -> Outcome:
    fds: Any = Store()

    async def main() -> Outcome:
        with child(script, **options) as started:
            return await Children(fds).run(started, NAME, seconds)

    outcome = asyncio.run(main())
    assert fds == {}
    return outcome


def test_a_child_that_does_its_work_is_no_failure() -> None:
    assert run("echo done; echo aside >&2") == Outcome(None, 0, False, "done")


def test_its_report_may_be_its_standard_error() -> None:
    assert run("echo aside; echo why >&2", output="stderr") == Outcome(None, 0, False, "why")


def test_it_has_its_fds_by_name_and_its_environment() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"through the pipe\n")
    os.close(writer)
    try:
        outcome = run('echo "$GIVEN $(cat /proc/self/fd/$INPUT)"', fds={"INPUT": reader}, environment={"GIVEN": "and"})
    finally:
        os.close(reader)
    assert outcome.report == "and through the pipe"


@pytest.mark.parametrize(
    ("script", "failure", "status"),
    [("exit 3", "it ended with status 3", 3), ("kill -TERM $$", "it was ended by signal 15", -15)],
)
def test_why_it_failed_is_said_in_words(script: str, failure: str, status: int) -> None:
    assert run(script) == Outcome(failure, status, False, "")


def test_one_that_takes_too_long_is_killed_with_its_process_group(tmp_path: Path) -> None:
    outcome = run(f"sleep 1000 & echo $! > {tmp_path}/pid; wait", 2.0)
    assert outcome == Outcome("it took longer than 2 s, and was ended", -9, True, "")
    other = (tmp_path / "pid").read_text().strip()
    eventually(lambda: not is_running(other), describe=f"process {other} of the group has ended")


def test_one_that_a_signal_ends_leaves_nothing_of_its_process_group(tmp_path: Path) -> None:
    outcome = run(f"sleep 1000 & echo $! > {tmp_path}/pid; kill -KILL $$")
    assert outcome.status == -9
    other = (tmp_path / "pid").read_text().strip()
    eventually(lambda: not is_running(other), describe=f"process {other} of the group has ended")


@pytest.mark.parametrize("script", ["exit 3", "kill -KILL $$"])
def test_its_end_can_be_awaited_again(script: str) -> None:
    async def main() -> list[bool]:
        with child(script) as started:
            started.go()
            return [await started.ended(60.0) for _ in range(2)]

    assert asyncio.run(main()) == [True, True]


def test_what_one_leaves_behind_that_ends_by_itself_runs_on(tmp_path: Path) -> None:
    run(f"sleep 1000 >/dev/null 2>&1 & echo $! > {tmp_path}/pid")
    other = (tmp_path / "pid").read_text().strip()
    try:
        assert is_running(other)
    finally:
        os.kill(int(other), signal.SIGKILL)


def test_one_that_is_not_let_go_does_nothing(tmp_path: Path) -> None:
    async def main() -> int | None:
        with child(f"touch {tmp_path}/done") as started:
            started.kill()
            assert await started.ended(60.0)
            return started.status

    assert asyncio.run(main()) == -9
    assert list(tmp_path.iterdir()) == []


def is_running(pid: str) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
