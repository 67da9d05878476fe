"""The agent's line protocol, spoken by hand to an agent that is an ordinary process here."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from luod.testing.interpreter import Interpreter


@dataclass
class Line:
    """The other end of an agent's channel."""

    connection: socket.socket
    process: subprocess.Popen[bytes]
    hello: dict[str, Any] = field(default_factory=dict)
    rest: bytes = b""

    def read(self) -> dict[str, Any]:
        while b"\n" not in self.rest:
            data = self.connection.recv(1 << 16)
            if not data:
                raise EOFError
            self.rest += data
        line, _, self.rest = self.rest.partition(b"\n")
        return json.loads(line) if line else self.read()

    def ask(self, do: str, **parameters: Any) -> dict[str, Any]:
        request = {"id": 1, "agent": self.hello["agent"], "do": do, **parameters}
        self.connection.sendall(json.dumps(request).encode() + b"\n")
        while (answer := self.read()).get("id") != request["id"]:
            pass
        return answer


@pytest.fixture
def line(machine_python: Interpreter) -> Iterator[Line]:
    """Yields an agent that has said hello."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(60)
        process = subprocess.Popen(
            machine_python.module("luod.testing.agent", "--channel", str(theirs.fileno())),
            env={**os.environ, **machine_python.environment, "LUOEMU_BOOT": "3"},
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        try:
            line = Line(ours, process)
            line.hello = line.read()
            yield line
        finally:
            ours.close()
            process.wait(60)


def test_hello(line: Line) -> None:
    assert line.hello["hello"] == 3
    assert line.hello["namespaces"]["pid"] == os.readlink("/proc/self/ns/pid")


@pytest.mark.parametrize(
    "garbage",
    [b"{", b"[]", b"1", b"null", b"\xff\xfe", b'{"id": 1', b"[" * 5000, b'"' + b"x" * 100_000],
    ids=lambda value: repr(value[:10]),
)
def test_garbage_is_answered_and_survived(line: Line, garbage: bytes) -> None:
    line.connection.sendall(garbage + b"\n")
    answer = line.read()
    assert answer["id"] is None
    assert answer["error"]["kind"] == "BadRequest"
    assert line.ask("read", path="/dev/null") == {"id": 1, "value": ""}


@pytest.mark.parametrize(
    "request_",
    [
        {"do": "no such verb"},
        {"do": 1},
        {"do": "run"},
        {"do": "run", "argv": "true"},
        {"do": "run", "argv": []},
        {"do": "run", "argv": ["true"], "timeout": "soon"},
        {"do": "run", "argv": ["true"], "stdin": "§"},
        {"do": "run", "argv": ["true"], "user": "nobody at all"},
        {"do": "run", "argv": ["tr\0ue"]},
        {"do": "ask", "program": 99, "line": ""},
        {"do": "ask", "program": True, "line": ""},
        {"do": "wait", "program": "1"},
        {"do": "signal", "program": 1, "signal": 9},
        {"do": "write", "path": "/dev/null", "data": "no base64"},
        {"do": "exit", "status": "0"},
    ],
    ids=str,
)
def test_requests_that_make_no_sense(line: Line, request_: dict[str, Any]) -> None:
    assert line.ask(**request_)["error"]["kind"] == "BadRequest"
    assert line.ask("read", path="/dev/null") == {"id": 1, "value": ""}


def test_request_for_another_boot_is_dropped(line: Line) -> None:
    late = {"id": 7, "agent": "an earlier one", "do": "exit", "status": 0}
    line.connection.sendall(json.dumps(late).encode() + b"\n")
    assert line.ask("read", path="/dev/null") == {"id": 1, "value": ""}


def test_errno_of_a_file(line: Line) -> None:
    error = line.ask("read", path="/no/such/file")["error"]
    assert (error["kind"], error["errno"]) == ("FileNotFoundError", 2)


def test_several_requests_in_one_write(line: Line) -> None:
    requests = [
        json.dumps({"id": number, "agent": line.hello["agent"], "do": "read", "path": "/dev/null"})
        for number in range(10, 20)
    ]
    line.connection.sendall("\n".join(requests).encode() + b"\n")
    assert [line.read()["id"] for _ in requests] == list(range(10, 20))


def test_answers_come_when_they_are_there(line: Line) -> None:
    slow = {"id": 10, "agent": line.hello["agent"], "do": "run", "argv": ["sleep", "1000"], "timeout": 0.5}
    line.connection.sendall(json.dumps(slow).encode() + b"\n")
    assert line.ask("read", path="/dev/null") == {"id": 1, "value": ""}
    value = line.read()["value"]
    assert (value["returncode"], value["timed_out"]) == (-9, True)


def test_zeros_and_newlines_pass(line: Line) -> None:
    data = bytes(range(256)) * 10_000
    value = line.ask("run", argv=["cat"], stdin=base64.b64encode(data).decode())["value"]
    assert base64.b64decode(value["stdout"]) == data


def test_program_that_closes_its_pipes_and_runs_on(line: Line) -> None:
    program = line.ask("spawn", argv=["sh", "-c", "exec <&- >&- 2>&-; sleep 1000"])["value"]["program"]
    line.connection.sendall(
        json.dumps({"id": 5, "agent": line.hello["agent"], "do": "ask", "program": program, "line": "x"}).encode()
        + b"\n"
    )
    line.ask("signal", program=program, signal=9)
    said = [line.read(), line.read()]
    assert {"program": program, "ended": -9} in said
    assert [answer["error"]["kind"] for answer in said if "error" in answer] == ["Ended"]


def test_daemon_that_keeps_the_pipes_is_not_waited_for(line: Line) -> None:
    value = line.ask("run", argv=["sh", "-c", "sleep 1000 & echo $!"])["value"]
    os.kill(int(base64.b64decode(value["stdout"])), 9)
    assert value["returncode"] == 0


def test_exit_status(line: Line) -> None:
    assert line.ask("exit", status=7) == {"id": 1, "value": None}
    assert line.process.wait(60) == 7


def test_ends_when_the_test_is_gone(line: Line) -> None:
    line.connection.close()
    assert line.process.wait(60) == 1
