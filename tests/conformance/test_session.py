"""Section 4 of docs/kernel.md: a session fd's answers to calls other than its own, and GET_NAME."""

from __future__ import annotations

import select

import pytest

from tests.conformance.caller import Caller
from tests.conformance.voyage import Voyage, across_jumps

CALLS = [
    ("read", {"length": 1}, "EINVAL"),
    ("write", {"data": b"x"}, "EINVAL"),
    ("fsync", {}, "EINVAL"),
    ("ftruncate", {"size": 0}, "EINVAL"),
    ("lseek", {"offset": 0}, "ESPIPE"),
    ("map", {"name": "map", "length": 4096}, "ENODEV"),
    ("epoll_add", {}, "EPERM"),
]
# The emulated machine's session fd is a memfd, which answers these by itself.
A_MEMFD = pytest.mark.divergence("test_session_reads_and_seeks")
DIVERGING = {"read", "write", "fsync", "ftruncate", "lseek", "map"}
ROWS = [pytest.param(*row, marks=A_MEMFD if row[0] in DIVERGING else [], id=row[0]) for row in CALLS]


@pytest.mark.parametrize(("call", "parameters", "says"), ROWS)
def test_other_calls_on_a_created_session(caller: Caller, call: str, parameters: dict[str, object], says: str) -> None:
    caller.create()
    assert caller.says(call, fd="s", **parameters) == says


@pytest.mark.parametrize(("call", "parameters", "says"), ROWS)
@across_jumps
def test_other_calls_on_a_retrieved_session(
    caller: Caller, call: str, parameters: dict[str, object], says: str
) -> Voyage:
    caller.create()
    caller = yield
    caller.retrieve()
    assert caller.says(call, fd="s", **parameters) == says


def test_poll_on_a_created_session(caller: Caller) -> None:
    caller.create()
    assert caller.ask("poll", fd="s") == select.POLLIN | select.POLLOUT


@across_jumps
def test_poll_on_a_retrieved_session(caller: Caller) -> Voyage:
    caller.create()
    caller = yield
    caller.retrieve()
    assert caller.ask("poll", fd="s") == select.POLLIN | select.POLLOUT


@across_jumps
def test_name_of_a_retrieved_session_before_and_after_finish(caller: Caller) -> Voyage:
    caller.create()
    caller = yield
    caller.retrieve()
    for _ in range(2):
        assert caller.ask("get_name", session="s").encode("latin-1") == caller.row.ljust(64, b"\0")
        caller.ask("finish", session="s")


def test_get_name_reserved_must_be_zero(caller: Caller) -> None:
    caller.create()
    assert caller.says("get_name", session="s", reserved=1) == "EINVAL"


def test_get_name_into_read_only_memory(caller: Caller) -> None:
    caller.create()
    assert caller.says("get_name", session="s", memory="read-only") == "EFAULT"
    assert caller.says("get_name", session="s") == "OK"


@pytest.mark.parametrize("length", [1, 6, 7, 8, 31, 62, 63])
def test_get_name_leaves_what_is_behind_the_name(caller: Caller, length: int) -> None:
    caller.create(b"n" * length)
    field = caller.ask("get_name", session="s", fill=b"\xee").encode("latin-1")
    name, rest = field[: length + 1], field[length + 1 :]
    assert name == b"n" * length + b"\0"
    # The kernel may write a few NULs up to the next word, and nothing after that.
    assert rest.lstrip(b"\0") == b"\xee" * len(rest.lstrip(b"\0"))
    assert len(rest) - len(rest.lstrip(b"\0")) < 8
