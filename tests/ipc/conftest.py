"""A running server of `conversation.py`, and what of it can be seen from outside."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from luod.ipc import framing
from luod.ipc.framing import Inbox, Reply

PROGRAM = Path(__file__).with_name("conversation.py")


@dataclasses.dataclass(frozen=True)
class Server:
    path: str
    process: subprocess.Popen[bytes]

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(self.path)
        return connection

    def fds(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def log(self) -> list[dict[str, Any]]:
        """Ends the server and returns its whole log."""
        self.process.terminate()
        return [json.loads(line) for line in self.process.communicate()[1].splitlines()]

    def memory(self) -> int:
        """Bytes of resident memory."""
        with open(f"/proc/{self.process.pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


class Friend:
    """A well-behaved client: one connection, one call after the other, each answered rightly."""

    def __init__(self, server: Server) -> None:
        self.connection = server.connect()
        self._inbox = Inbox()

    def call(self, method: str, parameters: dict[str, object] | None = None, fds: tuple[int, ...] = ()) -> Reply:
        framing.send(self.connection, framing.encode_call(f"org.example.Talk.{method}", parameters), fds)
        return self.reply()

    def reply(self) -> Reply:
        while (reply := self._inbox.take()) is None:
            data, fds = framing.receive(self.connection)
            assert data, "the server hung up on a well-behaved client"
            self._inbox.feed(data, fds)
        return reply

    def is_served(self, times: int = 3) -> None:
        for number in range(times):
            assert self.call("Echo", {"text": str(number)}).parameters == {"text": str(number)}

    def close(self) -> None:
        self._inbox.close()
        self.connection.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers with the limits given; ended when the test ends."""
    processes: list[subprocess.Popen[bytes]] = []

    def run(**limits: float) -> Server:
        path = str(tmp_path / f"socket{len(processes)}")
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), path, json.dumps(limits)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return Server(path, process)

    yield run
    logs = []
    for process in processes:
        if process.returncode is not None:
            continue
        process.terminate()
        logs.append(process.communicate()[1].decode())
    for log in logs:
        assert "Traceback" not in log, log
        assert "bug" not in [json.loads(line)["event"] for line in log.splitlines()] or "a bug" in log, log


@pytest.fixture
def befriend() -> Iterator[Callable[[Server], Friend]]:
    friends = []

    def make(server: Server) -> Friend:
        friends.append(Friend(server))
        return friends[-1]

    yield make
    for friend in friends:
        friend.close()
