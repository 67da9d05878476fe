"""The fd store of PID 1 behind a real notify socket: what `luod.daemon.supervisor.notify` sends is processed here.

It behaves as systemd 262: it stores an open file once, under its first name, drops what does not fit without a report,
and removes all files of a name.
"""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from types import TracebackType

from luod.daemon.supervisor.notify import ServiceManager
from luod.linux import Fd, same_file
from luod.testing import eventually


class Pid1:
    """A thread that reads the socket, unless it is `stuck`. Owns the stored fds."""

    def __init__(self, folder: Path, room: int) -> None:
        self.address = f"{folder}/notify"
        self.room = room
        self.kept: dict[str, Fd] = {}
        self.barriers = 0
        self.others: list[dict[str, str]] = []
        """The other messages."""
        self._runs = threading.Event()
        self._runs.set()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    @property
    def manager(self) -> ServiceManager:
        return ServiceManager(self.address)

    def stop(self) -> None:
        """Makes PID 1 stuck."""
        self._runs.clear()

    def go_on(self) -> None:
        self._runs.set()

    def lower(self, room: int) -> None:
        """Lowers the maximum as `systemctl daemon-reload` does: what exceeds it is closed."""
        self.room = room
        while len(self.kept) > room:
            self.kept.popitem()[1].close()

    def given(self) -> dict[str, Fd]:
        """Returns what luod gets at its next start."""
        eventually(lambda: self.manager.settle() == "", describe="PID 1 has processed all")
        return {name: fd.duplicate() for name, fd in self.kept.items()}

    def _read(self) -> None:
        while True:
            message, fds, _flags, _address = socket.recv_fds(self._socket, 1000, 4)
            self._runs.wait()
            words = dict(line.split("=", 1) for line in message.decode().splitlines())
            passed = [Fd(fd) for fd in fds]
            if "END" in words:
                return
            if "BARRIER" in words:
                self.barriers += 1
            elif not words.keys() & {"FDSTORE", "FDSTOREREMOVE"}:
                self.others.append(words)
            elif "FDSTOREREMOVE" in words:
                if words["FDNAME"] in self.kept:
                    self.kept.pop(words["FDNAME"]).close()
            elif len(self.kept) < self.room and self._is_new(passed[0]):
                self.kept[words["FDNAME"]] = passed.pop()
            for fd in passed:
                fd.close()

    def _is_new(self, file: Fd) -> bool:
        return same_file(file, {name: held.fileno() for name, held in self.kept.items()}) is None

    def __enter__(self) -> Pid1:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.go_on()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"END=1", self.address)
        self._thread.join()
        self._socket.close()
        for fd in self.kept.values():
            fd.close()


def close(found: dict[str, Fd]) -> set[str]:
    """Closes the fds, and returns their names."""
    for fd in found.values():
        fd.close()
    return set(found)


def inode(fd: Fd) -> int:
    return os.fstat(fd.fileno()).st_ino
