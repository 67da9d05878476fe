"""A blocking connection to one of luod's sockets: a call out, its answers in, with deadlines.

It knows no method: those are in `luod.ipc.client.sessions` for programs and `luod.ctl.admin` for luoctl. It uses the
standard library only and no thread. `luod.aio` is for a loop, `luod.ipc.server.wire` is the server's side.
"""

from __future__ import annotations

import struct
import time
from _socket import AF_UNIX, SO_SNDTIMEO, SOCK_STREAM, SOL_SOCKET, socket
from errno import ENOTCONN

from luod.errors import BadInput, CallFailed, DaemonUnreachable, LuodError, ProtocolError
from luod.ipc import framing, names
from luod.linux import HasFileno, Resource
from luod.static import TYPE_CHECKING, Final, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    T = TypeVar("T")

ROOM_SECONDS: Final = 2.0
"""The time limit for repeated attempts when there are too many connections."""
ROOM_PAUSE: Final = 0.02
LOOK_PAUSE: Final = 0.1
"""Seconds between two attempts to find a luod that is not there yet."""

TIMEOUT: Final = 30.0
"""The time limit of a call in seconds. luod itself waits while another process has /dev/liveupdate open."""


class Encoded(Protocol):
    """A call of an exchange, encoded. `fds` are sent along; their owner keeps them."""

    @property
    def fds(self) -> Sequence[HasFileno]: ...

    def encode(self) -> bytes: ...


class Connection(Resource):
    """One connection to one of luod's sockets. Owns the socket, and received fds that were not taken."""

    def __init__(self, path: str, *, timeout: float | None) -> None:
        """Connects. `timeout`, in seconds, is for this and then for each `ask`; None: no limit.

        Raises DaemonUnreachable. Raises BadInput: `timeout` is not positive.
        """
        if timeout is not None:
            check_seconds("a timeout", timeout)
        self._path = path
        self._timeout = timeout
        self._inbox = framing.Inbox()
        try:
            self._socket = socket(AF_UNIX, SOCK_STREAM)
        except OSError as error:
            raise unreachable(path, error) from error
        try:
            self._connect(path, timeout)
        except (OSError, ValueError) as error:
            self._socket.close()
            raise unreachable(path, error) from error

    def _connect(self, path: str, timeout: float | None) -> None:
        """Waits for room in the listener's queue. Raises OSError (BlockingIOError after `timeout`), ValueError."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            # A timeout of Python makes the socket non-blocking, and a unix socket does not wait for room then. The
            # kernel's own timeout does.
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError
            self._socket.setsockopt(SOL_SOCKET, SO_SNDTIMEO, _period(left))
            self._socket.connect(path)
            try:
                self._socket.getpeername()
                return
            except OSError as error:
                # A signal ended the wait, which Python takes for a connection that is being made.
                if error.errno != ENOTCONN:
                    raise

    def ask(self, message: bytes, fds: Sequence[int] = ()) -> framing.Reply:
        """Sends a call and returns its reply, which the caller closes. The caller keeps its `fds`.

        Raises DaemonUnreachable, ProtocolError, and the error in the reply (see `luod.ipc.errors.from_the_wire`).
        """
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        self._send(message, fds, deadline)
        return answer(self._reply(deadline))

    def follow(self, message: bytes) -> Iterator[framing.Reply]:
        """Sends a call with `more` and yields its replies until the last one, without a time limit.

        Each is closed when the next is requested. Raises the errors of `ask`.
        """
        self._send(message, (), None)
        continues = True
        while continues:
            reply = self._reply(None)
            with reply:
                reply.raise_error()
                yield reply
                continues = reply.continues

    def begin(self, message: bytes) -> None:
        """Sends a call with `more`; `next` returns its replies. Raises DaemonUnreachable."""
        self._send(message, (), None if self._timeout is None else time.monotonic() + self._timeout)

    def next(self, seconds: float | None) -> framing.Reply | None:
        """Returns the next reply, which the caller closes; None after `seconds` (None: no limit) without one.

        Raises the errors of `ask`.
        """
        try:
            reply = self._received(None if seconds is None else time.monotonic() + seconds)
        except (TimeoutError, BlockingIOError):
            return None
        except OSError as error:
            raise unreachable(self._path, error) from error
        reply.raise_error()
        return reply

    def fileno(self) -> int:
        """Returns the socket's fd, which this object still owns; -1 when it is closed."""
        return self._socket.fileno()

    def _send(self, message: bytes, fds: Sequence[int], deadline: float | None) -> None:
        try:
            self._wait_until(deadline)
            framing.send(self._socket, message, fds)
        except BrokenPipeError:
            return  # luod may have sent the reason before it closed the connection
        except OSError as error:
            raise unreachable(self._path, error) from error

    def _reply(self, deadline: float | None) -> framing.Reply:
        try:
            return self._received(deadline)
        except OSError as error:
            raise unreachable(self._path, error) from error

    def _received(self, deadline: float | None) -> framing.Reply:
        """Returns the next reply. OSError; TimeoutError or BlockingIOError: it did not come in time."""
        while (reply := self._inbox.take()) is None:
            self._wait_until(deadline)
            data, fds = framing.receive(self._socket)
            if not data:
                raise ConnectionResetError
            self._inbox.feed(data, fds)
        return reply

    def _wait_until(self, deadline: float | None) -> None:
        self._socket.settimeout(None if deadline is None else max(deadline - time.monotonic(), 0.0))

    def close(self) -> None:
        """Closes the socket, and received fds that were not taken."""
        self._inbox.close()
        self._socket.close()


