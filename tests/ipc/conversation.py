"""A server for the tests of the wire: `python3 conversation.py SOCKET LIMITS-AS-JSON`, with an interface that does all
an interface can do. It says "ready" on stdout when it listens, and writes its log, one JSON object a line, to stderr.

A process of its own, so that its fds and its memory can be watched from outside. No `from __future__ import
annotations`: the server reads the annotations of `Talk`.
"""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator

from luod.errors import LuodError
from luod.ipc.server.connection import Limits
from luod.ipc.server.foreign_files import ForeignFiles
from luod.ipc.server.methods import Interface, method
from luod.ipc.server.peer import Peer
from luod.ipc.server.received import Received
from luod.ipc.server.sparing import Sparing
from luod.ipc.server.wire import Listener
from luod.linux import Fd


class Lost(LuodError, ConnectionAbortedError):
    """The server cannot answer, and ends the connection."""


class Talk(Interface, name="org.example.Talk"):
    """What the tests call."""

    hanging = 0
    cancelled = 0
    written = 0
    unwritable = 0
    """Replies that cannot be written down, from the next one on."""
    changed = 0
    may_change = asyncio.Event()

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    @method("text")
    async def Echo(self, *, text: str) -> str:
        return text

    @method("size")
    def Measure(self, *, fileDescriptor: Received) -> int:
        return os.fstat(fileDescriptor.fileno()).st_size

    @method("fileDescriptor")
    async def Open(self) -> Fd:
        file = os.memfd_create("conversation")
        os.write(file, b"hello")
        return Fd(file)

    @method("number")
    async def Count(self) -> AsyncIterator[int]:
        number = 0
        while True:
            yield number
            number += 1

    @method()
    async def Hang(self) -> None:
        Talk.hanging += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            Talk.cancelled += 1
            raise

    @method("fileDescriptor", completed=True)
    async def Change(self) -> Fd:
        Talk.hanging += 1
        await Talk.may_change.wait()
        Talk.changed += 1
        return Fd(os.memfd_create("changed"))

    @method("times")
    def Changed(self, *, go_on: bool) -> int:
        if go_on:
            Talk.may_change.set()
        return Talk.changed

    @method("times")
    async def Hanging(self) -> int:
        return Talk.hanging

    @method("times")
    async def Cancelled(self) -> int:
        return Talk.cancelled

    @method("fileDescriptor")
    def OpenUnwritten(self) -> Fd:
        Talk.unwritable = 2
        return Fd(os.memfd_create("unwritten"))

    @method("times")
    async def Written(self) -> int:
        return Talk.written

    @method()
    async def Fail(self) -> None:
        raise KeyError("a bug")

    @method()
    async def Lose(self) -> None:
        raise Lost("the server ends")

    @method("who")
    async def WhoAmI(self) -> str:
        alive = self._peer.pidfd is not None and not self._peer.pidfd.closed
        return f"{self._peer.uid} {self._peer.pid} {alive}"


def write() -> None:
    if Talk.unwritable:
        Talk.unwritable -= 1
        raise LuodError("a bug: the registry is too large")
    Talk.written += 1


def log(event: str, /, **fields: object) -> None:
    print(json.dumps({"event": event, **fields}, default=str), file=sys.stderr, flush=True)


async def serve(path: str, limits: Limits) -> None:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(path)
    listening.listen(64)
    os.chmod(path, 0o666)
    sparing = Sparing(log)
    foreign = ForeignFiles(sparing)
    foreign.begin()
    listener = Listener(
        listening, lambda peer: [Talk(peer)], sparing, limits=limits, foreign=foreign, before_reply=write
    )
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    print("ready", flush=True)
    await over.wait()
    foreign.close()
    await listener.close()
    sparing.close()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], Limits(**json.loads(sys.argv[2]))))
