"""The sockets of a luod that runs: a million bytes of hostile Varlink, fds where none belong, 1,000 that say nothing.

What single hostile clients get is `tests/ipc/server/test_hostile_clients.py`; here it is luod's own interfaces, both
sockets.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

import luod.ipc
from luod.ipc import framing
from luod.linux import Fd
from luod.testing import eventually
from tests.daemon.host import Luod, until_complete

MIB = 1024 * 1024
EXAMPLES = 150
POLICY = '[[rules]]\nuid = 0\nnames = ["friend"]\nconnections = 2000\n'
INTERFACES = "\n".join(file.read_text() for file in Path(luod.ipc.__file__).parent.rglob("*.varlink"))
METHODS = [
    f"{interface}.{method}"
    for interface, text in re.findall(r"^interface (\S+)$(.*?)(?=^interface|\Z)", INTERFACES, re.M | re.S)
    for method in re.findall(r"^method (\w+)", text, re.M)
    if method != "Stop"  # which is obeyed on the admin socket
]
MEMBERS = sorted(set(re.findall(r"(\w+):", INTERFACES)))

scalars = some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=20)
words = some.sampled_from(["friend", "luod", "vm#1", "../x", "outgoing", "ready", "preparing", "", "x" * 64])
json_values = some.recursive(
    scalars | words,
    lambda inside: some.lists(inside, max_size=4) | some.dictionaries(some.sampled_from(MEMBERS), inside, max_size=4),
    max_leaves=12,
)
calls = some.fixed_dictionaries(
    {"method": some.sampled_from(METHODS) | some.text(max_size=30)},
    optional={
        "parameters": some.dictionaries(some.sampled_from(MEMBERS), json_values, max_size=5) | json_values,
        "more": some.booleans() | json_values,
        "oneway": some.booleans(),
        "upgrade": some.booleans(),
    },
)


@some.composite
def messages(draw: some.DrawFn) -> bytes:
    """Draws mostly a valid call, otherwise a corrupted one or random bytes."""
    if draw(some.integers(0, 9)) == 0:
        return draw(some.binary(max_size=3000))
    text = json.dumps(draw(calls)).encode() + b"\0"
    if draw(some.integers(0, 4)) == 0:
        at = draw(some.integers(0, len(text) - 1))
        text = text[:at] + draw(some.binary(max_size=3)) + text[at + 1 :]
    return text


conversations = some.lists(some.tuples(messages(), some.integers(0, 3)), min_size=1, max_size=12)


@dataclass
class Sockets:
    """luod's two sockets, reachable from outside the machine, and the fds and memory of serve."""

    luod: Luod
    paths: tuple[str, str]

    def connect(self, which: int = 0) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(self.paths[which])
        connection.settimeout(30)
        return connection

    def served(self) -> int:
        """Checks that a well-behaved client is served. Returns the number of fds that serve has then."""
        with self.connect() as connection:
            framing.send(connection, framing.encode_call("io.luod.Sessions.List"))
            data, _ = framing.receive(connection)
            assert framing.decode_reply(data.rstrip(b"\0")).parameters == {"sessions": []}
        return len(self.luod.links(self.luod.serve_pid()))

    def memory(self) -> int:
        statm = self.luod.machine.read(f"/proc/{self.luod.serve_pid()}/statm")
        return int(statm.split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.fixture
def sockets(luod: Luod, tmp_path: Path) -> Iterator[Sockets]:
    luod.stop()
    policy = tmp_path / "luod.toml"
    policy.write_text(POLICY)
    paths = (str(tmp_path / "luod.sock"), str(tmp_path / "admin.sock"))
    luod.start("--socket", paths[0], "--admin-socket", paths[1], "--config", str(policy))
    until_complete(luod)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield Sockets(luod, paths)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def returns(sockets: Sockets, fds: int) -> None:
    """Waits until serve has noticed that clients hung up."""
    eventually(lambda: sockets.served() <= fds, describe="serve has closed what hung up")


def test_a_million_bytes_of_hostile_varlink(sockets: Sockets) -> None:
    sent = 0
    with Fd(os.memfd_create("unasked")) as file:

        def converse(conversation: list[tuple[bytes, int]], which: int) -> None:
            nonlocal sent
            with sockets.connect(which) as connection, contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for text, fds in conversation:
                    sent += socket.send_fds(connection, [text or b"\0"], [file.fileno()] * fds)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(MIB):
                    pass

        seen: list[tuple[list[tuple[bytes, int]], int]] = []

        @settings(max_examples=EXAMPLES, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(conversations, some.integers(0, 1))
        def make(conversation: list[tuple[bytes, int]], which: int) -> None:
            seen.append((conversation, which))

        make()
        for what in seen:
            converse(*what)
        fds, memory, serve = sockets.served(), sockets.memory(), sockets.luod.serve_pid()
        sent = 0
        while sent < 1_000_000:
            # What was one client's is another's now.
            for (one, _), (other, which) in zip(seen, seen[1:] + seen[:1], strict=True):
                converse(one[: len(one) // 2] + other * 4, which)
            sockets.served()
    returns(sockets, fds)
    assert sockets.memory() - memory < 8 * MIB
    assert sockets.luod.serve_pid() == serve
    supervisor = sockets.luod.supervisor
    assert supervisor is not None
    sockets.luod.stop()
    assert " serve bug" not in supervisor.stderr


def test_a_thousand_that_say_nothing(sockets: Sockets) -> None:
    fds = sockets.served()

    def come_and_go(times: int) -> int:
        """Returns the bytes of memory of serve after them."""
        for _ in range(times):
            with contextlib.ExitStack() as silent:
                for _ in range(1000):
                    silent.enter_context(sockets.connect())
                assert sockets.served() >= fds + 1000
            returns(sockets, fds)
        return sockets.memory()

    # The heap of serve grows by 12 MiB (Python 3.11) to 20 MiB (3.13) until the collector of cycles keeps pace. What a
    # connection leaves behind is far more than 1 KiB.
    memory, rounds = come_and_go(8), 16
    assert come_and_go(rounds) - memory < rounds * 1000 * 1024


def test_policy_of_this_file_gives_root_no_names(sockets: Sockets) -> None:
    """Else what is made up would make sessions."""
    answer: dict[str, Any] = {}
    with sockets.connect() as connection:
        framing.send(connection, framing.encode_call("io.luod.Sessions.Create", {"name": "vm"}))
        data, _ = framing.receive(connection)
        answer = dict(framing.decode_reply(data.rstrip(b"\0")).parameters)
    assert "policy" in answer["message"]
