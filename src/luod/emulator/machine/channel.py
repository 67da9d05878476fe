"""The channel from the processes that start a boot to `luoemu`: one datagram for each fact, with its fds."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from luod.linux import Fd, HasFileno

_MAX_MESSAGE: Final = 1 << 16
_MAX_FDS: Final = 64


@dataclass(frozen=True)
class Message:
    """A received message. The receiver owns `fds`."""

    content: dict[str, Any]
    fds: tuple[Fd, ...]


def pair() -> tuple[socket.socket, socket.socket]:
    """Returns both ends of a channel."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(channel: socket.socket, content: dict[str, Any], fds: Sequence[HasFileno] = ()) -> None:
    """Sends a message. The sender keeps its fds."""
    socket.send_fds(channel, [json.dumps(content).encode()], [fd.fileno() for fd in fds])


def receive(channel: socket.socket) -> Message | None:
    """Returns the next message; None when every sender has closed its end."""
    try:
        data, numbers, _, _ = socket.recv_fds(channel, _MAX_MESSAGE, _MAX_FDS)
    except ConnectionResetError:
        return None
    fds = tuple(Fd(number) for number in numbers)
    for fd in fds:
        os.set_inheritable(fd.fileno(), False)
    if not data:
        return None
    return Message(json.loads(data), fds)
