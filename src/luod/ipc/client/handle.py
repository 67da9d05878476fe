"""The common parts of `luod.client` and `luod.aio`: a client, and the sessions that luod holds, without the calls.

They add the calls, blocking and as coroutines. The session itself, with the kernel's calls, is a class of
`luod.liveupdate`, which does not know luod; a handle owns one.
"""

from __future__ import annotations

import os

from luod.ipc.client.connection import TIMEOUT, check_seconds
from luod.ipc.names import SESSIONS_SOCKET
from luod.linux import Resource
from luod.static import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luod.linux import Fd
    from luod.liveupdate import IncomingSession, OutgoingSession
    from luod.manifest import Entry


class ClientBase:
    """The place of luod, and sessions of workloads that `restore` could not retrieve completely."""

    def __init__(
        self, path: str | os.PathLike[str] | None = None, *, timeout: float = TIMEOUT, patience: float = 0.0
    ) -> None:
        """Does not connect yet. `path` is luod's socket; None: /run/luod/luod.sock. Raises BadInput.

        `timeout`, in seconds, applies to each call; `patience`, in seconds, to `with`.
        """
        check_seconds("a timeout", timeout)
        check_seconds("patience", patience, zero=True)
        self.path = SESSIONS_SOCKET if path is None else os.fspath(path)
        self.timeout = timeout
        self.patience = patience
        self._begun: dict[str, IncomingSession] = {}

    def close(self) -> None:
        """Closes what the client still holds: sessions of workloads that `restore` could not retrieve completely.

        The sessions that it returned belong to their owners. The client can be used again.
        """
        while self._begun:
            self._begun.popitem()[1].close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path}>"


class Handle(Resource):
    """The common part of both directions. Closing it closes the fd of this process; luod keeps its own."""

    _bare: OutgoingSession | IncomingSession

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def name(self) -> str:
        """Returns the session's name, also after the handle is closed."""
        return self._name

    def fileno(self) -> int:
        """Returns the session's fd, which this object owns. Raises BadInput: it is closed."""
        return self._bare.fileno()

    def duplicate(self) -> Fd:
        """Returns another fd of the same session; the caller owns it. Raises KernelRefused: EMFILE."""
        return self._bare.duplicate()

    def close(self) -> None:
        """Closes the fd of this process. luod keeps its own, so nothing is lost. Idempotent."""
        self._bare.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name}>"


class OutgoingHandle(Handle):
    """A session for the next kernel."""

    def __init__(self, name: str, bare: OutgoingSession) -> None:
        """Takes ownership of `bare`."""
        super().__init__(name)
        self._bare: OutgoingSession = bare

    @property
    def contents(self) -> tuple[Entry, ...]:
        """Returns the files preserved through this object, in that order."""
        return self._bare.contents

    @property
    def about(self) -> dict[str, Any]:
        """Returns what was said about the workload through this object by `annotate`."""
        return self._bare.about

    @property
    def tokens(self) -> tuple[int, ...]:
        """Returns the tokens of `contents`."""
        return self._bare.tokens

    @property
    def has_manifest(self) -> bool:
        """Returns whether this object keeps the session's manifest."""
        return self._bare.has_manifest


class IncomingHandle(Handle):
    """A session of the previous kernel."""

    def __init__(self, name: str, bare: IncomingSession) -> None:
        """Takes ownership of `bare`."""
        super().__init__(name)
        self._bare: IncomingSession = bare
        self._ended = False

    @property
    def contents(self) -> tuple[Entry, ...] | None:
        """Returns the files that the session held at the kexec, from its manifest; None without one, or if finished.

        Raises ManifestError: the manifest is damaged, or has a format that this library does not know.
        """
        return self._bare.contents

    @property
    def about(self) -> dict[str, Any]:
        """Returns what the program said about its workload by `annotate`; {} without any. Raises as `contents`."""
        return self._bare.about

    @property
    def finished(self) -> bool:
        """Returns whether the kernel has finished the session through this object. luod may not know it yet."""
        return self._bare.finished

    def _end(self) -> None:
        """Marks the session as ended, in the kernel and in luod, and closes the fd."""
        self._ended = True
        self._bare.close()
