"""Section 2 of docs/kernel.md: the checks before a command is executed, and their order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.conformance.caller import Caller
from tests.conformance.conftest import FUSE, NO_FUSE
from tests.conformance.voyage import Voyage, across_jumps

ZEROS = bytes(80)

# The row, the command, and the answers of the device and of a session with 80 bytes of zeros as its argument.
NUMBERS = [
    ("nr 0 of the device, size 0", 0xBA00, "EINVAL", "EINVAL"),
    ("nr 1 of the device, size 0", 0xBA01, "EINVAL", "EINVAL"),
    ("nr 0x40 of a session, size 0", 0xBA40, "EINVAL", "EINVAL"),
    ("nr 0x41 of a session, size 0", 0xBA41, "EINVAL", "EINVAL"),
    ("nr 0x42 of a session, size 0", 0xBA42, "EINVAL", "EINVAL"),
    ("nr 0x43 of a session, size 0", 0xBA43, "EINVAL", "EINVAL"),
    ("nr 2", 0xBA02, "EINVAL", "EINVAL"),
    ("nr 0x3f", 0xBA3F, "EINVAL", "EINVAL"),
    ("nr 0x44", 0xBA44, "EINVAL", "EINVAL"),
    ("nr 0xff", 0xBAFF, "EINVAL", "EINVAL"),
    ("UNPRESERVE_FD of the document", 0xBA7E, "EINVAL", "EINVAL"),
    ("_IOWR of nr 0", 0xC048BA00, "ENOTTY", "EINVAL"),
    ("_IOWR of nr 0x40", 0xC010BA40, "EINVAL", "ENOTTY"),
    ("_IOW of nr 1", 0x4048BA01, "ENOTTY", "EINVAL"),
    ("_IOR of nr 0x43", 0x8048BA43, "EINVAL", "ENOTTY"),
]
# Not of type 0xBA, so the emulated machine's session fds do not see them, and its device node not all.
OTHER_TYPES = [
    ("type 0xbb nr 0", 0xBB00, "ENOTTY", "EINVAL"),
    ("type 0xbb nr 0x40", 0xBB40, "EINVAL", "ENOTTY"),
    ("type 0xbb nr 0x43", 0xBB43, "EINVAL", "ENOTTY"),
    ("TCGETS", 0x5401, "ENOTTY", "EINVAL"),
    ("FIONREAD", 0x541B, "EINVAL", "EINVAL"),
    ("TIOCGWINSZ", 0x5413, "EINVAL", "EINVAL"),
]
DEVICE_NODE = pytest.mark.divergence("test_node_with_epoll_and_fionread", when=FUSE)
WITHOUT_FUSE = pytest.mark.divergence("test_machine_without_fuse_has_a_socket", when=NO_FUSE)
SESSION = pytest.mark.divergence("test_session_with_foreign_ioctls")
DEVICE_MARKS = {
    "FIONREAD": [DEVICE_NODE, WITHOUT_FUSE],
    "TIOCGWINSZ": [WITHOUT_FUSE],
    "type 0xbb nr 0x40": [WITHOUT_FUSE],
    "type 0xbb nr 0x43": [WITHOUT_FUSE],
}
SESSION_MARKS = {"type 0xbb nr 0": [SESSION], "TCGETS": [SESSION], "FIONREAD": [SESSION], "TIOCGWINSZ": [SESSION]}


def rows_of_numbers(marks: Mapping[str, list[pytest.MarkDecorator]]) -> list[Any]:
    """Returns the rows as parameters, with the marks of those that diverge."""
    return [pytest.param(*row, id=row[0], marks=marks.get(row[0], [])) for row in NUMBERS + OTHER_TYPES]


@pytest.mark.parametrize(("row", "command", "says", "_"), rows_of_numbers(DEVICE_MARKS))
def test_numbers_on_the_device(caller: Caller, row: str, command: int, says: str, _: str) -> None:
    caller.open_device()
    assert caller.says("ioctl", fd="device", command=command, data=ZEROS) == says


@pytest.mark.parametrize(("row", "command", "_", "says"), rows_of_numbers(SESSION_MARKS))
def test_numbers_on_a_session(caller: Caller, row: str, command: int, says: str, _: str) -> None:
    caller.create()
    assert caller.says("ioctl", fd="s", command=command, data=ZEROS) == says


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (0xBA00, "EFAULT"),
        (0xBA01, "EFAULT"),
        (0xC048BA00, "EFAULT"),
        (0xBA02, "EINVAL"),
        (0xBA44, "EINVAL"),
        (0xBA40, "EINVAL"),
    ],
)
@pytest.mark.parametrize("argument", [{"memory": "null"}, {"data": bytes(4), "mapped": 3}], ids=["NULL", "3 bytes"])
def test_unreadable_argument_on_the_device(
    caller: Caller, command: int, says: str, argument: dict[str, object]
) -> None:
    caller.open_device()
    assert caller.says("ioctl", fd="device", command=command, **argument) == says


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (0xBA40, "EFAULT"),
        (0xBA41, "EFAULT"),
        (0xBA42, "EFAULT"),
        (0xBA43, "EFAULT"),
        (0xC010BA40, "EFAULT"),
        (0xBA44, "EINVAL"),
        (0xBA00, "EINVAL"),
    ],
)
@pytest.mark.parametrize("argument", [{"memory": "null"}, {"data": bytes(4), "mapped": 3}], ids=["NULL", "3 bytes"])
def test_unreadable_argument_on_a_session(caller: Caller, command: int, says: str, argument: dict[str, object]) -> None:
    caller.create()
    assert caller.says("ioctl", fd="s", command=command, **argument) == says


# The size field and the bytes after the structure, the same for every command: {minimum} is its length.
SIZES = [
    ("nothing", 0, b"", "EINVAL"),
    ("only the size", 4, b"", "EINVAL"),
    ("one byte short", -1, b"", "EINVAL"),
    ("one byte short, and a byte behind it", -1, b"\1", "EINVAL"),
    ("exact", 0, None, "OK"),
    ("one zero more", 1, b"", "OK"),
    ("beyond a page, zeros", 8192, b"", "OK"),
    ("one byte more", 1, b"\1", "E2BIG"),
    ("beyond a page, the last byte set", 8192, b"\1", "E2BIG"),
]


def ask_with_size(
    caller: Caller, call: str, parameters: Mapping[str, object], structure: int, size: int, tail: bytes | None
) -> str:
    if tail is None:
        return caller.says(call, **parameters)
    wanted = size if size in (0, 4) else structure + size
    return caller.says(call, **parameters, size=wanted, tail=tail)


@pytest.mark.parametrize(("row", "size", "tail", "says"), SIZES, ids=[row[0] for row in SIZES])
def test_sizes_of_create(caller: Caller, row: str, size: int, tail: bytes | None, says: str) -> None:
    caller.open_device()
    parameters = {"device": "device", "name": b"sized", "slot": "s"}
    assert ask_with_size(caller, "create", parameters, 72, size, tail) == says


@pytest.mark.parametrize(("row", "size", "tail", "says"), SIZES, ids=[row[0] for row in SIZES])
def test_sizes_of_preserve(caller: Caller, row: str, size: int, tail: bytes | None, says: str) -> None:
    caller.create()
    caller.ask("memfd", slot="m", size=10)
    parameters = {"session": "s", "fd": "m", "token": 1}
    assert ask_with_size(caller, "preserve", parameters, 16, size, tail) == says


@pytest.mark.parametrize(("row", "size", "tail", "says"), SIZES, ids=[row[0] for row in SIZES])
def test_sizes_of_get_name(caller: Caller, row: str, size: int, tail: bytes | None, says: str) -> None:
    caller.create()
    assert ask_with_size(caller, "get_name", {"session": "s"}, 72, size, tail) == says


@pytest.mark.parametrize(("row", "size", "tail", "says"), SIZES, ids=[row[0] for row in SIZES])
@across_jumps
def test_sizes_of_retrieve(caller: Caller, row: str, size: int, tail: bytes | None, says: str) -> Voyage:
    caller.create()
    caller = yield
    caller.open_device()
    parameters = {"device": "device", "name": caller.row, "slot": "s"}
    assert ask_with_size(caller, "retrieve", parameters, 72, size, tail) == says


@pytest.mark.parametrize(("row", "size", "tail", "says"), SIZES, ids=[row[0] for row in SIZES])
@across_jumps
def test_sizes_of_retrieve_fd(caller: Caller, row: str, size: int, tail: bytes | None, says: str) -> Voyage:
    caller.create()
    caller.preserved_memfd(token=7)
    caller = yield
    caller.retrieve()
    parameters = {"session": "s", "token": 7, "slot": "m"}
    assert ask_with_size(caller, "retrieve_fd", parameters, 16, size, tail) == says


@pytest.mark.parametrize(("row", "size", "tail", "says"), SIZES, ids=[row[0] for row in SIZES])
@across_jumps
def test_sizes_of_finish(caller: Caller, row: str, size: int, tail: bytes | None, says: str) -> Voyage:
    caller.create()
    caller = yield
    caller.retrieve()
    assert ask_with_size(caller, "finish", {"session": "s"}, 8, size, tail) == says


def test_memory_that_ends_before_the_size_does(caller: Caller) -> None:
    caller.open_device()
    parameters = {"device": "device", "name": b"sized", "slot": "s", "size": 8192}
    assert caller.says("create", **parameters, mapped=72) == "EFAULT"
    assert caller.says("create", **parameters, mapped=4096) == "EFAULT"
    assert caller.says("create", **parameters) == "OK"


def test_huge_size_and_a_byte_before_the_fault(caller: Caller) -> None:
    caller.open_device()
    parameters = {"device": "device", "name": b"sized", "slot": "s", "size": 0xFFFFFFFF}
    assert caller.says("create", **parameters, tail=b"\0\1") == "E2BIG"
    assert caller.says("create", **parameters, tail=b"\0\0") == "EFAULT"


def test_direction_is_checked_before_the_size_and_the_tail(caller: Caller) -> None:
    caller.create()
    assert caller.says("retrieve_fd", session="s", token=1, slot="m", size=17, tail=b"\1") == "EINVAL"
    assert caller.says("finish", session="s", size=9, tail=b"\1") == "EINVAL"


def test_tail_is_checked_before_the_command(caller: Caller) -> None:
    caller.open_device()
    assert caller.says("create", device="device", name=b"", slot="s", size=73, tail=b"\1") == "E2BIG"


def test_fd_member_of_create_is_ignored(caller: Caller) -> None:
    caller.open_device()
    assert caller.says("create", device="device", name=caller.row, slot="s", input_fd=0x7FFFFFFF) == "OK"


@across_jumps
def test_fd_member_of_retrieve_and_retrieve_fd_is_ignored(caller: Caller) -> Voyage:
    caller.create()
    caller.preserved_memfd(token=3)
    caller = yield
    caller.open_device()
    assert caller.says("retrieve", device="device", name=caller.row, slot="s", input_fd=0x7FFFFFFF) == "OK"
    assert caller.says("retrieve_fd", session="s", token=3, slot="m", input_fd=0x7FFFFFFF) == "OK"
