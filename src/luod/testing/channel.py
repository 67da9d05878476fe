"""The test's end of the line to the agent in a machine: JSON objects, one a line, with deadlines.

`machine` has the requests and the boots. There are no sleeps here: every wait is for bytes or the end.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import time
from collections import deque
from typing import Any

from luod.linux import LONGEST_POLL


class Channel:
    """Owns the socket. Not thread-safe."""

    def __init__(self, connection: socket.socket) -> None:
        """Takes ownership of `connection`, a connected stream socket."""
        connection.setblocking(False)
        self._socket = connection
        self._incoming = bytearray()
        self._messages: deque[dict[str, Any]] = deque()

    @property
    def closed(self) -> bool:
        return self._socket.fileno() < 0

    def close(self) -> None:
        """Closes the socket. Idempotent."""
        self._socket.close()

    def send(self, message: dict[str, Any], *, timeout: float) -> None:
        """Sends one message and reads meanwhile: neither end may wait for the other to read first.

        Raises TimeoutError after `timeout` seconds, ConnectionError when either end is closed.
        """
        data = memoryview(json.dumps(message).encode() + b"\n")
        deadline = time.monotonic() + timeout
        while data:
            self._check_open()
            try:
                data = data[self._socket.send(data) :]
            except BlockingIOError:
                self._wait(select.POLLIN | select.POLLOUT, deadline)
                self._read()

    def receive(self, *, until: float) -> dict[str, Any]:
        """Returns the next message.

        Raises TimeoutError at `until`, a time of time.monotonic(), ConnectionError when either end is closed.

        A line that is not a JSON object is skipped: a boot that was interrupted may have left half of one.
        """
        while not self._messages:
            self._check_open()
            self._wait(select.POLLIN, until)
            self._read()
        return self._messages.popleft()

    def arrived(self, *, but: str) -> dict[str, Any] | None:
        """Returns the next message if it has arrived. One with the member `but` is left to `receive`.

        The end of the other side is left to `receive`, too.
        """
        if not self._messages and not self.closed:
            with contextlib.suppress(ConnectionError):
                self._read()
        if not self._messages or but in self._messages[0]:
            return None
        return self._messages.popleft()

    def _check_open(self) -> None:
        if self.closed:
            raise ConnectionAbortedError("this end is closed")

    def _wait(self, events: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(self._socket, events)
        # After the deadline not even for what is there: more may be there each time.
        while (left := deadline - time.monotonic()) > 0:
            if poll.poll(min(left, LONGEST_POLL) * 1000):
                return
        raise TimeoutError

    def _read(self) -> None:
        try:
            data = self._socket.recv(1 << 20)
        except BlockingIOError:
            return
        if not data:
            raise ConnectionResetError("the machine has closed its end")
        *lines, rest = data.split(b"\n")
        for line in lines:
            whole, self._incoming = bytes(self._incoming) + line, bytearray()
            try:
                message = json.loads(whole)
            except ValueError:
                continue
            if isinstance(message, dict):
                self._messages.append(message)
        self._incoming += rest
