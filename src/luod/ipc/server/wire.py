"""A listening socket whose clients may be hostile, and its connections.

`luod.ipc.server.connection` has the messages. It knows no method: the interfaces are passed in, one set of objects for
each connection.
"""

from __future__ import annotations

import asyncio
import errno
import os

from luod.ipc.server.accepted import Hangups
from luod.ipc.server.admission import Admission, Room
from luod.ipc.server.connection import Connection, Limits, Server
from luod.ipc.server.peer import peer_of
from luod.ipc.server.turns import Turnstile
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from luod.ipc.server.connection import Interfaces, Refused
    from luod.ipc.server.foreign_files import ForeignFiles
    from luod.ipc.server.peer import Peer
    from luod.ipc.server.sparing import Sparing

_ACCEPT_AGAIN_SECONDS: Final = 0.1
_ACCEPT_SECONDS: Final = 0.001
"""The time for accepting connections in one turn of the loop. Other sockets, such as root's, wait meanwhile."""
_OUT_OF_ROOM: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class Listener:
    """Serves varlink on a listening unix socket, which it owns, until close(). Made inside a running loop."""

    def __init__(
        self,
        listening: socket.socket,
        interfaces: Interfaces,
        sparing: Sparing,
        *,
        limits: Limits,
        foreign: ForeignFiles,
        root_only: bool = False,
        room: Callable[[Peer], Room] | None = None,
        turnstile: Turnstile | None = None,
        refused: Refused = lambda _peer, _method, _error, _parameters: None,
        before_reply: Callable[[], None] = lambda: None,
    ) -> None:
        """`sparing` is the log of events that clients cause. `refused` gets each call that was answered with an error.
        `before_reply` writes down what replies rely on; a reply that it fails for is not sent.

        `room` returns the limits on connections, in place of `limits`. `turnstile` is the order in which connections
        are read, shared by the listeners of a loop. The caller closes them, and `foreign`.
        """
        self._loop = asyncio.get_running_loop()
        self._listening = listening
        self._room = room or (lambda _peer: Room(limits.connections, limits.all_connections))
        self._sparing = sparing
        self._admission = Admission(sparing, root_only=root_only)
        self._foreign = foreign
        self._hangups = Hangups(self._loop)
        turnstile = Turnstile() if turnstile is None else turnstile
        self._server = Server(
            interfaces, limits, turnstile, foreign, self._hangups, sparing, refused, before_reply, self._lost
        )
        self._connections: set[Connection] = set()
        self._closed = False
        listening.setblocking(False)
        self._resume()

    def _resume(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        end = self._loop.time() + _ACCEPT_SECONDS
        while self._loop.time() < end:
            try:
                connection, _address = self._listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _OUT_OF_ROOM:
                    raise
                self._sparing("accept-postponed", of=None, reason=os.strerror(error.errno))
                self._loop.remove_reader(self._listening)
                self._loop.call_later(_ACCEPT_AGAIN_SECONDS, self._resume)
                return
            self._welcome(connection)

    def _welcome(self, connection: socket.socket) -> None:
        try:
            peer = peer_of(connection)
        except OSError as error:
            self._sparing("connection-refused", of=None, reason=str(error))
            self._foreign.finish(connection)
            return
        room = self._room(peer)
        if self._admission.admits(connection, peer, room):
            self._connections.add(Connection(self._server, connection, peer, named=room.named))
        else:
            peer.close()
            self._foreign.finish(connection)

    def _lost(self, connection: Connection) -> None:
        self._connections.remove(connection)
        self._admission.left(connection.peer)
        connection.peer.close()

    async def close(self) -> None:
        """Stops listening and drops every connection. The calls that are served are cancelled.

        The listening socket stays open until the process ends: connections that wait in it may hold fds.
        """
        self._closed = True
        self._loop.remove_reader(self._listening)
        self._listening.detach()
        for connection in list(self._connections):
            connection.close()
        self._hangups.close()
        await asyncio.sleep(0)
