"""A placeholder's end is seen when, and only when, its last reference anywhere is gone."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
from collections.abc import Iterator

import pytest

from luod.emulator.trap.process.placeholder import Placeholders
from luod.linux import Fd
from luod.testing.tools import cannot_run


@pytest.fixture
def placeholders() -> Iterator[Placeholders[str]]:
    made: Placeholders[str] = Placeholders()
    yield made
    made.close()


def create(placeholders: Placeholders[str], file: str) -> Fd:
    fd, identity = placeholders.create(file.encode(), file)
    status = os.fstat(fd.fileno())
    assert identity == (status.st_dev, status.st_ino)
    assert placeholders.find(identity) == file
    return fd


def test_end_is_there_when_close_returns(placeholders: Placeholders[str]) -> None:
    fds = [create(placeholders, f"file {n}") for n in range(100)]
    assert placeholders.ended() == []
    for number, fd in enumerate(fds):
        fd.close()
        assert placeholders.ended() == [f"file {number}"]
    assert len(placeholders) == 0


def test_duplicates_and_messages_in_flight_count(placeholders: Placeholders[str]) -> None:
    fd = create(placeholders, "file")
    duplicate = fd.duplicate()
    fd.close()
    assert placeholders.ended() == []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        socket.send_fds(ours, [b"x"], [duplicate.fileno()])
        duplicate.close()
        assert placeholders.ended() == []
        _, fds, _, _ = socket.recv_fds(theirs, 1, 1)
        assert placeholders.ended() == []
        os.close(fds[0])
        assert placeholders.ended() == ["file"]


def test_message_that_nobody_receives(placeholders: Placeholders[str]) -> None:
    ours, theirs = socket.socketpair()
    with create(placeholders, "file") as fd:
        socket.send_fds(ours, [b"x"], [fd.fileno()])
    ours.close()
    assert placeholders.ended() == []
    theirs.close()
    assert placeholders.ended() == ["file"]


def test_forked_and_killed_holder(placeholders: Placeholders[str]) -> None:
    fd = create(placeholders, "file")
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(tell, b"x")
        os.close(tell)
        while True:
            signal.pause()
    os.read(ready, 1)
    fd.close()
    assert placeholders.ended() == []
    os.kill(child, 9)
    os.waitpid(child, 0)
    assert placeholders.ended() == ["file"]
    os.close(ready)
    os.close(tell)


def test_sealed(placeholders: Placeholders[str]) -> None:
    with create(placeholders, "file") as fd:
        with pytest.raises(PermissionError):
            os.write(fd.fileno(), b"x")
        with pytest.raises(PermissionError):
            fcntl.fcntl(fd.fileno(), 1033, 1)
        assert os.fstat(fd.fileno()).st_mode & 0o777 == 0o600


def test_forgotten_is_never_reported(placeholders: Placeholders[str]) -> None:
    fd, identity = placeholders.create(b"x", "file")
    placeholders.forget(identity)
    fd.close()
    assert placeholders.ended() == []


def test_names_are_bytes(placeholders: Placeholders[str]) -> None:
    for name in (b"\xff\xfe/..", b"n" * 400, b""):
        fd, _ = placeholders.create(name, "file")
        link = os.readlink(b"/proc/self/fd/%d" % fd.fileno())
        assert link == b"/memfd:" + name[:249] + b" (deleted)"
        fd.close()


def test_more_ends_than_the_queue_takes(placeholders: Placeholders[str]) -> None:
    """The queue overflows and loses events; what is gone is found nonetheless, and only that."""
    with open("/proc/sys/fs/inotify/max_queued_events", encoding="ascii") as limit:
        count = int(limit.read()) + 500
    with open("/proc/sys/fs/inotify/max_user_watches", encoding="ascii") as limit:
        if int(limit.read()) < 2 * count or count > 100_000:
            cannot_run("its inotify limits do not fit")
    kept = create(placeholders, "kept")
    expected = set()
    for number in range(count):
        create(placeholders, f"file {number}").close()
        expected.add(f"file {number}")
    ended = placeholders.ended()
    assert len(ended) == len(set(ended))
    assert set(ended) == expected
    kept.close()
    assert placeholders.ended() == ["kept"]
