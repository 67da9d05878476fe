"""What holds for all of luod's own tests: none may leave an fd open."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest


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
