"""Makes the last closes of clients' files, in a process for all users: serve does not wait for it.

serve passes it connections with unread messages, in which there may be files, and copies of clients' memory and
devices. FUSE files in unread messages are closed without FLUSH, so this process can always be killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import struct
import termios
from collections.abc import Iterable

from luod.ipc.server.receiver_process import CLOSE_SECONDS, START_SECONDS, Process
from luod.ipc.server.sparing import Sparing
from luod.linux import Fd
from luod.static import Final

_INT: Final = struct.Struct("=i")


class Closer:
    """Starts its process on demand, or beforehand by `begin`. Replaces it when it does not return from a close."""

    def __init__(self, sparing: Sparing) -> None:
        self._sparing = sparing
        self._loop = asyncio.get_running_loop()
        self._process: Process | None = None
        self._closing = 0
        """The number of closes that the process has not confirmed."""
        self._timer: asyncio.TimerHandle | None = None
        self._ending: set[Process] = set()
        self._left: list[int] = []
        self._closed = False

    def begin(self) -> None:
        """Starts the process, so that it is there when there is no room for one more."""
        if self._process is None and not self._closed:
            self._start()

    def finish(self, connection: socket.socket) -> None:
        """Closes a client's connection. Files in unread messages are closed in the other process."""
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)  # from here on no message is added to the unread ones
        try:
            (unread,) = _INT.unpack(fcntl.ioctl(connection.fileno(), termios.FIONREAD, bytes(_INT.size)))
        except OSError:
            unread = 1
        file = Fd(connection.detach())
        if unread:
            self.discard(file)
        else:
            file.close()

    def discard(self, file: Fd) -> None:
        """Closes an fd that may be the last of its file, in another process. Takes ownership."""
        if file.closed:
            return
        if self._closed:
            self._left.append(file.detach())  # open until serve has ended: a process that ends does not linger
        elif self._hand_over(file) or self._hand_over(file) or self._give_to_new(file):
            return
        else:
            self._sparing("file-left-open", of=None)
            self._left.append(file.detach())

    def discard_all(self, files: Iterable[Fd]) -> None:
        for file in files:
            self.discard(file)

    def _hand_over(self, file: Fd) -> bool:
        if self._process is None:
            self._start()
        if self._process is None:
            return False
        try:
            self._process.send(b"C", (file.fileno(),))
        except OSError:
            # EAGAIN: it is in a close that does not return. ETOOMANYREFS: sockets nested too deeply.
            self._replace()
            return False
        # Only after this may the other process close it, or this close could be the last.
        file.close()
        self._closing += 1
        if self._closing == 1:
            seconds = CLOSE_SECONDS if self._process.answered else START_SECONDS
            self._timer = self._loop.call_later(seconds, self._replace)
        try:
            self._process.send(b"G")
        except OSError:
            self._replace()
        return True

    def _start(self) -> None:
        try:
            self._process = Process(lambda p, m, fds: self._done(p), self._ended)
        except OSError as error:
            self._sparing("receiver-not-started", of=None, reason=os.strerror(error.errno or 0))

    def _done(self, process: Process) -> None:
        if process is not self._process:
            return
        self._closing -= 1
        if self._timer is not None:
            self._timer.cancel()
        if self._closing:
            self._timer = self._loop.call_later(CLOSE_SECONDS, self._replace)

    def _replace(self) -> None:
        """Kills it.

        The files that it holds, and those that were sent to it, are closed as it ends, without lingering.
        """
        if self._timer is not None:
            self._timer.cancel()
        if self._process is not None:
            self._ending.add(self._process)
            self._process.kill()
            self._loop.call_soon(self.begin)
        self._process, self._closing = None, 0

    def _ended(self, process: Process) -> None:
        self._ending.discard(process)
        if process is self._process:
            # It was killed, or cannot run. The next one starts on demand.
            if self._timer is not None:
                self._timer.cancel()
            self._process, self._closing = None, 0

    def _give_to_new(self, file: Fd) -> bool:
        """Has a new process inherit the fd and end. Returns whether that process could be started."""
        try:
            process = Process(lambda p, m, fds: None, self._ending.discard, last=file.fileno())
        except OSError:
            return False
        self._ending.add(process)
        file.close()
        process.close()
        return True

    def close(self) -> None:
        """Stops closing files, since serve ends. There is no wait for the processes, which end by themselves."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._process is not None:
            self._ending.add(self._process)
        for process in self._ending:
            process.abandon()
