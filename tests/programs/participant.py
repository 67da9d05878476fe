"""`tests.programs.client` that also takes part in updates, or runs them: any method of luod's, over sockets it keeps.

`python3 -m tests.programs.participant SOCKET ADMIN_SOCKET`, inside a machine. It speaks Varlink by hand, so that what
luod says is seen as it is. Standard library and luod only.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from luod.errors import LuodError
from luod.ipc.client.connection import Connection
from luod.ipc.framing import Reply, encode_call
from tests.programs.client import Client


class Participant(Client):
    def __init__(self, socket: str, admin_socket: str) -> None:
        super().__init__("blocking", socket)
        self._sockets = {"io.luod.Admin": admin_socket}
        self._streams: dict[str, tuple[Connection, Iterator[Reply]]] = {}
        self._first: dict[str, dict[str, Any] | LuodError] = {}

    def _connect(self, method: str, timeout: float) -> Connection:
        return Connection(self._sockets.get(method.rpartition(".")[0], self._socket), timeout=timeout)

    def call_method(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        with self._connect(method, 30.0) as connection:
            reply = connection.ask(encode_call(method, parameters))
            reply.close()
        return dict(reply.parameters)

    def call_more(self, slot: str, method: str, parameters: dict[str, Any]) -> None:
        """Calls with "more", on a connection that stays. It returns when there is a first reply, for `next` to give."""
        connection = self._connect(method, 30.0)
        replies = connection.follow(encode_call(method, parameters, more=True))
        first: dict[str, Any] | LuodError
        try:
            first = dict(next(replies).parameters)
        except LuodError as error:
            first = error
        self._streams[slot] = connection, replies
        self._first[slot] = first

    def call_next(self, slot: str) -> dict[str, Any] | None:
        """Returns the next reply; None after the last."""
        first = self._first.pop(slot, None)
        if isinstance(first, LuodError):
            raise first
        if first is not None:
            return first
        reply = next(self._streams[slot][1], None)
        return None if reply is None else dict(reply.parameters)

    def call_hang_up(self, slot: str) -> None:
        self._streams.pop(slot)[0].close()


if __name__ == "__main__":
    Participant(*sys.argv[1:]).serve(sys.stdin, sys.stdout)