def perform(steps: Generator[Encoded, framing.Reply, T], path: str, timeout: float) -> T:
    """Runs an exchange with luod at `path`, a connection for each call. Raises the errors of `ask`, and its own."""
    try:
        call = next(steps)
        while True:
            try:
                reply = _ask(call, path, timeout)
            except LuodError as error:
                call = steps.throw(error)
                continue
            with reply:
                call = steps.send(reply)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        steps.close()


def _ask(call: Encoded, path: str, timeout: float) -> framing.Reply:
    def once() -> framing.Reply:
        with Connection(path, timeout=timeout) as connection:
            return connection.ask(call.encode(), [fd.fileno() for fd in call.fds])

    return retried(once, is_crowded, min(timeout, ROOM_SECONDS), ROOM_PAUSE)


def retried(attempt: Callable[[], T], may_pass: Callable[[LuodError], bool], seconds: float, pause: float) -> T:
    """Returns the result of `attempt`, which is repeated for `seconds` while it raises an error that may pass."""
    until = time.monotonic() + seconds
    while True:
        try:
            return attempt()
        except LuodError as error:
            if not may_pass(error) or time.monotonic() >= until:
                raise
        time.sleep(pause)


def is_crowded(error: LuodError) -> bool:
    """Returns whether the call was refused unread: there are too many connections, or its files were not received.

    All VMMs of a user vote at the same time, each over a connection of its own, so there may be room soon. The files of
    a call are not received if another program of the user has passed one that blocks: luod ends the process that
    receives them then.
    """
    return isinstance(error, CallFailed) and error.name in (names.TOO_MANY_CONNECTIONS, names.FILES_NOT_RECEIVED)


def is_absent(error: LuodError) -> bool:
    """Returns whether there is no luod, which may start later."""
    return isinstance(error, DaemonUnreachable)


def answer(reply: framing.Reply) -> framing.Reply:
    """Returns `reply`, the one answer to a call. Raises the error in it (`luod.ipc.errors`), or ProtocolError."""
    reply.raise_error()
    if reply.continues:
        reply.close()
        raise ProtocolError("luod announces more replies to a call that has one")
    return reply


def check_seconds(what: str, seconds: float, *, zero: bool = False) -> None:
    """Raises BadInput unless `seconds`, which is `what`, is a valid number of seconds, and not 0 unless `zero`."""
    number: object = seconds
    if not (isinstance(number, int | float) and (0 < seconds < 2**31 or (zero and seconds == 0))):
        raise BadInput(f"{what} is a {'number' if zero else 'positive number'} of seconds: {seconds}")


def _period(timeout: float | None) -> bytes:
    """Returns `timeout` as a struct timeval, in which 0 means no limit."""
    if timeout is None:
        return struct.pack("@ll", 0, 0)
    seconds, fraction = divmod(timeout, 1)
    return struct.pack("@ll", int(seconds), max(int(fraction * 1e6), 1))


def unreachable(path: str, error: Exception) -> DaemonUnreachable:
    """Returns the error for a failed system call on the socket at `path`."""
    match error:
        case FileNotFoundError():
            return DaemonUnreachable(f"there is no luod at {path}")
        case ConnectionRefusedError():
            return DaemonUnreachable(f"no process listens at {path}")
        case PermissionError():
            return DaemonUnreachable(f"this user may not use {path}", hint="the admin socket is for root")
        case TimeoutError() | BlockingIOError():
            return DaemonUnreachable(
                f"luod at {path} did not answer in time", hint="check whether it is stopped or very busy"
            )
        case ConnectionError():
            return DaemonUnreachable(f"luod at {path} closed the connection without an answer", hint="see luod's log")
        case _:
            return DaemonUnreachable(f"{path}: {getattr(error, 'strerror', None) or error}")
