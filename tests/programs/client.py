"""`tests.programs.library` with luod between it and the device: sessions come from luod and go back to it.

`python3 -m tests.programs.client blocking|asyncio SOCKET`, inside a machine. Standard library and luod only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable
from typing import Any

import luod
from luod.decode import encode
from luod.ipc.client import creation, sessions
from luod.ipc.client.connection import perform
from luod.liveupdate import IncomingSession
from tests.programs.library import Library
from tests.programs.questions import Slot


class Client(Library):
    """A workload on a host with luod; `surface` is which of the library's two it uses."""

    def __init__(self, surface: str, socket: str) -> None:
        super().__init__()
        self._surface = luod.AsyncClient if surface == "asyncio" else luod.Client
        self._socket = socket

    def result(self, value: Any) -> Any:
        if not isinstance(value, Awaitable):
            return value
        import asyncio  # half of what the blocking client's start takes

        async def wait() -> Any:
            return await value

        return asyncio.run(wait())

    def _ask(self, method: str, *arguments: Any, **options: Any) -> Any:
        return self.result(getattr(self._surface(self._socket), method)(*arguments, **options))

    def call_create(self, name: str, slot: str, manifest: bool = True) -> None:
        self.outgoing[slot] = self._ask("create", name, manifest=manifest)

    def call_retrieve_session(self, name: str, slot: str) -> None:
        self.incoming[slot] = self._ask("retrieve", name)

    def call_finish_without_luod(self, session: str) -> None:
        with IncomingSession(self.incoming[session].duplicate()) as bare:
            bare.finish(discard=True)

    def call_release(self, session: str) -> None:
        """Makes luod drop its fd of a session of either direction."""
        held = self.session(session)
        self.result(held.release() if session in self.outgoing else held.discard())

    def call_release_named(self, name: str, direction: str = "outgoing", finished: bool = False) -> None:
        """Has luod drop its fd of a session, of which this process has no other."""
        perform(sessions.release(name, direction, finished=finished), self._socket, 30.0)

    def call_replace_named(self, name: str) -> None:
        """Has luod put an empty session in the place of one of which this process has no fd."""
        perform(creation.made("Replace", name, self._socket, manifest=False), self._socket, 30.0).close()

    def call_adopt(self, fd: Slot, slot: str) -> None:
        """Has luod hold the session behind any fd. `slot` gets the handle."""
        held = self._ask("adopt", Borrowed(self.fd(fd)))
        (self.incoming if hasattr(held, "finish") else self.outgoing)[slot] = held

    def call_discard(self, name: str) -> list[str]:
        return list(self._ask("discard", name))

    def call_replace(self, session: str, files: dict[str, Slot], drop: list[int] | None = None) -> None:
        given = {int(token): Borrowed(self.fd(slot)) for token, slot in files.items()}
        self.result(self.outgoing[session].replace(given, drop=drop or ()))

    def call_sessions(self) -> list[dict[str, Any]]:
        return [encode(entry) for entry in self._ask("sessions")]

    def call_manifest(self, name: str, direction: str = "outgoing") -> list[Any]:
        files, all_of_it = self._ask("manifest", name, direction=direction)
        return [[encode(file) for file in files], all_of_it]

    def call_stash(self, name: str, files: dict[str, Slot]) -> None:
        self._ask("stash", name, {label: Borrowed(self.fd(slot)) for label, slot in files.items()})

    def call_unstash(self, name: str, keep: bool = False) -> list[str]:
        """Puts the files into slots of their names."""
        taken = self._ask("unstash", name, keep=keep)
        for label, fd in taken.items():
            self.put(label, fd.detach())
        return list(taken)

    def call_drop_stash(self, name: str) -> None:
        self._ask("drop_stash", name)

    def call_jail(self, directory: str) -> None:
        """Enters `directory` with chroot(2), as Firecracker's jailer has its VMM do."""
        import luod.client  # noqa: F401 - what is loaded when first used is not in the jail

        os.chroot(directory)
        os.chdir("/")

    def call_limit(self, cgroup: str, file: str, most: int) -> None:
        """Moves this process into a new memory cgroup."""
        os.makedirs(cgroup, exist_ok=True)
        for name, text in ((file, str(most)), ("cgroup.procs", "0")):
            with open(f"{cgroup}/{name}", "w", encoding="ascii") as limit:
                limit.write(text)

    def call_closed(self, session: str) -> bool:
        try:
            self.session(session).fileno()
        except ValueError:
            return True
        return False


class Borrowed:
    """An fd that belongs to somebody else, as what `replace` takes."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd


if __name__ == "__main__":
    Client(*sys.argv[1:]).serve(sys.stdin, sys.stdout)
