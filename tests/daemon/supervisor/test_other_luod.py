"""Another luod that listens at the place of the sockets, and the rest of one that was killed."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from luod.daemon.supervisor.other_luod import wait_for_orphan
from luod.errors import Refused


@pytest.fixture
def place(tmp_path: Path) -> str:
    return str(tmp_path / "luod.sock")


@pytest.fixture
def listener(place: str) -> Iterator[int]:
    """Returns the id of a child process that listens at `place`. This process has the socket too, as a serve has."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(place)
        pid = os.fork()
        if pid == 0:
            listening.listen()
            os.kill(os.getpid(), signal.SIGSTOP)
            signal.pause()
        os.waitpid(pid, os.WUNTRACED)  # it listens
        yield pid
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_process_that_lives_and_listens_is_another_luod(place: str, listener: int) -> None:
    with pytest.raises(Refused, match=f"process {listener} listens on {place} already"):
        wait_for_orphan(place, time.monotonic(), None, ours=False)


def test_a_process_that_was_killed_and_is_not_reaped_is_no_other_luod(place: str, listener: int) -> None:
    os.kill(listener, signal.SIGKILL)
    os.waitid(os.P_PID, listener, os.WEXITED | os.WNOWAIT)
    assert not wait_for_orphan(place, time.monotonic(), None, ours=False)
