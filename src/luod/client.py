"""What a program uses to talk to luod, blocking: `luod.Client`, and the sessions that it gives.

A socket and the standard library, no loop and no thread, since VMMs fork. Every call has a connection of its own:
nothing that a forked child could disturb stays open, and a luod that was started again is found again. What is asked
and how answers are judged is `luod.ipc.client.sessions`, the socket is `luod.ipc.client.connection`; the same for
asyncio is `luod.aio`. Preserving, retrieving and all else about a session's files is done with the session itself, in
this process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Mapping
from types import TracebackType
from typing import Final, Self, TypeVar

from luod.errors import DaemonUnreachable
from luod.ipc.client import held_files, restore, sessions
from luod.ipc.client.connection import TIMEOUT, Connection, check_seconds, perform
from luod.ipc.client.handle import IncomingHandle, OutgoingHandle
from luod.ipc.client.restore import RestoredFiles
from luod.ipc.client.sessions import OUTGOING, Description, Exchange, SessionInfo
from luod.ipc.names import SESSIONS_SOCKET
from luod.linux import Fd
from luod.liveupdate import HasFileno, IncomingSession, OutgoingSession
from luod.manifest import MANIFEST_TOKEN, Entry

__all__ = [  # noqa: RUF022 - most important first
    "Client",
    "HeldOutgoingSession",
    "HeldIncomingSession",
    "Restored",
    "SessionInfo",
    "Description",
]

T = TypeVar("T")


LOOK_SECONDS: Final = 0.1
"""Between two looks for a luod that is not there yet."""


class Client:
    """luod, as a program sees it whose sessions it keeps. It may be used after a fork.

    `with` waits for a luod that is started later than this program, for up to `patience` seconds; DaemonUnreachable
    when none came. At its end it closes what the client still holds, see `close`. It is not needed otherwise: no socket
    is open between calls.

    Every method may raise DaemonUnreachable (nobody listens, luod died meanwhile, or `timeout` seconds went by),
    ProtocolError (an answer that is not luod's), Busy (luod cannot do it now) and CallFailed (luod declines, `name`
    says why). What the bare device would have said has the type it has there. After DaemonUnreachable it is not known
    whether luod did what was asked; `sessions()` tells.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None = None, *, timeout: float = TIMEOUT, patience: float = 0.0
    ) -> None:
        """Connects to nothing yet. `path` is luod's socket, None the usual one, /run/luod/luod.sock. `timeout`, in
        seconds, holds for each call; `patience`, in seconds, for `with`. BadInput.
        """
        check_seconds("a timeout", timeout)
        check_seconds("patience", patience, zero=True)
        self.path = SESSIONS_SOCKET if path is None else os.fspath(path)
        self.timeout = timeout
        self.patience = patience
        self._begun: dict[str, IncomingSession] = {}

    def create(self, name: str, *, manifest: bool = True) -> HeldOutgoingSession:
        """Creates a session for files to be preserved; the caller owns it. luod keeps an fd of its own until `release`
        of the session, so that it lives until the jump even if this process ends.

        `manifest=False` is for programs that keep no list of tokens in the session (see OutgoingSession).
        BadInput: luod takes names of 1 to 63 of `A-Z a-z 0-9 . _ @ / # -`, not those it keeps for itself.
        SessionExists (EEXIST): some fd of an outgoing session with this name is open; where it is a VMM's before this
        one, `discard` releases it. KernelRefused: the kernel's own.
        """
        return HeldOutgoingSession(self, name, self._run(sessions.create(name, self.path, manifest=manifest)))

    def retrieve(self, name: str) -> HeldIncomingSession:
        """Retrieves the one session `name` as it came over the last jump; the caller owns it. `restore` is for
        workloads that took part in an update. Asked again, by a VMM that was started again, luod gives the same
        session, from which everything can be retrieved once more until it is finished.

        BadInput: no session can have this name. NoSuchSession (ENOENT): it was not preserved, or is finished, or is
        another user's. Torn, AlreadyResumed, KernelRefused.
        """
        return HeldIncomingSession(self, name, self._run(sessions.retrieve(name, self.path)))

    def restore(self, name: str) -> Restored | None:
        """Retrieves all that the workload `name` took over the last jump: its session NAME, and NAME#GENERATION, which
        it wrote while it was frozen, if it took part in the update (`luod.Participant`). The caller owns it. None: it
        took nothing. Asked again before `Restored.resume`, it is there again.

        Torn: the workload was not ready when the machine jumped, so nothing can be resumed from it. AlreadyResumed: its
        guest has run since. After either, `discard` it, and start the guest from the beginning. Errors of `retrieve`.

        When the first of two sessions was retrieved and the second was not, since luod is gone, the client keeps the
        first for the next call of this: keep the client, since closing the session might lose what it carries.
        """
        arrived = self._run(restore.restore(name, self._begun, self.path))
        if arrived is None:
            return None
        frozen = None if arrived.frozen is None else HeldIncomingSession(self, *arrived.frozen)
        return Restored(self, name, HeldIncomingSession(self, name, arrived.running), frozen)

    def discard(self, name: str) -> tuple[str, ...]:
        """Releases all that the workload `name` has: what it took over the last jump and was not retrieved is lost, and
        what is preserved for the next one is preserved no longer. Returns the names of the sessions; none: ().

        Refused: a participant still answers for them, so another process of this workload lives. BadInput: the name.
        """
        return self._run(restore.discard(name, self._begun))

    def sessions(self) -> tuple[SessionInfo, ...]:
        """Returns this user's sessions, by name; for root everybody's."""
        return self._run(sessions.sessions())

    def manifest(self, name: str, *, direction: str = "outgoing") -> tuple[tuple[Entry, ...], bool]:
        """Returns what the session `name` holds, by its maker's manifest, as it is now; and whether that is all: beyond
        some 600 files only its maker knows. Nothing is changed, and nothing retrieved: this process does not become the
        one that has the session. NoManifest, also of an incoming session that waits in the kernel. NoSuchSession.
        ManifestError.
        """
        return self._run(sessions.manifest(name, direction))

    def describe(self, name: str) -> tuple[Description, ...]:
        """Returns what luod knows of the outgoing session `name` and of the incoming one; nothing is changed.

        NoSuchSession.
        """
        return self._run(sessions.describe(name))

    def stash(self, name: str, files: Mapping[str, HasFileno]) -> None:
        """Has luod hold files, by names of their own, for this program to be started again without a kexec: memfds and
        devices, up to 16. They stay open here too, the caller's to close. A session cannot do this, since an outgoing
        one gives nothing back. No kernel preserves them; an update is refused while there are any.

        AlreadyStashed. Refused: too many of this user, or neither memory nor a device. BadInput. Busy.
        """
        self._run(held_files.stash(name, files))

    def unstash(self, name: str, *, keep: bool = False) -> dict[str, Fd]:
        """Returns the files that a process of this user stashed under `name`; the caller owns them. luod closes its own
        when they are here. With `keep` it holds on to them until `drop_stash`, for a process that follows after a
        crash. NotStashed.
        """
        return self._run(held_files.unstash(name, keep=keep))

    def drop_stash(self, name: str) -> None:
        """Makes luod close the files that it holds under `name`. NotStashed."""
        self._run(held_files.drop_stash(name))

    def close(self) -> None:
        """Closes what the client still holds: sessions of workloads that `restore` could not retrieve whole. The
        sessions that it gave are their owners' to close. The client can be used again.
        """
        while self._begun:
            self._begun.popitem()[1].close()

    def __enter__(self) -> Self:
        deadline = time.monotonic() + self.patience
        while True:
            try:
                Connection(self.path, timeout=self.timeout).close()
            except DaemonUnreachable:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(LOOK_SECONDS)
            else:
                return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, steps: Exchange[T]) -> T:
        return perform(steps, self.path, self.timeout)

    def __repr__(self) -> str:
        return f"<Client {self.path}>"


