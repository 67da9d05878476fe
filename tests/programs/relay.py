"""Stands between luod's socket and its clients: `python3 -m tests.programs.relay SOCKET LOG LOST`.

It takes the socket's name, and appends each message of a client to LOG. luod's first answer to the method LOST is not
passed on: the client's connection ends instead, as when luod dies right before it answers.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
from typing import Final

_MOST: Final = 1 << 16
path, log, lost = sys.argv[1:]
behind = f"{path}.behind"


class Relayed:
    """One client's connection, and that to luod."""

    def __init__(self, client: socket.socket) -> None:
        self.client = client
        self.luod = socket.socket(socket.AF_UNIX)
        self.luod.connect(behind)
        self.loses = False

    def close(self) -> None:
        for end in (self.client, self.luod):
            end.close()


def pass_on(source: socket.socket, target: socket.socket) -> bytes:
    """Returns what it passed, b"" at the end of the connection."""
    data, fds, _, _ = socket.recv_fds(source, _MOST, 16)
    try:
        if data:
            socket.send_fds(target, [data], fds)
    finally:
        for fd in fds:
            os.close(fd)
    return data


def main() -> None:
    os.rename(path, behind)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    os.chmod(path, 0o666)
    listener.listen()
    has_lost = False
    open_: dict[socket.socket, Relayed] = {}
    while True:
        for end in select.select([listener, *open_], [], [])[0]:
            if end is listener:
                relayed = Relayed(listener.accept()[0])
                open_ |= {relayed.client: relayed, relayed.luod: relayed}
                continue
            if end not in open_:
                continue  # closed in this turn
            relayed = open_[end]
            data = b""
            with contextlib.suppress(OSError):
                if end is relayed.client:
                    data = pass_on(relayed.client, relayed.luod)
                    with open(log, "ab") as file:
                        file.write(data)
                    relayed.loses = not has_lost and lost.encode() in data
                elif not relayed.loses:
                    data = pass_on(relayed.luod, relayed.client)
                elif relayed.luod.recv(_MOST):
                    has_lost = True
            if not data:
                del open_[relayed.client], open_[relayed.luod]
                relayed.close()


main()
