"""The socket of an accepted connection for the library's transport, and the detection of a hang-up without a read.

It is only the part below messages. `luod.ipc.server.wire` has the protocol and the limits, and only it uses this.
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
"""The size of one receive in bytes: that of a message, so that most take one turn."""


class Hangups:
    """Detects that a peer is gone while nothing is read: an epoll without requested events still reports EPOLLHUP."""

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
        """Returns whether it may be read now.

        If not, reading is paused until it may, or another socket is read before.
        """
        ...

    def fds_ahead(self, size: int) -> None:
        """Handles that the next `size` bytes carry fds and are not received here. Reading is paused until they were
        received.
        """
        ...

    def has_read(self, *, some: bool) -> None:
        """Handles that it was read once; `some`: the protocol gets data next. Otherwise the read failed."""
        ...


class AcceptedSocket(socket.socket):
    """A connection's socket for the library's transport. It is read only when `reader` allows it, and returns bytes,
    never fds.

    The transport makes one receive for each time the socket is readable, and takes its result: never beyond the end of
    a message, so that fds stay with their message. With one receive in a turn of the loop, a client that writes without
    pause does not block the others. If fds come next, nothing is received: `reader` gets the number of bytes, and has
    another process receive them (`luod.ipc.server.foreign_files`).
    """

    def __init__(self, number: int, hangups: Hangups, reader: Reader, finish: Callable[[socket.socket], None]) -> None:
        """`finish` makes the last close, which closes unread messages too."""
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
        """Returns the next data without taking it.

        Without room for fds the kernel only reports whether there are any.
        """
        data, _control, got, _address = super().recvmsg(size, 0, socket.MSG_PEEK)
        return _Ahead(data, bool(got & socket.MSG_CTRUNC))

    def _take(self, size: int) -> bytes:
        """Receives bytes that are known from a peek to be without fds."""
        return super().recv(size) if size else b""

    def __repr__(self) -> str:
        # asyncio of Python 3.11 writes it into errors that are not shown, several times a call; the stock one asks the
        # kernel.
        return f"<AcceptedSocket {self.fileno()}>"

    def close(self) -> None:
        self._hangups.forget(self)
        if self.fileno() >= 0:
            self._finish(self)


@dataclass(frozen=True)
class _Ahead:
    """The result of a peek; no bytes at the end of the stream. `fds`: some come with the last of these bytes."""

    data: bytes
    fds: bool


def _end_of_message(data: bytes) -> int:
    """Returns how many of these next bytes to receive: up to the end of a message."""
    end = data.find(b"\0")
    return end + 1 if end >= 0 else len(data)