class HeldOutgoingSession(OutgoingHandle):
    """A session for the next kernel that luod holds too. Its verbs may raise what each method of `Client` may."""

    def __init__(self, client: Client, name: str, bare: OutgoingSession) -> None:
        """Takes ownership of `bare`, which the luod of `client` gave."""
        super().__init__(name, bare)
        self._client = client

    def preserve(
        self,
        file: int | HasFileno,
        token: int | None = None,
        *,
        name: str | None = None,
        allow_sealed: bool = False,
        check_memory: bool = True,
        device: str | None = None,
    ) -> int:
        """Preserves a file: `luod.liveupdate.OutgoingSession.preserve`, which has the rules and the errors."""
        return self._bare.preserve(
            file, token, name=name, allow_sealed=allow_sealed, check_memory=check_memory, device=device
        )

    def unpreserve(self, token: int) -> None:
        """Stops preserving the file under `token`: `luod.liveupdate.OutgoingSession.unpreserve`."""
        self._bare.unpreserve(token)

    def replace(self, files: Mapping[int, HasFileno], *, drop: Collection[int] = ()) -> None:
        """Replaces the session by a new one of its name: without a file, where the kernel has no UNPRESERVE_FD, or with
        another file in its place. This object then stands for the new session.

        `files` are preserved in their order under their tokens, with the names they had in the manifest; they stay the
        caller's. `drop` are the tokens that are preserved no longer.

        Refused while nothing has changed: FilesMissing, naming tokens that were preserved and are in neither; BadInput
        (a file that is not open, or there twice; a token in both, or in `drop` and not preserved); ComesBackSealed.

        From then on the old session is gone, and until this returns nothing is preserved: **a death in between loses
        the session**, this process's, luod's or the machine's jump. When a file is refused (errors of `preserve`) luod
        drops the new session too, and the name is free: the caller still has its files, and creates the session.
        SessionExists (EEXIST): another fd of the old session is open somewhere, and luod has dropped its own; close
        that fd and call this again, or `release` the session.
        """
        self._bare = self._client._run(sessions.replace(self._name, self._bare, files, drop, self._client.path))

    def release(self) -> None:
        """Makes luod close its fd of the session, and closes this one. With the last fd its files are preserved no
        longer, and its name is free. It works after `close`, too. NoSuchSession: luod has none, so it is released.
        """
        self._client._run(sessions.release(self._name, OUTGOING, finished=False))
        self.close()


