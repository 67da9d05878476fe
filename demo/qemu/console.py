"""The serial console of a guest, read from outside the machine: each line with the time at which it came.

QEMU connects to a Unix socket, and the next QEMU connects to the same one. Nothing that a guest printed is lost: a
socket keeps what was written before the writer ended. In the emulated machine the socket is the host's.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from luod.linux import Resource


@dataclass(frozen=True)
class Line:
    """A line, and when its end was read: seconds of CLOCK_MONOTONIC, which runs through an emulated kexec."""

    time: float
    text: str


class Console(Resource):
    """The guest's end of a console. It reads in a thread until it is closed; use it in `with`."""

    def __init__(self, path: Path, tell: Callable[[Line], None] | None = None) -> None:
        """Listens at `path`, which must not exist. `tell` is called in the thread, for each line."""
        self.path = path
        self._lines: list[Line] = []
        self._tell = tell
        self._connection: socket.socket | None = None
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._read_all, name=f"console {path}")
        self._thread.start()

    @property
    def arguments(self) -> list[str]:
        """Returns QEMU's arguments for it."""
        return ["-chardev", f"socket,id=console,path={self.path}", "-serial", "chardev:console"]

    @property
    def lines(self) -> list[Line]:
        """Returns the complete lines so far."""
        return list(self._lines)

    def numbers(self) -> list[tuple[float, int]]:
        """Returns the lines that are numbers, each with its time."""
        return [(line.time, int(line.text)) for line in self.lines if line.text.isdigit()]

    def last(self, beginning: str) -> str | None:
        """Returns the last line that begins so."""
        return next((line.text for line in reversed(self.lines) if line.text.startswith(beginning)), None)

    def close(self) -> None:
        """Ends the thread. Idempotent."""
        # A shutdown ends accept(2) and recv(2) of the thread; a close does not.
        for each in (self._listener, self._connection):
            if each is not None:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _read_all(self) -> None:
        begun = b""
        while True:
            try:
                self._connection, _ = self._listener.accept()
            except OSError:
                return
            with self._connection:
                begun = self._read(self._connection, begun)

    def _read(self, connection: socket.socket, begun: bytes) -> bytes:
        """Reads to the end of a connection. Returns the line that it ended in."""
        while True:
            try:
                data = connection.recv(65536)
            except ConnectionError:
                return begun
            if not data:
                return begun
            now = time.monotonic()
            *complete, begun = (begun + data).split(b"\n")
            for text in complete:
                line = Line(now, text.rstrip(b"\r").decode("utf-8", "replace"))
                self._lines.append(line)
                if self._tell is not None:
                    self._tell(line)


def longest_gap(numbers: list[tuple[float, int]]) -> float:
    """Returns the longest time between two numbers, in seconds. Raises AssertionError: one is missing or repeated."""
    counted = [number for _, number in numbers]
    assert counted == list(range(counted[0], counted[0] + len(counted))), "a number is missing or repeated"
    return max(after - before for (before, _), (after, _) in itertools.pairwise(numbers))
