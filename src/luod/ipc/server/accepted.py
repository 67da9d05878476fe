"""The part below messages of an accepted connection: what comes next on it, and whether its peer is gone.

`luod.ipc.server.connection` has the messages and the limits.
"""

from __future__ import annotations

import select
import socket

from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

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


def ahead(wire: socket.socket) -> tuple[int, bool]:
    """Returns how many bytes to receive next, and whether fds come with the last of them.

    The bytes reach no further than the end of a message, so that fds stay with their message; 0 at the end of the
    stream. They are left in the socket: without room for fds the kernel only reports whether there are any. Raises
    OSError.
    """
    data, fds = _peek(wire, _PIECE)
    end = data.find(b"\0") + 1 or len(data)
    if fds and end < len(data):
        # The fds may be those of a later message.
        _data, fds = _peek(wire, end)
    return end, fds


def _peek(wire: socket.socket, size: int) -> tuple[bytes, bool]:
    data, _control, flags, _address = wire.recvmsg(size, 0, socket.MSG_PEEK)
    return data, bool(flags & socket.MSG_CTRUNC)
