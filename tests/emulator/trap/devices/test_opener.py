"""The messages between the supervisor and the process that opens files for it."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from luod.emulator.model.ports import Errno
from luod.emulator.trap.devices import opener
from luod.linux import Fd


@pytest.fixture
def requests(tmp_path: Path) -> Iterator[socket.socket]:
    """Returns the supervisor's end. The other process has a directory with the files a and b."""
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        opener.serve(theirs, Fd(os.open(tmp_path, os.O_PATH)), [Fd(reader)])
        os._exit(0)
    theirs.close()
    os.close(reader)
    with ours:
        yield ours
        os.close(writer)
        assert os.waitpid(child, 0)[1] == 0


@contextlib.contextmanager
def fds_left(count: int) -> Iterator[None]:
    """Lowers this process's limit of open files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def content(requests: socket.socket, name: bytes) -> bytes:
    with opener.open_file(requests, name, requests.fileno(), lambda: None) as file:
        return os.pread(file.fileno(), 8, 0)


def test_files_are_opened_by_name(requests: socket.socket) -> None:
    assert [content(requests, name) for name in (b"a", b"b", b"a")] == [b"a", b"b", b"a"]
    with pytest.raises(Errno) as failure:
        content(requests, b"c")
    assert failure.value.code == errno.ENOENT
    assert content(requests, b"b") == b"b"


def test_a_file_without_an_fd_for_it_leaves_the_next_answers_right(requests: socket.socket) -> None:
    with fds_left(0), pytest.raises(Errno) as failure:
        content(requests, b"a")
    assert failure.value.code == errno.ENFILE
    assert [content(requests, name) for name in (b"b", b"a")] == [b"b", b"a"]
