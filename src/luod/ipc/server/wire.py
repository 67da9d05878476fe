"""The server's side of the wire: asyncvarlink behind a socket that may face hostile clients.

The stock server of the library trusts its clients. This one bounds a message in bytes, fds and time, reads one message
of one client at a time in the order of `luod.ipc.server.turns`, reads no further call before the client took the last
reply, and knows the peer. It knows no method: the interfaces are passed in, one set of objects for each connection. It
uses no private part of the library, so the library can be updated.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Literal

from asyncvarlink import (
    AnnotatedResult,
    FileDescriptorArray,
    GenericVarlinkErrorReply,
    VarlinkErrorReply,
    VarlinkInterface,
    VarlinkInterfaceRegistry,
    VarlinkMethodCall,
    VarlinkMethodReply,
    VarlinkMethodSignature,
    VarlinkProtocol,
    VarlinkTransport,
)
from asyncvarlink.conversion import ConversionError, FileDescriptorVarlinkType
from asyncvarlink.serviceinterface import InvalidParameter, MethodNotFound, VarlinkServiceInterface
from asyncvarlink.types import JSONObject

from luod.errors import LuodError
from luod.ipc.errors import on_the_wire
from luod.ipc.names import FILES_NOT_RECEIVED, INTERNAL_ERROR
from luod.ipc.server.accepted import AcceptedSocket, Hangups
from luod.ipc.server.admission import Admission, Room
from luod.ipc.server.arguments import arguments
from luod.ipc.server.calls import Malformed, may_be_oneway, parse
from luod.ipc.server.foreign_files import Arrived, Failed, ForeignFiles, Request
from luod.ipc.server.peer import Peer, peer_of
from luod.ipc.server.sparing import Sparing
from luod.ipc.server.turns import Turnstile, timed
from luod.version import __version__

_ACCEPT_AGAIN_SECONDS: Final = 0.1
_ACCEPT_SECONDS: Final = 0.001
"""The time for accepting connections in one turn of the loop. Other sockets, such as root's, wait meanwhile."""
_OUT_OF_ROOM: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


@dataclass(frozen=True)
class Limits:
    """The resources of the server that one client may use. Beyond them the connection is dropped, or refused."""

    message_bytes: int = 64 * 1024
    message_fds: int = 16
    message_seconds: float = 10.0
    """From the first byte of a message to its last."""
    silence_seconds: float = 60.0
    """From connecting to the first byte. After its first call a client may be silent without limit."""
    reply_seconds: float = 30.0
    """Until the client has taken a reply."""
    connections: int = 128
    """The maximum number of one user's connections, unless the listener has another limit."""
    all_connections: int = 1024
    """The maximum number of the connections of all users except root, likewise."""


Interfaces = Callable[[Peer], Iterable[VarlinkInterface]]


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
        refused: Callable[[Peer, str, VarlinkErrorReply], None] = lambda _peer, _method, _error: None,
    ) -> None:
        """`sparing` is the log of events that clients cause. `refused` gets each call that was answered with an error.

        `room` returns the limits on connections, in place of `limits`. `turnstile` is the order in which connections
        are read, shared by the listeners of a loop. The caller closes them, and `foreign`.
        """
        # The library's own warnings are about mistakes of clients, which are logged here.
        library = logging.getLogger("asyncvarlink")
        library.propagate = False
        library.addHandler(logging.NullHandler())
        self._loop = asyncio.get_running_loop()
        self._listening = listening
        self._interfaces = interfaces
        self._room = room or (lambda _peer: Room(limits.connections, limits.all_connections))
        self.sparing: Final = sparing
        self._admission = Admission(sparing, root_only=root_only)
        self.foreign: Final = foreign
        self.limits: Final = limits
        self.refused: Final = refused
        self.turnstile: Final = Turnstile() if turnstile is None else turnstile
        self._hangups = Hangups(self._loop)
        self._connections: dict[_Connection, VarlinkTransport] = {}
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
                self.sparing("accept-postponed", of=None, reason=os.strerror(error.errno))
                self._loop.remove_reader(self._listening)
                self._loop.call_later(_ACCEPT_AGAIN_SECONDS, self._resume)
                return
            self._welcome(connection)

    def _welcome(self, connection: socket.socket) -> None:
        try:
            peer = peer_of(connection)
        except OSError as error:
            self.sparing("connection-refused", of=None, reason=str(error))
            self.foreign.finish(connection)
            return
        room = self._room(peer)
        if not self._admission.admits(connection, peer, room):
            peer.close()
            self.foreign.finish(connection)
            return
        protocol = _Connection(self, peer, named=room.named)
        wire = protocol.accepted = AcceptedSocket(connection.detach(), self._hangups, protocol, self.foreign.finish)
        self._hangups.watch(wire, protocol.hung_up)
        self._connections[protocol] = VarlinkTransport(self._loop, wire, wire, protocol, boundary_predictor=None)

    def registry(self, peer: Peer) -> VarlinkInterfaceRegistry:
        """Returns the interfaces of the peer. They are made at its first call, whose user is charged for it."""
        registry = VarlinkInterfaceRegistry()
        registry.register_interface(VarlinkServiceInterface("luod", "luod", __version__, "https://luod.io", registry))
        for interface in self._interfaces(peer):
            registry.register_interface(interface)
        return registry

    def gone(self, connection: _Connection) -> None:
        """Forgets a connection that is lost."""
        if self._connections.pop(connection, None) is not None:
            self._admission.left(connection.peer)
        connection.peer.close()

    async def close(self) -> None:
        """Stops listening, drops every connection, and returns when they are gone.

        The listening socket stays open until the process ends: connections that wait in it may hold fds.
        """
        self._closed = True
        self._loop.remove_reader(self._listening)
        self._listening.detach()
        transports = list(self._connections.values())
        for transport in transports:
            transport.abort()
        for transport in transports:
            await transport.closed_future
        self._hangups.close()


