"""One client's connection, who may be hostile: its messages, their limits in bytes, fds and time, and the replies.

It is read when it has the turn (`luod.ipc.server.turns`), one message at a time, and no further call is read before
the client took the last reply. A method that awaits nothing is answered in the same turn of the loop. It knows no
method: the interfaces are made for its peer at the first call.
"""

from __future__ import annotations

import array
import asyncio
import socket
import time
from contextlib import aclosing

from luod.errors import LuodError
from luod.frozen import frozen
from luod.ipc.errors import on_the_wire
from luod.ipc.names import FILES_NOT_RECEIVED, INTERNAL_ERROR, SERVICE
from luod.ipc.server.accepted import ahead
from luod.ipc.server.calls import Malformed, may_be_oneway, parse
from luod.ipc.server.foreign_files import Arrived, Failed
from luod.ipc.server.introspection import Introspection
from luod.ipc.server.methods import Last, Reply, find
from luod.ipc.server.turns import timed
from luod.static import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping

    from luod.ipc.server.accepted import Hangups
    from luod.ipc.server.calls import Call
    from luod.ipc.server.foreign_files import ForeignFiles, Request
    from luod.ipc.server.methods import Interface, Method
    from luod.ipc.server.peer import Peer
    from luod.ipc.server.sparing import Sparing
    from luod.ipc.server.turns import Turnstile

    Interfaces = Callable[[Peer], Iterable[Interface]]
    Refused = Callable[[Peer, str, str, Mapping[str, Any]], None]
    Rest = Coroutine[Any, Any, None] | None
    Turn = Literal["none", "awaited", "had"]


@frozen
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


@frozen
class Server:
    """The things that the connections of a listener share. `refused` gets each call that was answered with an error:
    the peer, the method, the error and its parameters. `before_reply` writes down what replies rely on. `gone` gets
    each connection that is lost.
    """

    interfaces: Interfaces
    limits: Limits
    turnstile: Turnstile
    foreign: ForeignFiles
    hangups: Hangups
    sparing: Sparing
    refused: Refused
    before_reply: Callable[[], None]
    gone: Callable[[Connection], None]


