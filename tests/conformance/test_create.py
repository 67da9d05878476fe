"""Section 3 of docs/kernel.md: CREATE_SESSION."""

from __future__ import annotations

import os
import stat

import pytest

from luod.testing import eventually
from tests.conformance.caller import Caller
from tests.conformance.voyage import Voyage, across_jumps

NAMES = [
    b"a",
    b"a" * 63,
    b"/",
    b".",
    b"..",
    b" ",
    b"a/b/../c",
    b"\n",
    b"\x01",
    b"\x7f",
    b"\xff\xfe",
    b"%s%n",
    b"systemd",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_opaque_bytes(caller: Caller, name: bytes) -> None:
    caller.create(name)
    assert caller.ask("get_name", session="s").encode("latin-1") == name.ljust(64, b"\0")


@pytest.mark.parametrize("name", [b"", b"\0behind the NUL", b"a" * 64], ids=["empty", "NUL first", "64 bytes"])
def test_names_that_are_none(caller: Caller, name: bytes) -> None:
    assert caller.can_create(name) == "EINVAL"


def test_what_follows_the_nul_is_ignored(caller: Caller) -> None:
    caller.create(b"dup")
    assert caller.can_create(b"dup\0zzz", slot="again") == "EEXIST"


def test_names_are_case_sensitive(caller: Caller) -> None:
    caller.create(b"case")
    assert caller.can_create(b"CASE", slot="again") == "OK"


def test_name_in_use_until_the_last_close(caller: Caller) -> None:
    caller.create()
    assert caller.can_create(slot="again") == "EEXIST"
    caller.ask("close", fd="s")
    assert caller.can_create(slot="again") == "OK"


def test_name_in_use_in_another_process_until_it_is_killed(caller: Caller) -> None:
    caller.fork("holder").create()
    assert caller.can_create() == "EEXIST"
    caller.ask("end", kid="holder")
    assert caller.can_create() == "OK"


def test_alive_by_a_duplicate(caller: Caller) -> None:
    caller.create()
    caller.ask("dup", fd="s", slot="duplicate")
    caller.ask("close", fd="s")
    assert caller.can_create() == "EEXIST"


def test_alive_by_a_forked_child(caller: Caller) -> None:
    caller.create()
    caller.fork("child")
    caller.ask("close", fd="s")
    assert caller.can_create() == "EEXIST"
    caller.ask("end", kid="child")
    assert caller.can_create() == "OK"


def test_alive_by_an_executed_program(caller: Caller) -> None:
    caller.create()
    caller.fork("child").become_program("/bin/sleep", "1000", keep=("s",))
    caller.ask("close", fd="s")
    assert caller.can_create() == "EEXIST"
    caller.ask("end", kid="child")
    assert caller.can_create() == "OK"


def test_closed_by_an_exec_that_does_not_inherit_it(caller: Caller) -> None:
    caller.create()
    caller.fork("child").become_program("/bin/sleep", "1000", keep=())
    caller.ask("close", fd="s")
    # An exec closes the fds one after the other, that of the answers perhaps before the session's.
    eventually(lambda: caller.can_create() == "OK", describe="the exec has closed the session")
    caller.ask("end", kid="child")


def test_alive_by_a_message_in_flight(caller: Caller) -> None:
    caller.create()
    caller.ask("socketpair", slots=["one", "other"])
    caller.ask("send_fd", over="one", fd="s")
    caller.ask("close", fd="s")
    assert caller.can_create() == "EEXIST"
    caller.ask("receive_fd", over="other", slot="received")
    assert caller.can_create() == "EEXIST"
    caller.ask("close", fd="received")
    assert caller.can_create() == "OK"


def test_gone_with_a_message_nobody_received(caller: Caller) -> None:
    caller.create()
    caller.ask("socketpair", slots=["one", "other"])
    caller.ask("send_fd", over="one", fd="s")
    for fd in ("s", "one", "other"):
        caller.ask("close", fd=fd)
    assert caller.can_create() == "OK"


@across_jumps
def test_name_of_a_waiting_incoming_session(caller: Caller) -> Voyage:
    caller.create()
    caller = yield
    assert caller.can_create(slot="outgoing") == "OK"
    assert caller.can_retrieve() == "OK"


@across_jumps
def test_name_of_a_retrieved_incoming_session(caller: Caller) -> Voyage:
    caller.create()
    caller = yield
    caller.retrieve()
    assert caller.can_create(slot="outgoing") == "OK"


def test_no_free_fd_is_found_before_the_name(caller: Caller) -> None:
    caller.open_device()
    caller.ask("no_free_fd")
    assert caller.says("create", device="device", name=caller.row, slot="s") == "EMFILE"
    assert caller.says("create", device="device", name=b"", slot="s") == "EMFILE"
    caller.ask("free_fds")
    assert caller.says("create", device="device", name=caller.row, slot="s") == "OK"


def test_read_only_argument_undoes_the_creation(caller: Caller) -> None:
    caller.open_device()
    lowest = caller.ask("dup", fd=0, slot="lowest")
    caller.ask("close", fd="lowest")
    assert caller.says("create", device="device", name=caller.row, slot="s", memory="read-only") == "EFAULT"
    assert caller.says("create", device="device", name=caller.row, slot="s") == "OK"
    assert caller.ask("link", fd="s")
    assert caller.ask("dup", fd=0, slot="next") == lowest + 1


def test_five_thousand_sessions(caller: Caller) -> None:
    caller.ask("limit", name="NOFILE", soft=6000)
    caller.open_device()
    questions = [
        {"do": "create", "device": "device", "name": f"many {number}", "slot": f"s{number}"} for number in range(5000)
    ]
    assert {tuple(answer) for answer in caller.ask("many", questions=questions)} == {("ok",)}


def test_fd_is_close_on_exec_and_read_write(caller: Caller) -> None:
    caller.create()
    assert caller.ask("getfd", fd="s") == 1
    assert caller.ask("getfl", fd="s") & ~0o100000 == os.O_RDWR


@pytest.mark.divergence("test_session_is_shown_as_a_memfd")
def test_fd_flags_have_no_o_largefile(caller: Caller) -> None:
    caller.create()
    assert caller.ask("getfl", fd="s") == 0o2


@pytest.mark.divergence("test_session_is_shown_as_a_memfd")
def test_fd_leads_to_an_anonymous_inode(caller: Caller) -> None:
    caller.create(b"linked")
    assert caller.ask("link", fd="s") == "anon_inode:[luo_session] linked"


@pytest.mark.divergence("test_session_is_shown_as_a_memfd")
def test_fd_has_no_file_type(caller: Caller) -> None:
    caller.create()
    assert stat.S_IFMT(caller.ask("stat", fd="s")["mode"]) == 0


def test_fd_stat(caller: Caller) -> None:
    caller.create()
    found = caller.ask("stat", fd="s")
    assert (stat.S_IMODE(found["mode"]), found["rdev"], found["size"]) == (0o600, 0, 0)


@pytest.mark.divergence("test_session_is_shown_as_a_memfd")
def test_fd_cannot_be_reopened(caller: Caller) -> None:
    caller.create()
    assert caller.says("reopen", fd="s", flags=os.O_RDWR, slot="again") == "ENXIO"


def test_fdinfo_has_no_lines_of_its_own(caller: Caller) -> None:
    caller.create()
    assert caller.ask("fdinfo", fd="s") == ["pos", "flags", "mnt_id", "ino"]
