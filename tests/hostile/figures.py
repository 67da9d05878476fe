"""Figures of a well-behaved client and of serve while luod is attacked; `conftest.py` prints them after the tests.

before = footprint(luod)
with attack(luod, 1000, connections=128, messages=[…]):
    times = Client(luod, 0).times("io.luod.Sessions.List", 100)
figures.add("List of root", idle=idle, attacked=times)
figures.serve(before, footprint(luod))
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from luod.testing import Program, eventually
from luod.testing.host import SOCKET
from tests.daemon.host import Luod, until_complete
from tests.library import start_vmm

MIB = 1024 * 1024


@dataclass(frozen=True)
class Times:
    """Milliseconds of calls of one kind."""

    ms: tuple[float, ...]

    def percentile(self, percent: float) -> float:
        ordered = sorted(self.ms)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]

    @property
    def p50(self) -> float:
        return self.percentile(50)

    @property
    def p99(self) -> float:
        return self.percentile(99)


@dataclass(frozen=True)
class Footprint:
    """serve's resources: the number of its fds, and bytes of resident memory."""

    pid: int
    fds: int
    memory: int


def footprint(luod: Luod) -> Footprint:
    until_complete(luod)
    pid = luod.serve_pid()
    resident = int(luod.machine.read(f"/proc/{pid}/statm").split()[1])
    # Not with `ls -l`: an fd that is closed meanwhile is not an error.
    fds = luod.machine.run(["ls", f"/proc/{pid}/fd"]).text.split()
    return Footprint(pid, len(fds), resident * os.sysconf("SC_PAGESIZE"))


def settled(luod: Luod, before: Footprint) -> Footprint:
    """Returns the footprint when serve has no more fds than before.

    It sees a hang-up a moment later, and an idle receiver ends after a few seconds.
    """

    def look() -> Footprint | None:
        now = footprint(luod)
        return now if now.fds <= before.fds else None

    return eventually(look, describe=f"serve has {before.fds} fds, as before")


def _start(luod: Luod, program: str, user: int | None, socket: str) -> Program:
    return start_vmm(luod.machine, luod.python(user), program, (socket,), user=user).program


class Client:
    """A well-behaved client of some user. Its calls are timed in the machine."""

    def __init__(self, luod: Luod, user: int | None = None, *, socket: str = SOCKET) -> None:
        self._program = _start(luod, "meter", user, socket)

    def times(self, method: str, times: int, parameters: Mapping[str, Any] | None = None, *, new: bool = True) -> Times:
        """Returns the times of calls. `new`: each call over a connection of its own, as in the library. All must be
        answered.
        """
        question = {"method": method, "parameters": dict(parameters or {}), "times": times, "new": new}
        answer = self._program.ask(question, timeout=100)
        assert "ms" in answer, answer
        return Times(tuple(answer["ms"]))


@contextlib.contextmanager
def attack(
    luod: Luod,
    user: int | None,
    *,
    connections: int,
    messages: Sequence[str],
    hang_up: bool = False,
    users: Sequence[int] = (),
    socket: str = SOCKET,
) -> Iterator[None]:
    """Runs connections of a user that send these messages, each without its NUL, without end.

    See `tests.programs.flood`. `users`, with root as `user`: the connections are theirs in turn.
    """
    program = _start(luod, "flood", user, socket)
    order = {"connections": connections, "messages": list(messages), "hang_up": hang_up, "users": list(users)}
    program.ask(order)
    yield
    stopped = program.ask({"stop": True})
    assert hang_up or stopped["answered"], f"the attack did not take place: {stopped}"
    program.end_input()
    program.wait()


class Figures:
    """The figures of one test. They are printed whether it passes or not."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request = request

    def line(self, text: str) -> None:
        self._request.node.user_properties.append(("hostile", text))

    def add(self, what: str, **measured: Times) -> None:
        """Adds one line: p50 and p99 of the same call in different states."""
        parts = [f"{state} p50 {times.p50:.2f} ms, p99 {times.p99:.2f} ms" for state, times in measured.items()]
        self.line(f"{what}: {'; '.join(parts)}")

    def serve(self, before: Footprint, after: Footprint) -> None:
        self.line(
            f"serve: fds {before.fds} before, {after.fds} after; "
            f"memory {before.memory / MIB:.1f} MiB before, {after.memory / MIB:.1f} MiB after"
        )


def lines(reports: Sequence[pytest.TestReport]) -> Iterator[tuple[str, str]]:
    """Yields test and line of the tests' measurements."""
    for report in reports:
        for name, text in report.user_properties:
            if name == "hostile" and report.when == "call":
                yield report.nodeid.rpartition("::")[2], str(text)


def call(method: str, parameters: Mapping[str, Any]) -> str:
    return json.dumps({"method": method, "parameters": dict(parameters)}, separators=(",", ":"))
