"""A server for the tests of the wire: `python3 conversation.py SOCKET LIMITS-AS-JSON`, with an interface that does all
an interface can do. It says "ready" on stdout when it listens, and writes its log, one JSON object a line, to stderr.

A process of its own, so that its fds and its memory can be watched from outside. No `from __future__ import
annotations`: asyncvarlink reads the annotations.
"""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator

from asyncvarlink import FileDescriptor, VarlinkInterface, varlinkmethod

from luod.ipc.server.foreign_files import ForeignFiles
from luod.ipc.server.peer import Peer
from luod.ipc.server.sparing import Sparing
from luod.ipc.server.wire import Limits, Listener


class Talk(VarlinkInterface, name="org.example.Talk"):
    """What the tests call."""

    hanging = 0
    cancelled = 0

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    @varlinkmethod(return_parameter="text")
    async def Echo(self, *, text: str) -> str:
        return text

    @varlinkmethod(return_parameter="size")
    def Measure(self, *, fileDescriptor: FileDescriptor) -> int:
        return os.fstat(fileDescriptor.fileno()).st_size

    @varlinkmethod(return_parameter="fileDescriptor")
    async def Open(self) -> FileDescriptor:
        file = os.memfd_create("conversation")
        os.write(file, b"hello")
        return FileDescriptor(file, should_close=True)

    @varlinkmethod(return_parameter="number", delay_generator=False)
    async def Count(self) -> AsyncIterator[int]:
        number = 0
        while True:
            yield number
            number += 1

    @varlinkmethod
    async def Hang(self) -> None:
        Talk.hanging += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            Talk.cancelled += 1
            raise

    @varlinkmethod(return_parameter="times")
    async def Hanging(self) -> int:
        return Talk.hanging

    @varlinkmethod(return_parameter="times")
    async def Cancelled(self) -> int:
        return Talk.cancelled

    @varlinkmethod
    async def Fail(self) -> None:
        raise KeyError("a bug")

    @varlinkmethod(return_parameter="who")
    async def WhoAmI(self) -> str:
        alive = self._peer.pidfd is not None and not self._peer.pidfd.closed
        return f"{self._peer.uid} {self._peer.pid} {alive}"


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
    listener = Listener(listening, lambda peer: [Talk(peer)], sparing, limits=limits, foreign=foreign)
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    print("ready", flush=True)
    await over.wait()
    foreign.close()
    await listener.close()
    sparing.close()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], Limits(**json.loads(sys.argv[2]))))