Turn = Literal["none", "awaited", "had", "used"]


class _Connection(VarlinkProtocol):
    """One client. It is read when it has the turn, which ends with the first step of serving its call. Reading pauses
    then until the reply is sent.
    """

    accepted: AcceptedSocket

    def __init__(self, listener: Listener, peer: Peer, *, named: bool) -> None:
        super().__init__()
        self.peer: Final = peer
        self._named = named
        self._listener = listener
        self._limits = listener.limits
        self._registry: VarlinkInterfaceRegistry | None = None
        self._loop = asyncio.get_running_loop()
        self._wire: VarlinkTransport | None = None
        self._begun = bytearray()
        self._begun_fds: FileDescriptorArray | None = None
        self._request: Request | None = None
        """Of a piece of a message that carries fds."""
        self._arrival: Arrived | None = None
        """Such a piece, while it waits for its turn."""
        self._deadline: asyncio.TimerHandle | None = None
        self._deadline_reason = ""
        self._deadline_left: float | None = None
        self._serving: asyncio.Task[None] | None = None
        self._turn: Turn = "none"
        self._patient = False
        self._last_reply: asyncio.Future[None] | None = None
        self._gone = False

    @property
    def uid(self) -> int:
        return self.peer.uid

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert isinstance(transport, VarlinkTransport)
        self._wire = transport
        self._set_deadline(self._limits.silence_seconds, "it said nothing")

    # When it is read: `luod.ipc.server.accepted.Reader` and `luod.ipc.server.turns.Holder`.

    def may_read(self) -> bool:
        if self._turn == "had":
            return True
        if self._turn == "none" and self._serving is None and self._wire is not None:
            if self._listener.turnstile.take(self):
                self._turn = "had"
                return True
            self._turn = "awaited"
            self._wire.pause_reading()
            self._hold_deadline()
            self._listener.turnstile.ask(self)
        return False

    def granted(self) -> bool:
        self._turn = "none"
        if self._wire is None or self._wire.is_closing():
            return False
        if (arrival := self._arrival) is not None:
            self._turn, self._arrival = "used", None
            self._continue_deadline()
            self._deliver(arrival)
            return True
        self._turn = "had"
        self._continue_deadline()
        self._wire.resume_reading()
        return True

    def has_read(self, *, some: bool) -> None:
        if some:
            self._turn = "used"
        else:
            self._end_turn()

    def fds_ahead(self, size: int) -> None:
        if self._wire is not None and not self._wire.is_closing():
            self._wire.pause_reading()
            self._hold_deadline()
            self._request = self._listener.foreign.receive(
                self.accepted,
                self.peer.uid,
                named=self._named,
                size=size,
                most_fds=self._limits.message_fds,
                done=self._arrived,
            )

    def _arrived(self, outcome: Arrived | Failed) -> None:
        self._request = None
        if isinstance(outcome, Arrived):
            self._arrival = outcome
            if not self._listener.turnstile.take(self):
                self._turn = "awaited"
                self._listener.turnstile.ask(self)
            elif not self.granted():
                self._listener.turnstile.over(self)
        else:
            self._serving = self._loop.create_task(self._refuse(outcome))
            self._serving.add_done_callback(lambda task: self._served(task, None))

    def _deliver(self, arrival: Arrived) -> None:
        """Does what the transport does with bytes that it received."""
        fds = FileDescriptorArray(arrival, arrival.files)
        try:
            self.message_received(arrival.data, fds)
        finally:
            fds.release(arrival)
        if self._serving is None and self._wire is not None:
            self._wire.resume_reading()

    async def _refuse(self, failed: Failed) -> None:
        """Sends the client the reason for which its files are not received, before the connection ends."""
        reply = GenericVarlinkErrorReply(FILES_NOT_RECEIVED, {"message": failed.reason, "hint": failed.hint})
        await self._send(reply.toreply(), FileDescriptorArray(self), oneway=False)
        raise ConnectionAbortedError(failed.reason)

    def _end_turn(self) -> None:
        if self._turn in ("had", "used"):
            self._turn = "none"
            self._listener.turnstile.over(self)

    def _charge(self, seconds: float) -> None:
        self._listener.turnstile.charge(self.peer.uid, seconds)
        self._end_turn()

    def _set_deadline(self, seconds: float, reason: str) -> None:
        self._clear_deadline()
        self._deadline = self._loop.call_later(seconds, self.drop, reason)
        self._deadline_reason = reason

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._deadline_left = None

    def _hold_deadline(self) -> None:
        """Suspends the deadline: the wait for a turn is not the client's time."""
        if self._deadline is not None:
            left = max(self._deadline.when() - self._loop.time(), 0.0)
            self._clear_deadline()
            self._deadline_left = left

    def _continue_deadline(self) -> None:
        if self._deadline_left is not None:
            self._set_deadline(self._deadline_left, self._deadline_reason)

    def drop(self, reason: str) -> None:
        """Ends the connection now, without sending what is queued."""
        if self._wire is not None and not self._wire.is_closing():
            self._listener.sparing(
                "connection-dropped", of=self.peer.uid, uid=self.peer.uid, pid=self.peer.pid, reason=reason
            )
            self._wire.abort()

    def eof_received(self) -> None:
        if self._wire is not None:
            self._wire.abort()

    def hung_up(self) -> None:
        """Handles that the peer is gone, which is detected without a read.

        A call without a reply continues, and one that has its answer ends by itself.
        """
        self._gone = True
        answered = self._last_reply is not None and self._last_reply.done()
        if self._serving is not None and not self._patient and not answered:
            self._serving.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._wire is not None:
            self._wire.abort()  # fails queued sends, so that no fd number outlives its fd there
            self._wire = None
        self._clear_deadline()
        self._turn = "none"
        self._listener.turnstile.gone(self)
        if self._request is not None:
            self._request.cancel()
        if self._arrival is not None:
            self._arrival.close()
            self._arrival = None
        if self._serving is not None:
            self._serving.cancel()
        if self._begun_fds is not None:
            self._begun_fds.release(self)
            self._begun_fds = None
        self._listener.gone(self)

    def message_received(self, data: bytes, fds: FileDescriptorArray | None) -> None:
        """Handles `data`, which never reaches beyond the end of a message. The array is closed on return unless
        referenced.
        """
        if self._wire is None or self._wire.is_closing():
            return
        if fds is not None:
            if self._begun_fds is not None:
                self.drop("fds in two pieces of one message")
                return
            fds.reference(self)
            self._begun_fds = fds
        first = not self._begun
        self._begun += data
        if len(self._begun) > self._limits.message_bytes:
            self.drop(f"a message of more than {self._limits.message_bytes} bytes")
        elif not data.endswith(b"\0"):
            self._end_turn()
            if first:
                self._set_deadline(self._limits.message_seconds, "it took too long over a message")
        else:
            self._clear_deadline()
            message, self._begun = bytes(self._begun[:-1]), bytearray()
            owned, self._begun_fds = self._begun_fds, None
            self._wire.pause_reading()
            self._serving = self._loop.create_task(timed(lambda: self._serve(message, owned), self._charge))
            self._serving.add_done_callback(lambda task: self._served(task, owned))

    def _served(self, task: asyncio.Task[None], fds: FileDescriptorArray | None) -> None:
        """Handles the end of a call, also of one that was cancelled before it began."""
        self._serving = None
        self._end_turn()
        self._patient = False
        self._last_reply = None
        if fds is not None:
            fds.release(self)
        if task.cancelled():
            self.drop("it hung up during a call")
        elif (error := task.exception()) is not None:
            self.drop(str(error) or type(error).__name__)
            if not isinstance(error, OSError):
                self._listener.sparing("bug", of=self.peer.uid, uid=self.peer.uid, error=repr(error))
        elif self._wire is not None:
            self._wire.resume_reading()

    async def _serve(self, message: bytes, fds: FileDescriptorArray | None) -> None:
        if self._gone and not may_be_oneway(message):
            raise ConnectionAbortedError("it hung up before its call was served")
        try:
            call = parse(message)
        except Malformed as malformed:
            await self._send(malformed.error.toreply(), FileDescriptorArray(self), oneway=malformed.oneway)
            if malformed.fatal:
                raise ConnectionAbortedError("it sent what is not JSON object") from None
            return
        self._patient = call.oneway
        if self._gone and not call.oneway:
            raise ConnectionAbortedError("it hung up before its call was served")
        try:
            await self._call(call, fds)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and not isinstance(error, LuodError):
                raise
            reply = _error_reply(error, call.method)
            if reply is not None:
                self._listener.refused(self.peer, call.method, reply)
            else:
                self._listener.sparing(
                    "bug", of=self.peer.uid, uid=self.peer.uid, method=call.method, error=repr(error)
                )
                reply = GenericVarlinkErrorReply(INTERNAL_ERROR, {"message": "luod failed", "hint": "see luod's log"})
            await self._send(reply.toreply(), FileDescriptorArray(self), oneway=call.oneway)

    async def _call(self, call: VarlinkMethodCall, fds: FileDescriptorArray | None) -> None:
        if self._registry is None:
            self._registry = self._listener.registry(self.peer)
        try:
            method, signature = self._registry.lookup_method(call)
        except MethodNotFound:
            raise MethodNotFound(method=call.method) from None
        try:
            parameters = arguments(signature, call.parameters, fds)
        except ConversionError as error:
            where = str(error.location[0]) if error.location else "parameters"
            raise InvalidParameter(parameter=where) from None
        if signature.more:
            async with aclosing(method(**parameters)) as results:
                async for result in results:
                    await self._reply(signature, result, call)
        elif signature.asynchronous:
            await self._reply(signature, await method(**parameters), call)
        else:
            await self._reply(signature, method(**parameters), call)

    async def _reply(self, signature: VarlinkMethodSignature, result: AnnotatedResult, call: VarlinkMethodCall) -> None:
        fds = FileDescriptorArray(self)
        try:
            parameters = signature.return_type.tojson(result.parameters, {FileDescriptorVarlinkType: fds})
        except ConversionError:
            fds.release(self)
            raise
        assert isinstance(parameters, dict)
        await self._send(VarlinkMethodReply(parameters, result.continues), fds, oneway=call.oneway)

    async def _send(self, reply: VarlinkMethodReply, fds: FileDescriptorArray, *, oneway: bool) -> None:
        """Sends a reply and closes its fds. Returns when it is in the socket; raises OSError when it cannot be."""
        try:
            if oneway:
                return
            # Always with parameters, since some clients require them.
            message: JSONObject = {"parameters": {}, **reply.tojson()}
            sent = self.send_message(message, [fd.fileno() for fd in fds], autoclose=False)
            if not reply.continues:
                self._last_reply = sent
            try:
                # Not `await sent`: the library does not expect that future to be cancelled.
                await asyncio.wait((sent,), timeout=self._limits.reply_seconds)
            finally:
                if not sent.done():
                    # The numbers of the fds must not stay in the queue of a transport once they are closed: this fails
                    # the future.
                    self.drop("it did not take the reply")
                error = sent.exception()
            if error is not None:
                raise error
        finally:
            fds.release(self)


def _error_reply(error: Exception, method: str) -> VarlinkErrorReply | None:
    """Returns the reply to a call of `method` that raised `error`; None: that is a bug."""
    if isinstance(error, VarlinkErrorReply):
        return error
    named = on_the_wire(error, method.rpartition(".")[0]) if isinstance(error, LuodError) else None
    return None if named is None else GenericVarlinkErrorReply(*named)
