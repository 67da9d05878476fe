"""The agent's end of the channel to the test: a JSON object a line, in both directions.

`loop` uses it and handles the requests. When the other end is closed, the agent ends.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import Any, Final

LONGEST_LINE: Final = 256 << 20
"""The maximum length of a request in bytes. A longer one is refused, and skipped up to its end."""
CROWDED: Final = 8 << 20
"""Bytes waiting for the test to read them, above which programs' output is left in their pipes."""


class Channel:
    """A channel that never blocks, until `block` is used."""

    def __init__(self, fd: int) -> None:
        """The fd stays open as long as the process lives."""
        self._fd = fd
        os.set_inheritable(fd, False)
        # A newline first: a boot that was interrupted may have left half a line on the channel. This blocks until a
        # serial port has its other end, which would look closed before.
        os.set_blocking(fd, True)
        os.write(fd, b"\n")
        os.set_blocking(fd, False)
        self._incoming = bytearray()
        self._skipping = False
        self._outgoing = bytearray()

    def fileno(self) -> int:
        return self._fd

    @property
    def pending(self) -> bool:
        """Returns whether there is something to `flush`."""
        return bool(self._outgoing)

    @property
    def crowded(self) -> bool:
        return len(self._outgoing) >= CROWDED

    def tell(self, message: dict[str, Any]) -> None:
        self._outgoing += json.dumps(message).encode() + b"\n"
        self.flush()

    def answer(self, identity: int, value: object) -> None:
        self.tell({"id": identity, "value": value})

    def fail(self, identity: int | None, kind: str, text: str, *, errno: int | None = None) -> None:
        self.tell({"id": identity, "error": {"kind": kind, "errno": errno, "text": text}})

    def flush(self) -> None:
        while self._outgoing:
            try:
                written = os.write(self._fd, self._outgoing[: 1 << 20])
            except BlockingIOError:
                return
            except (BrokenPipeError, ConnectionResetError):
                sys.exit(1)
            del self._outgoing[:written]

    def block(self) -> None:
        """Blocks in every later call until the other end has received its message."""
        os.set_blocking(self._fd, True)

    def lines(self) -> Iterator[bytes]:
        """Yields the received complete lines."""
        try:
            data = os.read(self._fd, 1 << 20)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            sys.exit(1)
        *lines, rest = data.split(b"\n")
        for line in lines:
            whole, self._incoming = bytes(self._incoming) + line, bytearray()
            skipped, self._skipping = self._skipping, False
            if skipped:
                self.fail(None, "BadRequest", f"a line longer than {LONGEST_LINE} bytes")
            elif whole:
                yield whole
        self._incoming += rest
        if len(self._incoming) > LONGEST_LINE:
            self._skipping, self._incoming = True, bytearray()
