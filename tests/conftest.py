"""What holds for all of luod's own tests: none may leave an fd open, and ^C means ^C."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator

import pytest


def pytest_configure() -> None:
    """A shell's background job, such as CI may be, ignores SIGINT, and so would every program that a test starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def open_fds() -> dict[int, str]:
    """The fds of this process by number, with what they lead to."""
    found = {}
    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            found[number] = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:  # the one that read the directory
            continue
    return found


@pytest.fixture(autouse=True)
def _leaves_no_fd_open() -> Iterator[None]:
    """Compares /proc/self/fd before and after each test; set up first, so every fixture of the test is over by then."""
    before = open_fds()
    yield
    if open_fds() != before:
        gc.collect()  # a cycle may still hold one; with filterwarnings=error its ResourceWarning fails the test
        assert open_fds() == before
