"""A calling thread, while other threads of its process close and open fds, execute a program, or kill it."""

from __future__ import annotations

import ctypes
import errno
import os

import pytest

from luod import linux
from luod.emulator.model.files import DeviceFile, SessionFile
from luod.emulator.model.handler import HandlerTable
from luod.emulator.model.ports import Errno, Kind
from luod.emulator.model.session import OutgoingSession
from luod.emulator.trap.process.caller import Surroundings, Thread
from luod.emulator.trap.process.placeholder import Placeholders
from luod.emulator.trap.seccomp.notify import Notification


def test_a_session_that_came_to_the_number_of_a_memfd_is_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """A duplicate of a placeholder, kept as if it were a memfd to preserve, would keep the session open."""
    placeholders: Placeholders[DeviceFile | SessionFile] = Placeholders()
    session = SessionFile(OutgoingSession(b"s", HandlerTable(())))
    fd, _ = placeholders.create(b"[luo_session] s", session)
    around = Surroundings(None, placeholders, None, 0)  # type: ignore[arg-type]  # no fd is installed
    thread = Thread(around, os.getpid())
    with linux.memfd("m", 1) as memory:
        looked_up = thread.identity(memory.fileno())
    monkeypatch.setattr(thread, "identity", lambda number: looked_up)
    file = thread.file(fd.fileno())
    fd.close()
    assert file.kind is Kind.SESSION
    assert placeholders.ended() == [session]
    placeholders.close()


def test_a_killed_caller_is_not_written_to() -> None:
    """Its tid may be another program's, whose memory it would be: this one's, for the test."""

    class Gone:
        def alive(self, notification: Notification) -> bool:
            return False

    around = Surroundings(Gone(), Placeholders(), None, 0)  # type: ignore[arg-type]  # what is asked of a listener here
    caller = Thread(around, os.getpid(), Notification(1, os.getpid(), 0, 0, ()))
    memory = ctypes.create_string_buffer(b"its own", 8)
    with pytest.raises(Errno) as refused:
        caller.write(ctypes.addressof(memory), b"an answer"[:8])
    assert refused.value.code == errno.ESRCH
    assert memory.value == b"its own"
    around.placeholders.close()
