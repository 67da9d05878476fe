"""The socket of an accepted connection as the library's transport gets it, and how a hang-up is seen without reading.

Only what lies below messages: `luod.ipc.wire` has the protocol and the limits, and is the only caller.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from luod.ipc.framing import control_fds

_PIECE: Final = 64 * 1024
"""Bytes of one receive: as many as a message may have, so that most cost one turn."""


class Hangups:
    """Tells when a peer is gone, while nothing is read: an epoll with no events asked for still reports EPOLLHUP."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._told: dict[int, Callable[[], None]] = {}
        loop.add_reader(self._epoll, self._ready)

    def watch(self, wire: socket.socket, tell: Callable[[], None]) -> None:
        self._epoll.register(wire, 0)
        self._told[wire.fileno()] = tell

    def forget(self, wire: socket.socket) -> None:
        if self._told.pop(wire.fileno(), None) is not None:
            self._epoll.unregister(wire)

    def _ready(self) -> None:
        for number, _events in self._epoll.poll(0):
            tell = self._told.pop(number)
            self._epoll.unregister(number)
            tell()

    def close(self) -> None:
        self._loop.remove_reader(self._epoll)
        self._epoll.close()


class Reader(Protocol):
    """Decides when a socket is read."""

    def may_read(self) -> bool:
        """Whether it may be now. If not, reading is paused until it may, or something else is read before."""
        ...

    def has_read(self, *, some: bool) -> None:
        """It was read once; `some`: the protocol is told next what came. Else the read failed."""
        ...


class AcceptedSocket(socket.socket):
    """A connection's socket as the library's transport gets it. It is read only when `reader` says so.

    The transport makes one receive for each time the socket is readable, and takes what it gives: never beyond the end
    of a message, so that fds stay with their message, close-on-exec, and a message whose fds did not all arrive is an
    error. One receive a turn of the loop keeps a client that writes without pause from having the loop for itself.
    """

    def __init__(self, number: int, hangups: Hangups, most_fds: int, reader: Reader) -> None:
        super().__init__(fileno=number)
        self._hangups = hangups
        self._reader = reader
        self._room = socket.CMSG_LEN(most_fds * 4)

    def recvmsg(self, _size: int, _room: int = 0, _flags: int = 0, /) -> tuple[bytes, list[Any], int, Any]:
        if not self._reader.may_read():
            raise BlockingIOError(errno.EAGAIN, "it is another's turn")
        some = False
        try:
            ahead = self._peek(_PIECE)
            received = self._take(_end_of_message(ahead.data))
            some = True
        finally:
            self._reader.has_read(some=some)
        return received

    def _peek(self, size: int) -> _Ahead:
        """Looks at what comes next, and takes nothing."""
        data, _control, got, _address = super().recvmsg(size, 0, socket.MSG_PEEK)
        return _Ahead(data, bool(got & socket.MSG_CTRUNC))

    def _take(self, size: int) -> tuple[bytes, list[Any], int, Any]:
        """Receives up to `size` bytes, and the fds that came with them."""
        data, control, got, address = super().recvmsg(size, self._room, socket.MSG_CMSG_CLOEXEC)
        if got & socket.MSG_CTRUNC:
            for number in control_fds(control):
                os.close(number)
            raise ConnectionAbortedError(errno.ECONNABORTED, "more fds than a message may have")
        return data, control, got, address

    def __repr__(self) -> str:
        # asyncio of Python 3.11 writes it into errors nobody sees, several times a call; the stock one asks the kernel.
        return f"<AcceptedSocket {self.fileno()}>"

    def close(self) -> None:
        self._hangups.forget(self)
        super().close()


@dataclass(frozen=True)
class _Ahead:
    """What a peek gave. `fds`: some ride with the last of these bytes."""

    data: bytes
    fds: bool


def _end_of_message(data: bytes) -> int:
    """How many of these bytes, which are the next, to receive: up to the end of a message; at least 1."""
    end = data.find(b"\0")
    return end + 1 if end >= 0 else max(len(data), 1)
