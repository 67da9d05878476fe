"""A running receiver on serve's side: its channel, and its end.

`luod.ipc.server.receiver` is its program, and `luod.ipc.server.foreign_files` starts it for users.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence

from luod.ipc.framing import control_fds
from luod.ipc.server import receiver
from luod.linux import Fd
from luod.static import Final

START_SECONDS: Final = 15.0
"""The time limit in seconds for the first answer of a new receiver."""
CLOSE_SECONDS: Final = 2.0
"""The time limit in seconds for closing files, which can block."""
_CHUNK: Final = 128 * 1024
"""More than one request's bytes."""


class Process:
    """A running receiver, and serve's end of its channel."""

    def __init__(
        self, heard: Callable[[Process, bytes, list[int]], None], ended: Callable[[Process], None], *, last: int = -1
    ) -> None:
        """Raises OSError: it cannot be started. `last` is an fd that the process inherits, and closes when it ends."""
        self._loop = asyncio.get_running_loop()
        self._heard = heard
        self._ended = ended
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", receiver.__file__, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    pass_fds=(theirs.fileno(),) if last < 0 else (theirs.fileno(), last),
                    start_new_session=True,
                )
                self._pidfd = Fd(os.pidfd_open(self._process.pid))
            except BaseException:
                ours.close()
                raise
        self.pid = self._process.pid
        self.answered = False
        """Whether it has ever answered."""
        self._channel: socket.socket | None = ours
        ours.setblocking(False)
        self._loop.add_reader(ours, self._readable)
        self._loop.add_reader(self._pidfd, self._dead)

    def send(self, message: bytes, fds: Sequence[int] = ()) -> None:
        """Raises OSError."""
        if self._channel is None:
            raise BrokenPipeError
        self._channel.sendmsg(
            [message],
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [],
            socket.MSG_DONTWAIT,
        )

    def _readable(self) -> None:
        assert self._channel is not None
        try:
            message, control, flags, _ = self._channel.recvmsg(
                _CHUNK, socket.CMSG_SPACE(receiver.MOST_FDS * 4), socket.MSG_CMSG_CLOEXEC
            )
        except OSError:
            message, control, flags = b"", [], 0
        numbers = control_fds(control)
        self.answered = True
        if not message:
            self.close()  # its pidfd reports its end
        elif flags & socket.MSG_CTRUNC:
            for number in numbers:
                os.close(number)
            self._heard(self, b"T", [])
        else:
            self._heard(self, message, numbers)

    def _dead(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self._pidfd.close()
        self.close()
        self._process.wait()
        self._ended(self)

    def close(self) -> None:
        """Closes the channel. The process ends by itself then."""
        if self._channel is not None:
            self._loop.remove_reader(self._channel)
            self._channel.close()
            self._channel = None

    def kill(self) -> None:
        self.close()
        if not self._pidfd.closed:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd.fileno(), signal.SIGKILL)

    def abandon(self) -> None:
        """Gives the process up, since serve ends. There is no wait for it."""
        self.close()
        if not self._pidfd.closed:
            self._loop.remove_reader(self._pidfd)
            self._pidfd.close()
        if self._process.returncode is None:
            self._process.returncode = 0  # otherwise subprocess would warn that it still runs
