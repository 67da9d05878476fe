"""Calls that may wait, for programs that print what was answered, and when: results, or the names of errnos."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

SOON = 0.5
"""Seconds after which an unanswered call is one that waits."""


def attempt(do: Callable[[], object]) -> object:
    """Returns the result, or the name of an errno."""
    try:
        return do()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def can_open(path: str | Path) -> object:
    return attempt(lambda: os.close(os.open(path, os.O_RDWR)))


def write(file: int, text: str) -> object:
    """Returns whether all of `text` was taken, or the name of an errno. Closes the file."""
    try:
        return attempt(lambda: os.write(file, text.encode()) == len(text))
    finally:
        os.close(file)


def write_to(path: Path, text: str) -> object:
    return attempt(lambda: write(os.open(path, os.O_WRONLY), text))


class Later(threading.Thread):
    """A call that may wait. `soon` is its answer after some time, `result` the last one."""

    def __init__(self, do: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._do = do
        self.result: object = "waits"
        self.start()
        self.join(SOON)
        self.soon = self.result

    def run(self) -> None:
        self.result = attempt(self._do)
