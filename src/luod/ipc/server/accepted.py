"""The socket of an accepted connection as the library's transport gets it, and how a hang-up is seen without reading.

Only what lies below messages: `luod.ipc.server.wire` has the protocol and the limits, and is the only caller.
"""

from __future__ import annotations

import asyncio
import errno
import select
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

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

    def fds_ahead(self, size: int) -> None:
        """The next `size` bytes carry fds, and are not received here. Reading is paused until they were received."""
        ...

    def has_read(self, *, some: bool) -> None:
        """It was read once; `some`: the protocol is told next what came. Else the read failed."""
        ...


class AcceptedSocket(socket.socket):
    """A connection's socket as the library's transport gets it. It is read only when `reader` says so, and gives bytes,
    never fds.

    The transport makes one receive for each time the socket is readable, and takes what it gives: never beyond the end
    of a message, so that fds stay with their message. One receive a turn of the loop keeps a client that writes without
    pause from having the loop for itself. Where fds come next, nothing is received: `reader` is told how many bytes
    there are to receive, and has another process do it (`luod.ipc.server.foreign_files`).
    """

    def __init__(self, number: int, hangups: Hangups, reader: Reader, finish: Callable[[socket.socket], None]) -> None:
        """`finish` makes the last close, which is that of unread messages too."""
        super().__init__(fileno=number)
        # Out-of-band bytes carry fds too. A receive would skip them, and drop the last references of these fds.
        self.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        self._hangups = hangups
        self._reader = reader
        self._finish = finish

    def recvmsg(self, _size: int, _room: int = 0, _flags: int = 0, /) -> tuple[bytes, list[Any], int, Any]:
        if not self._reader.may_read():
            raise BlockingIOError(errno.EAGAIN, "it is another's turn")
        some = False
        try:
            ahead = self._peek(_PIECE)
            size = _end_of_message(ahead.data)
            if ahead.fds and size < len(ahead.data):
                # The fds may be those of a later message.
                ahead = self._peek(size)
            if ahead.fds:
                self._reader.fds_ahead(size)
                raise BlockingIOError(errno.EAGAIN, "fds come next")
            data = self._take(size)
            some = True
        finally:
            self._reader.has_read(some=some)
        return data, [], 0, None

    def _peek(self, size: int) -> _Ahead:
        """Looks at what comes next, and takes nothing. Without room for fds the kernel only says whether there are."""
        data, _control, got, _address = super().recvmsg(size, 0, socket.MSG_PEEK)
        return _Ahead(data, bool(got & socket.MSG_CTRUNC))

    def _take(self, size: int) -> bytes:
        """Receives bytes that a peek has shown to be without fds."""
        return super().recv(size) if size else b""

    def __repr__(self) -> str:
        # asyncio of Python 3.11 writes it into errors nobody sees, several times a call; the stock one asks the kernel.
        return f"<AcceptedSocket {self.fileno()}>"

    def close(self) -> None:
        self._hangups.forget(self)
        if self.fileno() >= 0:
            self._finish(self)


@dataclass(frozen=True)
class _Ahead:
    """What a peek gave; no bytes at the end of the stream. `fds`: some ride with the last of these bytes."""

    data: bytes
    fds: bool


def _end_of_message(data: bytes) -> int:
    """Returns how many of these bytes, which are the next, to receive: up to the end of a message."""
    end = data.find(b"\0")
    return end + 1 if end >= 0 else len(data)
