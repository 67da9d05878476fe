"""Executes the requests of serve: holds fds, opens sessions, tells of PID 1's store.

One message of serve has several requests. `supervisor` receives the messages and sends the answers, and `custody` has
the fds. `protocol` describes the words.
"""

from __future__ import annotations

import errno
import time
from collections import deque
from collections.abc import Mapping

from luod.daemon.supervisor import protocol
from luod.daemon.supervisor.custody import Custody, close
from luod.errors import KernelRefused
from luod.linux import Fd
from luod.liveupdate.device import LiveUpdate
from luod.static import Final

TRY_SECONDS: Final = 0.1
"""The part of a request's patience between two checks for signals and serve."""


class Message:
    """A message of serve: the requests in it that are not done, and the answers to the others. Owns the fds that came
    with it.
    """

    def __init__(self, requests: deque[dict[str, str]], fds: deque[Fd], deadline: float) -> None:
        """Until `deadline` a request waits for the device."""
        self.requests = requests
        self.fds = fds
        self.deadline = deadline
        self.answers: list[Mapping[str, object]] = []
        self.opened: Fd | None = None
        """The session of the last of these answers. `Custody` owns it."""
        self.ready = False
        """Whether it says that serve is ready."""

    def close(self) -> None:
        while self.fds:
            close(self.fds.popleft())


class Requests:
    """Executes single requests, on the fds of `custody` and on /dev/liveupdate."""

    def __init__(self, custody: Custody) -> None:
        self._custody = custody

    def execute(self, request: Mapping[str, str], message: Message) -> Mapping[str, object]:
        """Executes one request, and returns the answer. Raises LuodError, OSError, MemoryError."""
        if "FDSTOREREMOVE" in request:
            self._custody.forget(request["FDNAME"])
            return {"ERRNO": 0, "CLOSING": 1} if self._custody.copies.may_have(request["FDNAME"]) else {"ERRNO": 0}
        if "READY" in request:
            message.ready = True
        elif "FDSTORE" in request and message.fds:
            fd = message.fds.popleft()
            if refused := self._custody.no_room():
                close(fd)
                return refused
            self._custody.keep(request["FDNAME"], fd)
        elif "BLACKOUT" in request:
            self._custody.copies.blackout(lasts=request["BLACKOUT"] == "1")
        elif "COPIES" in request:
            copies = self._custody.copies
            if "STORED" in request:
                copies.counted(int(request["STORED"]), int(request["ROOM"]), int(request["CHANGES"]))
                self._custody.tell()
            return {
                "ERRNO": 0,
                "FAULT": copies.problem,
                "MISSING": copies.missing,
                "SIZE": copies.size,
                "ROOM": copies.room,
                "CHANGES": copies.changes,
            }
        elif "CREATE" in request or "RETRIEVE" in request or "PROBE" in request:
            if "PROBE" not in request and (refused := self._custody.no_room()):
                return refused
            self._open_session(request, message)
        else:
            return {"ERRNO": errno.EINVAL, "CALL": "luod", "MEANING": "not understood"}
        return {"ERRNO": 0}

    def refused(self, request: Mapping[str, str], error: KernelRefused) -> Mapping[str, object]:
        """Returns the answer for an error of the kernel.

        It has a mark if the name may be taken only by the copy of PID 1, which closes it a moment later.
        """
        name = request.get("CREATE", request.get("PROBE", ""))
        closing = error.errno == errno.EEXIST and self._custody.copies.may_have(protocol.OUTGOING + name)
        answer = {"ERRNO": error.errno, "CALL": error.call, "MEANING": error.meaning}
        return {**answer, "CLOSING": 1} if closing else answer

    def _open_session(self, request: Mapping[str, str], message: Message) -> None:
        """Opens the device, makes the call, and closes it. The fd is stored before it is passed on; that of a probe is
        closed.
        """
        device = LiveUpdate(patience=TRY_SECONDS if time.monotonic() < message.deadline else 0.0)
        try:
            if "PROBE" in request:
                close(device.create(request["PROBE"]))
                return
            name = request.get("CREATE")
            if name is not None:
                fd, stored = device.create(name), protocol.OUTGOING + name
            else:
                fd, stored = device.retrieve(request["RETRIEVE"]), protocol.INCOMING + request["RETRIEVE"]
        finally:
            close(device)  # An error of it must not lose the session.
        self._custody.keep(stored, fd)
        message.opened = fd
