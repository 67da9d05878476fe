"""sd_notify(3): what luod reports to the service manager that started it, and the fds that it gives to its store.

A report that fails is never an error of luod. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import time
from collections.abc import Sequence

from luod.frozen import frozen
from luod.linux import Fd
from luod.static import Final

SOCKET_SECONDS: Final = 1.0
"""For each attempt: a reader of the socket must not block the supervisor."""
BARRIER_SECONDS: Final = 5.0
"""The longest wait for the service manager."""
NO_ANSWER: Final = "the service manager does not answer"
_VSOCK: Final = re.compile(r"vsock(?:-(stream|dgram|seqpacket))?:([0-9]+):([0-9]+)", re.ASCII)
_KINDS: Final = {"stream": socket.SOCK_STREAM, "dgram": socket.SOCK_DGRAM, "seqpacket": socket.SOCK_SEQPACKET}
_KIND_ORDER: Final = ("seqpacket", "stream", "dgram")
"""The order in which kinds of AF_VSOCK sockets are tried if the address has no kind: hypervisors support different
ones.
"""
_MOST: Final = 2**32 - 1


@frozen
class Address:
    family: int
    kinds: tuple[int, ...]
    address: str | tuple[int, int]


def parse(text: str) -> Address:
    """Returns the address in $NOTIFY_SOCKET: an absolute path, @ABSTRACT, or vsock[-KIND]:CID:PORT.

    Raises ValueError.
    """
    if text.startswith("/") and len(text) > 1:
        return Address(socket.AF_UNIX, (socket.SOCK_DGRAM,), text)
    if text.startswith("@") and len(text) > 1:
        return Address(socket.AF_UNIX, (socket.SOCK_DGRAM,), "\0" + text[1:])
    if found := _VSOCK.fullmatch(text):
        cid, port = int(found[2]), int(found[3])
        if cid <= _MOST and port <= _MOST:
            names = _KIND_ORDER if found[1] is None else (found[1],)
            return Address(socket.AF_VSOCK, tuple(_KINDS[name] for name in names), (cid, port))
    raise ValueError("it is not an absolute path, @NAME or vsock:CID:PORT")


class ServiceManager:
    """The receiver of reports: the socket in $NOTIFY_SOCKET, or no receiver.

    Each method returns the reason of a failure, "" without one; without a receiver nothing is sent, and none fails.
    """

    def __init__(self, text: str) -> None:
        """`text` is the value of $NOTIFY_SOCKET."""
        self._address: Address | None = None
        self._fault = ""
        if text:
            try:
                self._address = parse(text)
            except ValueError as error:
                self._fault = str(error)

    def ready(self) -> str:
        """Reports that luod answers clients, or has read its policy again."""
        return self._report("READY=1")

    def reloading(self) -> str:
        """Reports that luod reads its policy. `ready` must follow."""
        return self._report(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> str:
        """Reports that luod ends."""
        return self._report("STOPPING=1")

    def alive(self) -> str:
        """Reports to the watchdog. Does not wait for room in the socket."""
        return self._report("WATCHDOG=1", seconds=0.0)

    def store(self, name: str, fd: int, *, seconds: float = SOCKET_SECONDS) -> str:
        """Has the service manager keep a duplicate of an fd, under a name that it may have already. It may have no
        room, and does not report that. `seconds`: the maximum wait for room in the socket.
        """
        # FDPOLL=0: a session or a socket stays, whatever its poll(2) returns.
        return self._report(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", (fd,), seconds=seconds)

    def remove(self, name: str, *, seconds: float = SOCKET_SECONDS) -> str:
        """Has the service manager close all fds of this name, a moment after it has processed this. `seconds` as in
        `store`.
        """
        return self._report(f"FDSTOREREMOVE=1\nFDNAME={name}", seconds=seconds)

    def barrier(self, *, seconds: float = SOCKET_SECONDS) -> tuple[Fd | None, str]:
        """Returns an fd for `passed`, owned by the caller, or None with the reason of a failure. `seconds` as in
        `store`.
        """
        try:
            reading, writing = map(Fd, os.pipe2(os.O_CLOEXEC))
        except OSError as error:
            return None, error.strerror or str(error)
        with writing:
            reason = self._report("BARRIER=1", (writing.fileno(),), seconds=seconds)
        if reason:
            reading.close()
            return None, reason
        return reading, ""

    @staticmethod
    def passed(barrier: Fd, *, seconds: float = 0.0) -> bool:
        """Returns whether the service manager has processed all reports before the barrier. Waits up to `seconds`."""
        # Its copy of the other end is closed when it is done.
        poll = select.poll()
        poll.register(barrier, 0)
        return bool(poll.poll(seconds * 1000))

    def settle(self, seconds: float = BARRIER_SECONDS) -> str:
        """Waits up to `seconds` until the service manager has processed all earlier reports."""
        if self._address is None:
            return self._fault
        barrier, reason = self.barrier(seconds=min(seconds, SOCKET_SECONDS))
        if barrier is None:
            return reason
        with barrier:
            return "" if self.passed(barrier, seconds=seconds) else NO_ANSWER

    def _report(self, message: str, fds: Sequence[int] = (), *, seconds: float = SOCKET_SECONDS) -> str:
        if self._address is None:
            return self._fault
        reason = ""
        for kind in self._address.kinds:
            try:
                _send(self._address, kind, message.encode(), fds, seconds)
            except (OSError, ValueError) as error:  # ValueError: a NUL in a path
                reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
            else:
                return ""
        return reason


def watchdog_seconds() -> float:
    """Returns the time within which the service manager expects a report from this process, 0 without such a limit."""
    text, pid = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", "")
    return int(text) / 1e6 if text.isdecimal() and pid in ("", str(os.getpid())) else 0.0


def _send(address: Address, kind: int, message: bytes, fds: Sequence[int], seconds: float) -> None:
    with socket.socket(address.family, kind | socket.SOCK_CLOEXEC) as notify:
        notify.settimeout(seconds)
        notify.connect(address.address)
        if fds:
            socket.send_fds(notify, [message], list(fds))
        else:
            notify.sendall(message)
        if address.family == socket.AF_VSOCK and kind != socket.SOCK_DGRAM:
            # The other side reads to the end; an immediate close may drop the data.
            with contextlib.suppress(OSError):
                notify.shutdown(socket.SHUT_WR)
                notify.recv(1)