class HeldIncomingSession(IncomingHandle):
    """A session of the kernel before that luod holds too. Its verbs may raise what each method of `Client` may."""

    def __init__(self, client: Client, name: str, bare: IncomingSession) -> None:
        """Takes ownership of `bare`, which the luod of `client` gave."""
        super().__init__(name, bare)
        self._client = client

    def retrieve(
        self,
        file: int | str | None = None,
        *,
        name: str | None = None,
        size: int | None = None,
        check_memory: bool = True,
        check_driver: bool = True,
    ) -> Fd:
        """Retrieves a file by its token, or its name in the manifest; the caller owns the fd:
        `luod.liveupdate.IncomingSession.retrieve`, which has the rules and the errors.
        """
        return self._bare.retrieve(file, name=name, size=size, check_memory=check_memory, check_driver=check_driver)

    def unretrieved(self, tokens: Iterable[int] | None = None) -> tuple[int, ...]:
        """Returns the tokens that `finish` would drop: `luod.liveupdate.IncomingSession.unretrieved`."""
        return self._bare.unretrieved(tokens)

    def holds(self, token: int = MANIFEST_TOKEN) -> bool:
        """Returns whether the kernel still has the file under `token`: `luod.liveupdate.IncomingSession.holds`."""
        return self._bare.holds(token)

    def finish(self, *, discard: bool = False, tokens: Iterable[int] | None = None) -> None:
        """Ends the session, in the kernel and in luod, and closes it: `luod.liveupdate.IncomingSession.finish`, with
        all its checks and errors, then luod drops its fd. Idempotent.

        When luod cannot be told, the session is finished in the kernel and stays open here: call this again.
        """
        self._client._run(sessions.finish(self, discard=discard, tokens=tokens))

    def discard(self) -> None:
        """Gives the session up: luod drops its fd, and this one is closed. Files that were not retrieved are lost;
        those that were stay the caller's. Idempotent.
        """
        self._client._run(sessions.discard(self))


class Restored(RestoredFiles[HeldIncomingSession]):
    """What a workload took along into this kernel, see `Client.restore`. `restored["ram"]` retrieves the file named
    ram, `"ram" in restored` asks for it, and iterating gives the names. In `with` it is closed at the end: luod keeps
    what is not finished.
    """

    def __init__(
        self, client: Client, name: str, running: HeldIncomingSession, frozen: HeldIncomingSession | None
    ) -> None:
        super().__init__(name, running, frozen)
        self._client = client

    def retrieve(self, name: str, *, check_memory: bool = True, check_driver: bool = True) -> Fd:
        """Retrieves the file with this name in a manifest of either session, the frozen one first; the caller owns the
        fd. See `luod.liveupdate.IncomingSession.retrieve`. BadInput: no manifest names such a file.
        """
        return self._session_of(name).retrieve(name, check_memory=check_memory, check_driver=check_driver)

    def __getitem__(self, name: str) -> Fd:
        """`retrieve(name)`: the caller owns the fd, and asked again there is another one of the same file."""
        return self.retrieve(name)

    def resume(self) -> None:
        """Says that the guest resumes, to be called before its first instruction: from here on there is no second try,
        since the guest changes the memory that its frozen state belongs to. luod hands the sessions out no more.

        AlreadyResumed: a process said so before. Torn. NoSuchSession: they are not luod's any more. Refused.
        """
        self._client._run(restore.resume(self._name))

    def finish(self) -> None:
        """Ends both sessions, in the kernel and in luod, and closes them. Idempotent.

        NotRetrieved, ContentsUnknown, ManifestError: something would be dropped; nothing was finished. FinishRefused.
        When luod cannot be told, call this again.
        """
        self._client._run(restore.finish(self.sessions))

    def discard(self) -> None:
        """Gives both sessions up, and closes them: files that were not retrieved are lost, those that were stay the
        caller's. Idempotent.
        """
        self._client._run(restore.discard_all(self.sessions))
