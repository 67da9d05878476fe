"""Section 5 of docs/kernel.md: PRESERVE_FD, by kind of fd, by token and by file."""

from __future__ import annotations

import os

import pytest

from tests.conformance.caller import Caller
from tests.conformance.voyage import Voyage, across_jumps

MFD_CLOEXEC, MFD_ALLOW_SEALING, MFD_HUGETLB, MFD_NOEXEC_SEAL = 1, 2, 4, 8
ALL_SEALS = 0x3F
EVERYTHING_ELSE = [
    "tmpfs file, linked",
    "file on a disk, unlinked",
    "directory",
    "/proc/self/mem",
    "/proc/self/status",
    "/proc/self/ns/net",
    "/dev/null",
    "/dev/zero",
    "pipe, read end",
    "pipe, write end",
    "eventfd",
    "epoll",
    "inotify",
    "signalfd",
    "timerfd",
    "pidfd",
    "unix socket",
    "tcp socket",
    "netlink socket",
    "pty",
    "tty",
    "message queue",
]


def preserve(caller: Caller, fd: str | int, token: int = 1, session: str = "s") -> str:
    return caller.says("preserve", session=session, fd=fd, token=token)


# -- by kind of fd -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "flags"),
    [
        pytest.param(4096, MFD_CLOEXEC | MFD_ALLOW_SEALING, id="normal"),
        pytest.param(0, MFD_CLOEXEC | MFD_ALLOW_SEALING, id="empty"),
        pytest.param(1, MFD_CLOEXEC | MFD_ALLOW_SEALING, id="1 byte"),
        pytest.param(4 << 20, MFD_CLOEXEC | MFD_ALLOW_SEALING, id="sparse"),
        pytest.param(4096, MFD_CLOEXEC, id="no ALLOW_SEALING"),
        pytest.param(4096, MFD_CLOEXEC | MFD_NOEXEC_SEAL, id="NOEXEC_SEAL"),
    ],
)
def test_memfd(caller: Caller, size: int, flags: int) -> None:
    caller.create()
    caller.ask("memfd", slot="m", size=size, flags=flags)
    assert preserve(caller, "m") == "OK"


def test_memfd_with_all_seals(caller: Caller) -> None:
    caller.create()
    caller.ask("memfd", slot="m", size=4096)
    caller.ask("add_seals", fd="m", seals=ALL_SEALS)
    assert preserve(caller, "m") == "OK"


def test_memfd_that_is_mapped(caller: Caller) -> None:
    caller.create()
    caller.ask("memfd", slot="m", size=4096)
    caller.ask("map", name="map", fd="m", length=4096)
    assert preserve(caller, "m") == "OK"


def test_memfd_that_another_thread_writes(caller: Caller) -> None:
    caller.create()
    caller.ask("memfd", slot="m", size=4096)
    caller.ask("scribble", fd="m")
    assert preserve(caller, "m") == "OK"
    caller.ask("stop_scribbling", fd="m")


def test_memfd_with_no_locked_memory_allowed(caller: Caller) -> None:
    caller.create()
    caller.ask("memfd", slot="m", size=1 << 20)
    caller.ask("limit", name="MEMLOCK", soft=0)
    assert preserve(caller, "m") == "OK"


def test_memfd_of_another_uid(caller: Caller) -> None:
    caller.create()
    caller.become(1000)
    caller.ask("memfd", slot="m", size=4096)
    assert preserve(caller, "m") == "OK"


def test_memfd_reopened_read_only(caller: Caller) -> None:
    caller.create()
    caller.ask("memfd", slot="m", size=4096)
    caller.ask("reopen", fd="m", flags=os.O_RDONLY, slot="read-only")
    assert preserve(caller, "read-only") == "OK"


def test_memfd_opened_with_o_path(caller: Caller) -> None:
    caller.create()
    caller.ask("memfd", slot="m", size=4096)
    caller.ask("reopen", fd="m", flags=os.O_PATH, slot="path")
    assert preserve(caller, "path") == "EBADF"


