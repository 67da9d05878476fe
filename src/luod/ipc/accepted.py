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
from typing import Any

from luod.ipc.framing import control_fds


def one_message(peeked: bytes) -> list[int]:
    """How many of the peeked bytes to receive: never beyond the end of a message, so that fds stay with theirs."""
    end = peeked.find(b"\0")
    return [end + 1 if end >= 0 else len(peeked)] if peeked else []


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


class AcceptedSocket(socket.socket):
    """A connection's socket as the library's transport gets it: one receive a turn of the loop, fds close-on-exec,
    and a message whose fds did not all arrive is an error. Without the first, a client that writes without pause
    would keep the loop for itself.
    """

    def __init__(self, number: int, loop: asyncio.AbstractEventLoop, hangups: Hangups, most_fds: int) -> None:
        super().__init__(fileno=number)
        self._loop = loop
        self._hangups = hangups
        self._room = socket.CMSG_LEN(most_fds * 4)
        self._spent = False

    def _renew(self) -> None:
        self._spent = False

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        if self._spent:
            raise BlockingIOError(errno.EAGAIN, "enough for this turn")
        return super().recv(size, flags)

    def recvmsg(self, size: int, _room: int = 0, flags: int = 0, /) -> tuple[bytes, list[Any], int, Any]:
        if self._spent:
            raise BlockingIOError(errno.EAGAIN, "enough for this turn")
        self._spent = True
        self._loop.call_soon(self._renew)
        data, control, got, address = super().recvmsg(size, self._room, flags | socket.MSG_CMSG_CLOEXEC)
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