class Connection:
    """One client. The turn to read it ends with the first step of serving its call."""

    def __init__(self, server: Server, wire: socket.socket, peer: Peer, *, named: bool) -> None:
        """Takes ownership of `wire` and `peer`."""
        self.peer: Final = peer
        self.uid: Final = peer.uid
        self._named = named
        self._server = server
        self._limits = server.limits
        self._loop = asyncio.get_running_loop()
        self._wire = wire
        self._number = wire.fileno()
        """For asyncio, which writes a socket into errors that are not shown, and so asks the kernel for its names."""
        self._closed = False
        self._reading = False
        self._interfaces: dict[str, Interface] = {}
        self._begun = bytearray()
        self._files: Arrived | None = None
        """Those of the message that was begun, or is served."""
        self._request: Request | None = None
        """Of a piece of a message that carries fds."""
        self._arrival: Arrived | None = None
        """Such a piece, while it waits for its turn."""
        self._deadline: asyncio.TimerHandle | None = None
        self._deadline_reason = ""
        self._deadline_left: float | None = None
        self._turn: Turn = "none"
        self._serving: asyncio.Task[None] | None = None
        self._result: Coroutine[Any, Any, object] | None = None
        """The method, while it is awaited."""
        self._patient = False
        """The call wants no reply."""
        self._completes = False
        """The method is completed even if the client hangs up."""
        self._reply: Reply | None = None
        """The one that is being sent."""
        self._answered = False
        self._gone = False
        wire.setblocking(False)
        # Out-of-band bytes carry fds too. A receive would skip them, and drop the last references of these fds.
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        server.hangups.watch(wire, self._hung_up)
        self._set_deadline(self._limits.silence_seconds, "it said nothing")
        self._resume()

    # When it is read.

    def _resume(self) -> None:
        if not self._reading and not self._closed:
            self._reading = True
            self._loop.add_reader(self._number, self._readable)

    def _pause(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._number)

    def _readable(self) -> None:
        if self._server.turnstile.take(self):
            self._turn = "had"
            self._read()
        else:
            self._pause()
            self._wait_for_turn()

    def _wait_for_turn(self) -> None:
        self._turn = "awaited"
        self._hold_deadline()
        self._server.turnstile.ask(self)

    def granted(self) -> bool:
        self._turn = "none"
        if self._closed:
            return False
        self._turn = "had"
        self._continue_deadline()
        arrival, self._arrival = self._arrival, None
        if arrival is None:
            self._read()
        else:
            self._take(arrival.data, arrival)
        if self._serving is None and self._request is None:
            self._resume()
        return True

    def _end_turn(self) -> None:
        if self._turn == "had":
            self._turn = "none"
            self._server.turnstile.over(self)

    def _charge(self, seconds: float) -> None:
        self._server.turnstile.charge(self.uid, seconds)
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

    # What is read.

    def _read(self) -> None:
        """Makes one receive: with one in a turn, a client that writes without pause does not block the others."""
        try:
            size, fds = ahead(self._wire)
            data = b"" if fds else self._wire.recv(size)
        except (BlockingIOError, InterruptedError):
            self._end_turn()
        except OSError:
            self.close()
        else:
            if fds:
                self._end_turn()
                self._pause()
                self._hold_deadline()
                self._request = self._server.foreign.receive(
                    self._wire,
                    self.uid,
                    named=self._named,
                    size=size,
                    most_fds=self._limits.message_fds,
                    done=self._arrived,
                )
            elif data:
                self._take(data, None)
            else:
                self.close()

    def _arrived(self, outcome: Arrived | Failed) -> None:
        """Handles a piece of a message with fds, or that it could not be received."""
        self._request = None
        if isinstance(outcome, Failed):
            # The client gets the reason before the connection ends.
            parameters = {"message": outcome.reason, "hint": outcome.hint}
            self._serve_on(self._end_with(FILES_NOT_RECEIVED, parameters, outcome.reason))
            return
        self._arrival = outcome
        if not self._server.turnstile.take(self):
            self._wait_for_turn()
        elif not self.granted():
            self._server.turnstile.over(self)

    def _take(self, data: bytes, arrival: Arrived | None) -> None:
        """Handles `data`, which never reaches beyond the end of a message, with its files."""
        if arrival is not None:
            if self._files is not None:
                arrival.close()
                self.drop("fds in two pieces of one message")
                return
            self._files = arrival
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
            self._serve(message)

    # How a message is served.

    def _serve(self, message: bytes) -> None:
        begun = time.perf_counter()
        problem: Exception | None = None
        rest: Rest = None
        try:
            rest = self._begin(message)
        except Exception as error:  # noqa: BLE001 - of the call: it ends the connection, and not luod
            problem = error
        self._charge(time.perf_counter() - begun)
        if rest is None:
            self._over(problem)
        else:
            self._serve_on(rest)

    def _serve_on(self, rest: Coroutine[Any, Any, None]) -> None:
        self._pause()
        self._serving = self._loop.create_task(timed(lambda: rest, self._charge))
        self._serving.add_done_callback(lambda task: self._served(task, rest))

    def _served(self, task: asyncio.Task[None], rest: Coroutine[Any, Any, None]) -> None:
        """Handles the end of a call, also of one that was cancelled before it began."""
        self._serving = None
        rest.close()
        if task.cancelled():
            self._over(ConnectionAbortedError("it hung up during a call"))
        else:
            self._over(task.exception())
        self._resume()

    def _over(self, problem: BaseException | None) -> None:
        self._end_turn()
        self._patient = self._completes = self._answered = False
        if self._result is not None:
            self._result.close()  # it has not begun, if its task was cancelled before its first step
            self._result = None
        if self._reply is not None:
            self._reply.close()
            self._reply = None
        if self._files is not None:
            self._files.close()
            self._files = None
        if problem is not None:
            self.drop(str(problem) or type(problem).__name__)
            if not isinstance(problem, OSError):
                self._server.sparing("bug", of=self.uid, uid=self.uid, error=repr(problem))

    def _begin(self, message: bytes) -> Rest:
        """Serves a message as far as that needs no wait, and returns the rest."""
        if self._gone and not may_be_oneway(message):
            raise ConnectionAbortedError("it hung up before its call was served")
        try:
            call = parse(message)
        except Malformed as malformed:
            self._patient = malformed.oneway
            if malformed.fatal:
                return self._end_with(
                    malformed.error.name, malformed.error.parameters, "it sent what is not JSON object"
                )
            return self._send(malformed.error.parameters, error=malformed.error.name)
        self._patient = call.oneway
        if self._gone and not call.oneway:
            raise ConnectionAbortedError("it hung up before its call was served")
        try:
            if not self._interfaces:
                self._interfaces = {interface.name: interface for interface in self._server.interfaces(self.peer)}
                self._interfaces[SERVICE] = Introspection(self._interfaces)
            interface, method = find(self._interfaces, call)
            arguments = method.arguments(call.parameters, () if self._files is None else self._files.files)
            result = method.function(interface, **arguments)
            if method.more:
                return self._stream(call, method, result)
            if asyncio.iscoroutine(result):
                self._result = result
                self._completes = method.completed
                return self._await(call, method, result)
            return self._send(method.answer(result))
        except Exception as error:  # noqa: BLE001 - it is the answer
            return self._fail(call, error)

    async def _await(self, call: Call, method: Method, result: Coroutine[Any, Any, object]) -> None:
        try:
            try:
                value = await result
            finally:
                self._completes = False
            rest = self._send(method.answer(value))
        except Exception as error:  # noqa: BLE001 - it is the answer
            rest = self._fail(call, error)
        if rest is not None:
            await rest

    async def _stream(self, call: Call, method: Method, results: AsyncGenerator[object, None]) -> None:
        try:
            async with aclosing(results):
                async for result in results:
                    continues = not isinstance(result, Last)
                    rest = self._send(method.answer(result), continues=continues)
                    # Others are served between two replies, even if the generator awaits nothing.
                    await (asyncio.sleep(0) if rest is None else rest)
        except Exception as error:  # noqa: BLE001 - it is the answer
            rest = self._fail(call, error)
            if rest is not None:
                await rest

    def _fail(self, call: Call, error: Exception) -> Rest:
        """Answers with an error that a method raised. Raises the error if it ends the connection."""
        if isinstance(error, ConnectionError) or (isinstance(error, OSError) and not isinstance(error, LuodError)):
            raise error
        named = on_the_wire(error, call.method.rpartition(".")[0]) if isinstance(error, LuodError) else None
        if named is not None:
            name, parameters = named
            self._server.refused(self.peer, call.method, name, parameters)
        else:
            self._server.sparing("bug", of=self.uid, uid=self.uid, method=call.method, error=repr(error))
            name, parameters = INTERNAL_ERROR, {"message": "luod failed", "hint": "see luod's log"}
        if self._reply is not None:
            self._reply.close()  # what it relies on could not be written down
        return self._send(parameters, error=name)

    async def _end_with(self, error: str, parameters: Mapping[str, Any], reason: str) -> None:
        rest = self._send(parameters, error=error)
        if rest is not None:
            await rest
        raise ConnectionAbortedError(reason)

    # How a reply is sent.

    def _send(self, parameters: Mapping[str, Any], *, error: str = "", continues: bool = False) -> Rest:
        """Sends a reply and closes its files. Returns the rest if the socket does not take it now. Raises OSError."""
        reply = Reply(parameters, error=error, continues=continues)
        if self._patient:
            reply.close()
            return None
        self._reply = reply
        self._server.before_reply()
        left = self._transmit(memoryview(reply.data), reply.fds)
        if left:
            return self._send_rest(left, reply, continues=continues)
        self._sent(reply, continues=continues)
        return None

    def _transmit(self, data: memoryview, fds: list[int]) -> memoryview:
        """Returns the bytes that the socket did not take now. The fds go with the first one."""
        if self._closed:
            raise ConnectionAbortedError("the connection has ended")
        try:
            if fds:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
                return data[self._wire.sendmsg((data,), rights) :]
            return data[self._wire.send(data) :]
        except (BlockingIOError, InterruptedError):
            return data

    async def _send_rest(self, left: memoryview, reply: Reply, *, continues: bool) -> None:
        deadline = self._loop.time() + self._limits.reply_seconds
        while left:
            await self._writable(deadline)
            begun = len(left) < len(reply.data)
            left = self._transmit(left, [] if begun else reply.fds)
        self._sent(reply, continues=continues)

    async def _writable(self, deadline: float) -> None:
        """Returns when the socket takes bytes. Raises ConnectionAbortedError: not before the deadline."""
        waiter = self._loop.create_future()

        def wake(problem: Exception | None) -> None:
            if waiter.done():
                return
            if problem is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(problem)

        wire = self._wire
        timer = self._loop.call_at(deadline, wake, ConnectionAbortedError("it did not take the reply"))
        self._loop.add_writer(wire, wake, None)
        try:
            await waiter
        finally:
            timer.cancel()
            if not self._closed:
                self._loop.remove_writer(wire)

    def _sent(self, reply: Reply, *, continues: bool) -> None:
        reply.close()
        self._reply = None
        self._answered = not continues

    # How it ends.

    def _hung_up(self) -> None:
        """Handles that the peer is gone, which is detected without a read.

        A call without a reply continues, and one that has its answer ends by itself.
        """
        self._gone = True
        if self._serving is not None and not (self._patient or self._completes or self._answered):
            self._serving.cancel()

    def drop(self, reason: str) -> None:
        """Ends the connection now, without sending what is queued."""
        if not self._closed:
            self._server.sparing("connection-dropped", of=self.uid, uid=self.uid, pid=self.peer.pid, reason=reason)
            self.close()

    def close(self) -> None:
        """Ends the connection. A call that is served is cancelled, unless its method is completed in any case."""
        if self._closed:
            return
        self._pause()
        self._closed = True
        self._loop.remove_writer(self._number)
        self._server.hangups.forget(self._wire)
        self._clear_deadline()
        self._turn = "none"
        self._server.turnstile.gone(self)
        if self._request is not None:
            self._request.cancel()
        if self._arrival is not None:
            self._arrival.close()
            self._arrival = None
        if self._serving is not None:
            if not self._completes:
                self._serving.cancel()
        elif self._files is not None:
            self._files.close()
            self._files = None
        self._server.foreign.finish(self._wire)
        self._server.gone(self)
