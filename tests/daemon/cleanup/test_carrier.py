"""The files of a session on their way between carriers and luod: all of them arrive, or none is used. No machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import pytest

from luod.daemon.cleanup.carrier import File, held, look_into, pack
from luod.daemon.cleanup.carry_over import received
from luod.errors import Refused
from luod.linux import Fd
from tests.daemon.free_fds import only

FILES = 130
"""In three sockets."""


@pytest.fixture
def packed() -> Iterator[Sequence[socket.socket]]:
    with ExitStack() as opened:
        files = [File(number, f"file {number}", opened.enter_context(_memory(number))) for number in range(FILES)]
        sockets = pack(files)
        for each in sockets:
            opened.enter_context(each)
        assert len(sockets) == 3
        yield sockets


def _memory(number: int) -> Fd:
    file = Fd(os.memfd_create("file"))
    os.pwrite(file.fileno(), b"%d" % number, 0)
    return file


def test_the_next_carrier_finds_every_file_of_the_one_before(packed: Sequence[socket.socket]) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        socket.send_fds(theirs, [held(3)], [each.fileno() for each in packed])
        arrived = [socket.socket(fileno=fd.detach()) for fd in received(ours)]

    files = look_into(arrived, "vm")

    assert [(file.token, file.name) for file in files] == [(number, f"file {number}") for number in range(FILES)]
    assert [os.pread(file.fd.fileno(), 8, 0) for file in files] == [b"%d" % number for number in range(FILES)]
    for each in arrived:
        each.close()
    for file in files:
        file.fd.close()


def test_a_luod_with_too_few_free_fds_takes_none_of_the_sockets(packed: Sequence[socket.socket]) -> None:
    """The carrier would go on, and one after it would preserve a part of the session as all of it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        socket.send_fds(theirs, [held(3)], [each.fileno() for each in packed])
        before = os.listdir("/proc/self/fd")
        with only(2), pytest.raises(Refused, match="luod got 2 sockets of the carrier, which sent 'held 3'"):
            received(ours)
        assert os.listdir("/proc/self/fd") == before


def test_sockets_of_which_one_is_lost_are_not_a_session(packed: Sequence[socket.socket]) -> None:
    with pytest.raises(Refused, match="luod has 2 of the 3 sockets with the files of session 'vm'"):
        look_into(packed[:2], "vm")
