"""The tree of errors: what a traceback shows of one, and that closed things and a full fd table raise from it."""

from __future__ import annotations

import os
import resource
import traceback

import pytest

from luod.errors import BadInput, Busy, CallFailed, KernelRefused, LiveUpdateBusy, LuodError
from luod.linux import Fd, memfd
from luod.liveupdate import IncomingSession, OutgoingSession


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (LiveUpdateBusy(16, "open"), LiveUpdateBusy.hint),
        (BadInput("a name is wrong", hint="take another"), "take another"),
    ],
)
def test_a_traceback_shows_the_hint(error: LuodError, hint: str) -> None:
    shown = "".join(traceback.format_exception(error))
    assert error.message in shown
    assert f"hint: {hint}" in shown


def test_an_error_without_a_hint_shows_none() -> None:
    assert "hint" not in "".join(traceback.format_exception(LuodError("it failed")))


def test_busy_is_a_failed_call_with_a_type() -> None:
    assert issubclass(Busy, CallFailed)
    assert Busy("io.luod.Sessions.Busy", "an update is under way").hint


def test_what_is_closed_raises_an_error_of_the_tree() -> None:
    null = Fd(os.open(os.devnull, os.O_RDWR))
    null.close()
    with pytest.raises(BadInput, match="closed"):
        null.fileno()
    for session in (OutgoingSession(Fd(os.open(os.devnull, os.O_RDWR))), IncomingSession(memfd("x", 1))):
        session.close()
        with pytest.raises(BadInput, match="closed"):
            _ = session.name


def test_a_closed_file_is_not_preserved() -> None:
    with OutgoingSession(Fd(os.open(os.devnull, os.O_RDWR))) as session, open(os.devnull, "rb") as file:
        file.close()
        with pytest.raises(BadInput, match="not open"):
            session.preserve(file, 1)


def test_a_full_fd_table_raises_an_error_of_the_tree() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with memfd("x", 1) as file:
        os.close(lowest := os.dup(file.fileno()))
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
        try:
            with pytest.raises(KernelRefused, match="open files"):
                file.duplicate()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