def test_memfd_in_huge_pages(caller: Caller) -> None:
    caller.create()
    caller.ask("memfd", slot="m", flags=MFD_CLOEXEC | MFD_HUGETLB)
    assert preserve(caller, "m") == "ENOENT"


@pytest.mark.parametrize("kind", ["tmpfs file, unlinked", "tmpfs O_TMPFILE"])
def test_shmem_file_without_links(caller: Caller, kind: str) -> None:
    caller.create()
    caller.ask("make", kind=kind, slot="f")
    assert preserve(caller, "f") == "OK"


@pytest.mark.parametrize("kind", EVERYTHING_ELSE)
def test_everything_else(caller: Caller, kind: str) -> None:
    caller.create()
    caller.ask("make", kind=kind, slot="f")
    assert preserve(caller, "f") == "ENOENT"


def test_the_device(caller: Caller) -> None:
    caller.create()
    caller.open_device()
    assert preserve(caller, "device") == "ENOENT"


def test_the_session_itself(caller: Caller) -> None:
    caller.create()
    assert preserve(caller, "s") == "ENOENT"


def test_another_session(caller: Caller) -> None:
    caller.create()
    caller.create(b"another", slot="another")
    assert preserve(caller, "another") == "ENOENT"


@pytest.mark.parametrize("number", [-1, 1000, 0x7FFFFFFF])
def test_no_fd(caller: Caller, number: int) -> None:
    caller.create()
    assert preserve(caller, number) == "EBADF"


def test_memfd_of_two_to_the_45_bytes(caller: Caller) -> None:
    caller.create()
    caller.ask("memfd", slot="m", size=1 << 45)
    assert preserve(caller, "m") == "EFBIG"


def test_read_only_argument_preserves_all_the_same(caller: Caller) -> None:
    caller.create()
    caller.ask("memfd", slot="m", size=4096)
    assert caller.says("preserve", session="s", fd="m", token=1, memory="read-only") == "EFAULT"
    assert preserve(caller, "m") == "EEXIST"
    assert preserve(caller, "m", 2) == "EBUSY"


# -- tokens and identity -----------------------------------------------------------------------------------------


def test_used_token_other_memfd(caller: Caller) -> None:
    caller.create()
    caller.preserved_memfd(token=1)
    caller.ask("memfd", slot="other", size=1)
    assert preserve(caller, "other", 1) == "EEXIST"


def test_used_token_same_memfd(caller: Caller) -> None:
    caller.create()
    caller.preserved_memfd(token=1)
    assert preserve(caller, "m", 1) == "EEXIST"


def test_same_memfd_other_token(caller: Caller) -> None:
    caller.create()
    caller.preserved_memfd(token=1)
    assert preserve(caller, "m", 2) == "EBUSY"


def test_same_memfd_other_session(caller: Caller) -> None:
    caller.create()
    caller.preserved_memfd()
    caller.create(b"another", slot="another")
    assert preserve(caller, "m", session="another") == "EBUSY"


def test_duplicate_of_a_preserved_memfd(caller: Caller) -> None:
    caller.create()
    caller.preserved_memfd()
    caller.ask("dup", fd="m", slot="duplicate")
    assert preserve(caller, "duplicate", 2) == "EBUSY"


def test_preserved_memfd_reopened(caller: Caller) -> None:
    caller.create()
    caller.preserved_memfd()
    caller.ask("reopen", fd="m", flags=os.O_RDWR, slot="again")
    assert preserve(caller, "again", 2) == "EBUSY"


@pytest.mark.parametrize("fd", [-1, "event"])
def test_used_token_is_found_before_a_bad_fd(caller: Caller, fd: int | str) -> None:
    caller.create()
    caller.preserved_memfd(token=1)
    caller.ask("make", kind="eventfd", slot="event")
    assert preserve(caller, fd, 1) == "EEXIST"


def test_same_token_in_another_session(caller: Caller) -> None:
    caller.create()
    caller.preserved_memfd(token=1)
    caller.create(b"another", slot="another")
    caller.preserved_memfd(token=1, slot="other", session="another")


