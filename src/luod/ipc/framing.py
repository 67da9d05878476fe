"""Varlink messages as bytes and fds, for clients: NUL-terminated JSON objects, with fds at a message's first byte.

It knows no method of luod: those are in `luod.ipc.client.sessions`. `luod.ipc.server.wire` is the server's side. It
belongs to no event loop: `luod.client` and `luod.aio` both use it. Standard library only. `_socket` has the system
calls of `socket`, which turns all their constants into enums: that takes 3 ms of a VMM's start (docs/performance.md).
"""

from __future__ import annotations

import json
import struct
from _socket import CMSG_SPACE, MSG_CMSG_CLOEXEC, MSG_CTRUNC, MSG_NOSIGNAL, SCM_RIGHTS, SOL_SOCKET

from luod import errors
from luod.decode import encode
from luod.frozen import frozen
from luod.linux import Fd, Resource
from luod.static import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Iterable, Mapping, Sequence

REPLY_LIMIT: Final = 16 * 1024 * 1024
"""The length in bytes of the longest reply that a client accepts."""
_CHUNK: Final = 64 * 1024
_FDS_A_MESSAGE: Final = 253
"""SCM_MAX_FD of the kernel."""
_FD_SIZE: Final = 4


@frozen
class Reply(Resource):
    """One reply of luod. It owns its fds until `take` returns one; `close` closes the others."""

    parameters: Mapping[str, Any]
    error: str | None = None
    """Full name of the Varlink error, such as `io.luod.Sessions.NoSuchSession`; None for a success."""
    continues: bool = False
    fds: tuple[Fd, ...] = ()

    def take(self, member: str, of: Mapping[str, Any] | None = None) -> Fd:
        """Returns the fd of the parameter `member`, or of the member of the object `of` in a parameter; the caller owns
        it. Raises ProtocolError without one.
        """
        index = (self.parameters if of is None else of).get(member)
        if type(index) is not int or not 0 <= index < len(self.fds) or self.fds[index].closed:
            raise errors.ProtocolError(f"the reply's {member} does not point to an fd")
        return Fd(self.fds[index].detach())

    def close(self) -> None:
        for fd in self.fds:
            fd.close()

    def raise_error(self) -> None:
        """Raises the typed error in the reply, after closing the fds. Does nothing for a success."""
        if self.error is not None:
            from luod.ipc.errors import from_the_wire  # a call that succeeds does not need the table

            self.close()
            raise from_the_wire(self.error, self.parameters)


def encode_call(method: str, parameters: Mapping[str, Any] | None = None, *, more: bool = False) -> bytes:
    """Returns a call as bytes, with its NUL. A parameter that is an fd is its index among the fds of the message.

    Raises BadInput: a text cannot be encoded as UTF-8.
    """
    call: dict[str, Any] = {"method": method}
    if parameters:
        call["parameters"] = dict(parameters)
    if more:
        call["more"] = True
    try:
        return json.dumps(call, default=encode, separators=(",", ":"), ensure_ascii=False).encode() + b"\0"
    except UnicodeEncodeError as error:
        raise errors.BadInput(
            f"{error.object[error.start : error.end]!r} is not valid Unicode text, which JSON needs",
            hint="give text that can be encoded as UTF-8",
        ) from None


def decode_reply(message: bytes, fds: tuple[Fd, ...] = ()) -> Reply:
    """Returns a message, without its NUL, as a Reply that owns `fds`. Raises ProtocolError, and closes the fds."""
    try:
        reply = json.loads(message)
        if not isinstance(reply, dict):
            raise ValueError("it is not an object")
        # The specification allows null for each member, which means the same as absence.
        parameters, error, continues = (reply.get(member) for member in ("parameters", "error", "continues"))
        parameters = {} if parameters is None else parameters
        right = isinstance(parameters, dict) and isinstance(error, str | None) and isinstance(continues, bool | None)
        if not right:
            raise ValueError("its members have the wrong types")
    except (ValueError, RecursionError) as problem:
        _close(fds)
        raise errors.ProtocolError(f"the answer is not a Varlink reply: {problem}") from problem
    return Reply(parameters, error, continues is True, fds)


