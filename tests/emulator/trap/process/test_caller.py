"""The files of a calling thread, whose other threads may close and open fds at the same time."""

from __future__ import annotations

import os

import pytest

from luod import linux
from luod.emulator.model.files import DeviceFile, SessionFile
from luod.emulator.model.handler import HandlerTable
from luod.emulator.model.ports import Kind
from luod.emulator.model.session import OutgoingSession
from luod.emulator.trap.process.caller import Surroundings, Thread
from luod.emulator.trap.process.placeholder import Placeholders


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
