"""The agent's line protocol, spoken by hand to an agent that is an ordinary process here."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
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
    with agent(machine_python) as line:
        yield line


@contextlib.contextmanager
def agent(python: Interpreter, *options: str) -> Iterator[Line]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(60)
        process = subprocess.Popen(
            python.module("luod.testing.agent", "--channel", str(theirs.fileno()), *options),
            env={**os.environ, **python.environment, "LUOEMU_BOOT": "3"},
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


def test_the_hello_has_the_boot_and_the_namespaces(line: Line) -> None:
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
        {"do": "run", "argv": ["true"], "timeout": 10**400},
        {"do": "run", "argv": ["true"], "timeout": float("nan")},
        {"do": "run", "argv": ["true"], "stdin": "§"},
        {"do": "run", "argv": ["true"], "user": "nobody at all"},
        {"do": "run", "argv": ["tr\0ue"]},
        {"do": "ask", "program": 99, "line": ""},
        {"do": "ask", "program": True, "line": ""},
        {"do": "wait", "program": "1"},
        {"do": "signal", "program": 1, "signal": 9},
        {"do": "signal_process", "pid": 2**31, "signal": 9},
        {"do": "signal_process", "pid": 1, "signal": 2**40},
        {"do": "write", "path": "/dev/null", "data": "no base64"},
        {"do": "write", "path": "/dev/null", "data": "", "mode": 2**40},
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


def test_a_time_limit_may_be_longer_than_poll_takes(line: Line) -> None:
    for seconds in (3e6, float("inf")):
        assert line.ask("run", argv=["true"], timeout=seconds)["value"]["returncode"] == 0


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


def test_init_ends_with_the_status_that_it_is_asked_for(line: Line) -> None:
    assert line.ask("exit", status=7) == {"id": 1, "value": None}
    assert line.process.wait(60) == 7


def test_ends_when_the_test_is_gone(line: Line) -> None:
    line.connection.close()
    assert line.process.wait(60) == 1


def ran(line: Line, argv: list[str], *directories: Path, python: Interpreter, **parameters: Any) -> tuple[int, str]:
    """Returns the status and the output of a forked program, which also searches the directories."""
    path = os.pathsep.join([python.environment["PYTHONPATH"], *map(str, directories)])
    value = line.ask("run", argv=argv, forked=True, env={"PYTHONPATH": path}, **parameters)["value"]
    return value["returncode"], base64.b64decode(value["stdout"] + value["stderr"]).decode().strip()


def shows(python: Interpreter, *names: str) -> list[str]:
    """Returns the argv of a program that prints which of these modules it finds imported."""
    return [
        python.executable,
        "-c",
        "import sys; print(*[name for name in sys.argv[1:] if name in sys.modules])",
        *names,
    ]


def test_a_forked_program_finds_imported_what_an_earlier_one_needed_of_luod(machine_python: Interpreter) -> None:
    show = shows(machine_python, "luod.ctl.main", "luod.ctl.admin")
    with agent(machine_python, "--forks") as line:
        assert ran(line, machine_python.module("luod.ctl.main", "--version"), python=machine_python)[0] == 0
        found = ran(line, show, python=machine_python)[1]
        executed = line.ask("run", argv=show)["value"]["stdout"]

    assert found == "luod.ctl.main luod.ctl.admin"
    assert base64.b64decode(executed) == b"\n"


def test_no_program_of_the_test_runs_in_the_agent(machine_python: Interpreter, tmp_path: Path) -> None:
    """Neither one that has no `if __name__`, nor a word of its arguments."""
    (tmp_path / "unguarded.py").write_text("import os; print(os.getppid())")
    (tmp_path / "guest.py").write_text("import os; os._exit(3)")
    with agent(machine_python, "--forks") as line:
        for words in (
            ["unguarded", "-m", "guest"],
            ["unguarded", "--", "luod.testing.started", "--fork", "x", "-m", "guest"],
        ):
            ended = ran(line, machine_python.module(*words), tmp_path, python=machine_python)
            assert ended == (0, str(line.process.pid))


def test_each_program_has_the_modules_of_its_own_search_path(machine_python: Interpreter, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text(f"import part; print(part.NAME, '{name}')")
        (tmp_path / name / "part.py").write_text(f"NAME = '{name}'")
    with agent(machine_python, "--forks", "--preload", str(tmp_path / "one"), "mine part") as line:
        said = [
            ran(line, machine_python.module("mine"), *(tmp_path / name for name in names), python=machine_python)[1]
            for names in (["one", "two"], ["two", "one"], ["two"], ["one"])
        ]

    assert said == ["one one", "two two", "two two", "one one"]


def test_modules_of_luod_preload_are_imported_by_the_agent_for_the_programs_that_are_run(
    machine_python: Interpreter, tmp_path: Path
) -> None:
    for name in ("first", "second", "third"):
        (tmp_path / f"{name}.py").write_text("import asyncio.sslproto; print(asyncio.sslproto.ssl is not None)")
    with agent(machine_python, "--forks", "--preload", str(tmp_path), "first second") as line:
        said = [ran(line, machine_python.module(name), tmp_path, python=machine_python) for name in ("first", "third")]
        found = ran(line, shows(machine_python, "first", "second", "third"), tmp_path, python=machine_python)[1]

    assert said == [(0, "True")] * 2
    assert found == "first"


@pytest.mark.parametrize("is_preloaded", [True, False])
def test_a_program_that_cannot_be_imported_says_why(
    machine_python: Interpreter, tmp_path: Path, is_preloaded: bool
) -> None:
    (tmp_path / "broken.py").write_text("raise SystemExit('broken')")
    options = ["--preload", str(tmp_path), "broken"] if is_preloaded else []
    with agent(machine_python, "--forks", *options) as line:
        assert ran(line, machine_python.module("broken"), tmp_path, python=machine_python) == (1, "broken")


def test_after_a_module_that_may_not_be_preloaded_nothing_is_forked(
    machine_python: Interpreter, tmp_path: Path
) -> None:
    (tmp_path / "handling.py").write_text("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    with agent(machine_python, "--forks", "--preload", str(tmp_path), "handling") as line:
        env = {"PYTHONPATH": os.pathsep.join([machine_python.environment["PYTHONPATH"], str(tmp_path)])}
        for name in ("handling", "luod.ctl.main"):
            error = line.ask("run", argv=machine_python.module(name, "--version"), forked=True, env=env)["error"]
            assert error["kind"] == "BadRequest"
            assert "luod_preload: handling sets the handler of a signal when it is imported" in error["text"]
        assert line.ask("run", argv=machine_python.module("luod.ctl.main", "--version"))["value"]["returncode"] == 0


def test_asyncio_is_imported_for_a_forked_luod_as_luod_does(machine_python: Interpreter) -> None:
    source = "import sys; print('asyncio' in sys.modules, 'luod.daemon.rooms' in sys.modules, 'ssl' in sys.modules)"
    with agent(machine_python, "--forks") as line:
        help_ = line.ask("run", argv=machine_python.module("luod.daemon.main", "--help"), forked=True)["value"]
        shown = line.ask("run", argv=[machine_python.executable, "-c", source], forked=True)["value"]
    assert help_["returncode"] == 0
    assert base64.b64decode(shown["stdout"]) == b"True True False\n"


def test_a_module_of_luod_preload_that_blocks_is_told_before_its_import(
    machine_python: Interpreter, tmp_path: Path
) -> None:
    (tmp_path / "blocking.py").write_text("import threading; threading.Event().wait()")
    with agent(machine_python, "--forks", "--preload", str(tmp_path), "blocking") as line:
        env = {"PYTHONPATH": os.pathsep.join([machine_python.environment["PYTHONPATH"], str(tmp_path)])}
        request = {"id": 1, "agent": line.hello["agent"], "do": "run", "argv": machine_python.module("blocking")}
        line.connection.sendall(json.dumps({**request, "forked": True, "env": env}).encode() + b"\n")
        told = line.read()
        line.process.kill()

    assert told == {"imports": "blocking"}