class Inbox:
    """Takes bytes and fds as they were received, and returns whole replies.

    The kernel ends a read after the bytes with which fds came, so fds belong to the last message that begins in the
    bytes of their read. Owns its fds until `take` returns them with their message.
    """

    def __init__(self, limit: int = REPLY_LIMIT) -> None:
        """`limit` is the length, in bytes, of the longest message."""
        self._limit = limit
        self._rest = bytearray()
        self._rest_fds: tuple[Fd, ...] = ()
        self._ready: list[Reply] = []

    def feed(self, data: bytes, fds: tuple[Fd, ...] = ()) -> None:
        """Takes the result of one read. Raises ProtocolError: the connection is of no use then; close() the inbox."""
        begun = not self._rest
        *whole, rest = data.split(b"\0")
        for number, part in enumerate(whole):
            begins = begun or number > 0
            last = begins and not rest and number == len(whole) - 1
            owned, self._rest_fds = self._rest_fds, ()
            if last:
                owned, fds = (*owned, *fds), ()
            message = bytes(self._rest) + part
            self._rest.clear()
            try:
                self._ready.append(decode_reply(message, owned))
            except errors.ProtocolError:
                _close(fds)
                raise
        if fds and not (rest and (begun or whole)):
            _close(fds)
            raise errors.ProtocolError("fds came in the middle of a message")
        self._rest += rest
        self._rest_fds = (*self._rest_fds, *fds)
        if len(self._rest) > self._limit:
            raise errors.ProtocolError(f"a message is longer than {self._limit} bytes")

    def take(self) -> Reply | None:
        """Returns the next whole reply, which the caller owns, or None."""
        return self._ready.pop(0) if self._ready else None

    def close(self) -> None:
        """Closes every fd that was not returned."""
        _close(self._rest_fds)
        self._rest_fds = ()
        while self._ready:
            self._ready.pop().close()


def _close(fds: Iterable[Fd]) -> None:
    for fd in fds:
        fd.close()


def control_fds(control: Iterable[tuple[int, int, bytes]]) -> list[int]:
    """Returns the fds in the ancillary data of `recvmsg`; the caller owns them."""
    numbers: list[int] = []
    for level, kind, data in control:
        if level == SOL_SOCKET and kind == SCM_RIGHTS:
            numbers += struct.unpack_from(f"{len(data) // _FD_SIZE}i", data)
    return numbers


def receive(connection: socket) -> tuple[bytes, tuple[Fd, ...]]:
    """Returns the result of one read: bytes (none at the end of the stream) and their fds, close-on-exec.

    Raises OSError (BlockingIOError, TimeoutError among them). Raises ProtocolError when this process had no room for
    the fds: the kernel has closed some of them.
    """
    data, control, flags, _ = connection.recvmsg(_CHUNK, CMSG_SPACE(_FDS_A_MESSAGE * _FD_SIZE), MSG_CMSG_CLOEXEC)
    fds = tuple(Fd(number) for number in control_fds(control))
    if flags & MSG_CTRUNC:
        _close(fds)
        raise errors.ProtocolError("fds were lost in transit", hint="raise RLIMIT_NOFILE of this process")
    return data, fds


def send_some(connection: socket, message: bytes | memoryview, fds: Sequence[int] = ()) -> int:
    """Sends a part of a message, with `fds`, and returns its length. The caller keeps its fds. Raises OSError.

    A peer that closed the connection is a BrokenPipeError, also in a program that does not ignore SIGPIPE.
    """
    control = [(SOL_SOCKET, SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
    return connection.sendmsg([message], control, MSG_NOSIGNAL)


def send(connection: socket, message: bytes, fds: Sequence[int] = ()) -> None:
    """Sends a whole message on a blocking socket, `fds` with its first byte.

    The caller keeps its fds. Raises OSError, as `send_some`.
    """
    sent = send_some(connection, message, fds) if fds else 0
    if sent < len(message):
        connection.sendall(memoryview(message)[sent:], MSG_NOSIGNAL)
