"""Something that is not luod at the other end of a socket: it answers each call with bytes and fds a test has chosen.

A real peer on a real socket, for what a client makes of answers. What luod itself answers is tested with luod, in
machines.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self


def reply(parameters: dict[str, Any] | None = None, **members: Any) -> bytes:
    """Returns a Varlink reply as bytes, its NUL included."""
    return json.dumps({"parameters": parameters or {}, **members}).encode() + b"\0"


class Answer:
    """What follows a call: chunks, sent one by one, each with its fds; then the connection is closed, or held."""

    def __init__(self, *chunks: bytes, fds: Sequence[int] = (), hold: bool = False) -> None:
        """`fds`, which stay the caller's, go with the first chunk. `hold` keeps the connection until the other end
        closes it."""
        self.chunks = chunks
        self.fds = fds
        self.hold = hold


class Impostor:
    """Listens at `path` and gives the n-th call the n-th answer. Use it in `with`."""

    def __init__(self, folder: Path, *answers: Answer) -> None:
        self.path = str(folder / "luod.sock")
        self.calls: list[dict[str, Any]] = []
        self.hung_up = threading.Event()
        """Set when a client has closed a connection first."""
        self.asked = threading.Event()
        """Set when the first call has come."""
        self._answers = iter(answers)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._listener.listen()
        self._connections: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for connection in self._connections:
            connection.join()
        self._listener.close()
        os.unlink(self.path)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._answer, args=(connection,))
            self._connections.append(thread)
            thread.start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            call = b""
            while not call.endswith(b"\0"):
                data = connection.recv(65536)
                if not data:
                    return
                call += data
            self.calls.append(json.loads(call[:-1]))
            self.asked.set()
            answer = next(self._answers)
            try:
                for number, chunk in enumerate(answer.chunks):
                    sent = socket.send_fds(connection, [chunk], [] if number else list(answer.fds))
                    connection.sendall(chunk[sent:])
                left = answer.hold and not connection.recv(1)
            except ConnectionError:  # before it had taken everything
                left = True
            if left:
                self.hung_up.set()
