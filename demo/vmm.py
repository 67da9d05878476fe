"""A very small VMM: it owns memory, gets a session from luod, and has its memory again after a live update.

It may have a device too (`demo.device`), which it opens by its address and retrieves from the same session.

It runs inside a machine, under any uid, as `python3 -m demo.vmm SOCKET`. Requests are JSON lines on stdin, answers on
stdout. `demo.scenario` drives it. It is also a first example of the library. Standard library and luod only.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import sys
from typing import Any

import luod
from demo.device import Adder
from luod import vfio
from luod.linux import Fd
from luod.liveupdate import memory

RAM_TOKEN, DEVICE_TOKEN = 1, 2
CHUNK = 1 << 20


def sha256_of(file: Fd) -> tuple[str, int]:
    """Returns the digest of every byte of `file`, and its size in bytes."""
    size = os.fstat(file.fileno()).st_size
    with mmap.mmap(file.fileno(), size, mmap.MAP_SHARED, mmap.PROT_READ) as view:
        return hashlib.sha256(view).hexdigest(), size


class Vmm:
    """The state behind the requests. `ram` is the guest's memory, `session` carries it."""

    def __init__(self, socket: str) -> None:
        self._client = luod.Client(socket)
        self._session: luod.HeldOutgoingSession | None = None
        self._ram: Fd | None = None
        self._device: Fd | None = None
        self._adder: Adder | None = None

    def start(self, name: str, mebibytes: int, device: str | None) -> dict[str, Any]:
        """Fills memory with random bytes and preserves it in a session of this name, with the device if any.

        First boot.
        """
        ram = self._ram = memory(mebibytes << 20, name)
        with mmap.mmap(ram.fileno(), mebibytes << 20) as view:
            for offset in range(0, mebibytes << 20, CHUNK):
                view[offset : offset + CHUNK] = os.urandom(CHUNK)
        session = self._session = self._client.create(name)
        session.preserve(ram, RAM_TOKEN, name="ram")
        answer = {}
        if device is not None:
            file = self._device = vfio.open_device(device)
            # The sum is in the memory that is carried, too.
            answer = self._add_up(file)
            session.preserve(file, DEVICE_TOKEN, name="adder")
        return self.look() | answer

    def resume(self, name: str) -> dict[str, Any]:
        """Retrieves the session and its files by their names, and finishes it. Next boot."""
        session = self._client.retrieve(name)
        with session:
            self._ram = session.retrieve("ram")
            answer = self.look()
            if any(entry.name == "adder" for entry in session.contents or ()):
                self._device = session.retrieve("adder")
                answer |= self._add_up(self._device)
            session.finish()
        return answer

    def look(self) -> dict[str, Any]:
        """Returns the present memory: `{sha256, bytes, uid}`."""
        assert self._ram is not None
        digest, size = sha256_of(self._ram)
        return {"sha256": digest, "bytes": size, "uid": os.getuid()}

    def _add_up(self, device: Fd) -> dict[str, Any]:
        """Returns the device's sum of the memory: `{sum, commands}`, with the number of its earlier commands in this
        boot.
        """
        assert self._ram is not None
        self._adder = Adder(device, self._ram)
        return {"sum": self._adder.add_up(CHUNK), "commands": self._adder.commands}


def main() -> None:
    vmm = Vmm(sys.argv[1])
    for line in sys.stdin:
        request = json.loads(line)
        action = getattr(vmm, request.pop("do"))
        print(json.dumps(action(**request)), flush=True)


if __name__ == "__main__":
    main()