@pytest.mark.parametrize("token", [0, 2**64 - 1, 2**63, 2**32])
@across_jumps
def test_any_token(caller: Caller, token: int) -> Voyage:
    caller.create()
    digest = caller.preserved_memfd(token=token)
    caller = yield
    caller.retrieve()
    caller.ask("retrieve_fd", session="s", token=token, slot="m")
    assert caller.ask("digest", fd="m") == digest


def test_token_is_free_after_a_failed_preserve(caller: Caller) -> None:
    caller.create()
    caller.preserved_memfd(token=1)
    assert preserve(caller, "m", 2) == "EBUSY"
    assert preserve(caller, -1, 2) == "EBADF"
    caller.preserved_memfd(token=2, slot="other")


def test_memfd_of_a_closed_session(caller: Caller) -> None:
    caller.create()
    caller.preserved_memfd()
    caller.ask("close", fd="s")
    caller.create()
    assert preserve(caller, "m") == "OK"


@across_jumps
def test_retrieved_memfd_before_and_after_finish(caller: Caller) -> Voyage:
    caller.create()
    caller.preserved_memfd(token=1)
    caller = yield
    caller.retrieve(slot="incoming")
    caller.ask("retrieve_fd", session="incoming", token=1, slot="m")
    caller.create(slot="s")
    assert preserve(caller, "m") == "EBUSY"
    caller.ask("finish", session="incoming")
    assert preserve(caller, "m") == "OK"


@across_jumps
def test_retrieved_memfd_after_the_close_of_its_session(caller: Caller) -> Voyage:
    caller.create()
    caller.preserved_memfd(token=1)
    caller = yield
    caller.retrieve(slot="incoming")
    caller.ask("retrieve_fd", session="incoming", token=1, slot="m")
    caller.ask("close", fd="incoming")
    caller.create(slot="s")
    assert preserve(caller, "m") == "OK"


def test_eight_threads_race_for_a_token(caller: Caller) -> None:
    caller.create()
    for number in range(8):
        caller.ask("memfd", slot=f"m{number}", size=4096)
    race = [{"do": "preserve", "session": "s", "fd": f"m{number}", "token": 1} for number in range(8)]
    answers = caller.ask("race", questions=race)
    assert sorted(answer.get("errno", "OK") for answer in answers) == ["EEXIST"] * 7 + ["OK"]


def test_eight_threads_race_for_a_memfd(caller: Caller) -> None:
    caller.create()
    caller.ask("memfd", slot="m", size=4096)
    race = [{"do": "preserve", "session": "s", "fd": "m", "token": number} for number in range(8)]
    answers = caller.ask("race", questions=race)
    assert sorted(answer.get("errno", "OK") for answer in answers) == ["EBUSY"] * 7 + ["OK"]


@across_jumps
def test_three_thousand_memfds(caller: Caller) -> Voyage:
    caller.create()
    questions: list[dict[str, object]] = []
    for number in range(3000):
        questions += [
            {"do": "memfd", "slot": "m", "size": 1},
            {"do": "pwrite", "fd": "m", "data": chr(number % 251), "offset": 0},
            {"do": "preserve", "session": "s", "fd": "m", "token": number},
            {"do": "close", "fd": "m"},
        ]
    assert {tuple(answer) for answer in caller.ask("many", questions=questions)} == {("ok",)}
    caller = yield
    caller.retrieve()
    for number in (0, 1, 1500, 2999):
        caller.ask("retrieve_fd", session="s", token=number, slot=f"m{number}")
        assert caller.ask("pread", fd=f"m{number}", length=2, offset=0) == chr(number % 251)


def test_verbs_of_the_other_direction(caller: Caller) -> None:
    caller.create()
    caller.preserved_memfd(token=1)
    assert caller.says("retrieve_fd", session="s", token=1, slot="back") == "EINVAL"
    assert caller.says("finish", session="s") == "EINVAL"
    caller.open_device()
    assert caller.says("retrieve", device="device", name=caller.row, slot="again") == "ENOENT"
