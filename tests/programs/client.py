"""`tests.programs.library` with luod between it and the device: sessions come from luod and go back to it.

`python3 -m tests.programs.client blocking|asyncio SOCKET`, inside a machine. Standard library and luod only.
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import asdict
from typing import Any

import luod
import luod.aio
from tests.programs.library import Library
from tests.programs.questions import Slot


class Client(Library):
    """A workload on a host with luod; `surface` is which of the library's two it uses."""

    def __init__(self, surface: str, socket: str) -> None:
        super().__init__()
        self._ask = {"blocking": self._blocking, "asyncio": self._with_asyncio}[surface]
        self._socket = socket

    def _blocking(self, method: str, *arguments: Any, **options: Any) -> Any:
        return getattr(luod.connect(self._socket), method)(*arguments, **options)

    def _with_asyncio(self, method: str, *arguments: Any, **options: Any) -> Any:
        async def run() -> Any:
            return await getattr(await luod.aio.connect(self._socket), method)(*arguments, **options)

        return asyncio.run(run())

    def call_create(self, name: str, slot: str, manifest: bool = True) -> None:
        self.outgoing[slot] = self._ask("create", name, manifest=manifest)

    def call_retrieve_session(self, name: str, slot: str) -> None:
        self.incoming[slot] = self._ask("retrieve", name)

    def call_finish(self, session: str, **how: Any) -> None:
        self._ask("finish", self.incoming[session], **how)

    def call_finish_without_luod(self, session: str) -> None:
        self.incoming[session].finish()

    def call_release(self, session: str, finished: bool = False) -> None:
        self._ask("release", self.session(session), finished=finished)

    def call_release_named(self, name: str, direction: str = "outgoing") -> None:
        """Releases a session of which this process has no fd, as `sessions` would list it."""
        self._ask("release", luod.SessionInfo(name, os.getuid(), direction, "held"))

    def call_replace(self, session: str, files: dict[str, Slot], drop: list[int] | None = None) -> None:
        given = {int(token): Borrowed(self.fd(slot)) for token, slot in files.items()}
        self.outgoing[session] = self._ask("replace", self.outgoing[session], given, drop=drop or ())

    def call_sessions(self) -> list[dict[str, Any]]:
        return [asdict(entry) for entry in self._ask("sessions")]

    def call_manifest(self, name: str, direction: str = "outgoing") -> list[Any]:
        files, all_of_it = self._ask("manifest", name, direction=direction)
        return [[asdict(file) for file in files], all_of_it]

    def call_stash(self, name: str, files: dict[str, Slot]) -> None:
        self._ask("stash", name, {label: Borrowed(self.fd(slot)) for label, slot in files.items()})

    def call_unstash(self, name: str, keep: bool = False) -> list[str]:
        """The files come to slots of their names."""
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
