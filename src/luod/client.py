"""What a program uses to talk to luod, blocking: `luod.connect()`.

A socket and the standard library, no loop and no thread, since VMMs fork. Every call has a connection of its own: there
is nothing to close, nothing a forked child could disturb, and a luod that was started again is found again. What is
asked and how answers are judged is `luod.ipc.client.sessions`, the socket is `luod.ipc.client.connection`; the same for
asyncio is `luod.aio`. Preserving, retrieving and all else about a session's files is done with the session itself, in
this process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Mapping
from typing import Final, TypeVar

from luod.errors import DaemonUnreachable
from luod.ipc.client import held_files, restore, sessions
from luod.ipc.client.connection import TIMEOUT, Connection, perform
from luod.ipc.client.restore import Arrival
from luod.ipc.client.sessions import Description, Exchange, SessionInfo
from luod.ipc.framing import SESSIONS_SOCKET
from luod.linux import Fd
from luod.liveupdate import HasFileno, IncomingSession, OutgoingSession
from luod.manifest import Entry

__all__ = ["connect", "Client", "SessionInfo", "Description", "Arrival"]  # noqa: RUF022 - most important first

T = TypeVar("T")


_LOOK_SECONDS: Final = 0.1
"""Between two looks for a luod that is not there yet."""


def connect(path: str | os.PathLike[str] | None = None, *, timeout: float = TIMEOUT, patience: float = 0.0) -> Client:
    """luod, as a program sees it whose sessions it keeps; DaemonUnreachable when nobody listens.

    `path` is luod's socket, None the usual one, /run/luod/luod.sock. `timeout` is in seconds and holds for each call;
    `patience`, in seconds too, is how long to wait for a luod that is started later than this program.
    """
    client = Client(SESSIONS_SOCKET if path is None else os.fspath(path), timeout=timeout)
    deadline = time.monotonic() + patience
    while True:
        try:
            Connection(client.path, timeout=timeout).close()
        except DaemonUnreachable:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_LOOK_SECONDS)
        else:
            return client


class Client:
    """luod at `path`. It holds no socket between calls, so it needs no closing and may be used after a fork.

    Every method may raise DaemonUnreachable (nobody listens, luod died meanwhile, or `timeout` seconds went by),
    ProtocolError (an answer that is not luod's) and CallFailed (luod declines, `name` says why: another live-update
    user is at the device, an update is under way). What the bare device would have said has the type it has there.
    After DaemonUnreachable it is not known whether luod did what was asked; `sessions()` tells.
    """

    def __init__(self, path: str, *, timeout: float = TIMEOUT) -> None:
        self.path = path
        self.timeout = timeout
        self._begun: dict[str, IncomingSession] = {}

    def create(self, name: str, *, manifest: bool = True) -> OutgoingSession:
        """A new session for files to be carried; the caller owns it. luod keeps an fd of its own until `release`, so
        the session lives until the jump whatever becomes of this process.

        `manifest=False` is for programs that keep no list of tokens in the session (see OutgoingSession).
        BadInput: luod takes names of 1 to 63 of `A-Z a-z 0-9 . _ @ / # -`, not those it keeps for itself.
        SessionExists (EEXIST): some fd of an outgoing session with this name is open. KernelRefused: the kernel's own.
        """
        return self._run(sessions.create(name, self.path, manifest=manifest))

    def retrieve(self, name: str) -> IncomingSession:
        """The session `name` as it came over the last jump; the caller owns it. Asked again, by a VMM that was started
        again, luod gives the same session, from which everything can be retrieved once more until it is finished.

        BadInput: no session can have this name. NoSuchSession (ENOENT): it was not carried, or is finished, or is
        another user's. KernelRefused.
        """
        return self._run(sessions.retrieve(name, self.path))

    def arrive(self, name: str) -> Arrival:
        """What the workload `name` took over the last jump: its session, and the one it wrote while frozen, if it took
        part in the update (`luod.Participant`). The caller owns it. Asked again before `resuming`, it is there again.

        Errors of `retrieve`, and: Torn: it was not ready when the machine jumped, so nothing can be resumed from it.
        AlreadyResumed: its guest has run since. After either, `give_up` and start the guest anew.

        When the first of the two is there and the second is not to be had, this object keeps the first, and a further
        call of it goes on with that: keep the client until then. Luod may be gone, and the first be lost with its fd.
        """
        return self._run(restore.arrive(name, self._begun, self.path))

    def resuming(self, arrived: Arrival) -> None:
        """To be called before the guest's first instruction: from here on there is no second try, since the guest
        changes the memory that its frozen state belongs to. luod hands the sessions out no more.

        AlreadyResumed: somebody said so before. Torn. NoSuchSession: they are not luod's any more.
        """
        self._run(restore.resuming(arrived))

    def give_up(self, name: str) -> tuple[str, ...]:
        """Releases all that the workload `name` took over the jump: what was not retrieved is lost. The names of the
        sessions there were.
        """
        return self._run(restore.give_up(name, self._begun))

    def finish(
        self, session: IncomingSession | Arrival, *, discard: bool = False, tokens: Iterable[int] | None = None
    ) -> None:
        """Ends a session of luod's: `session.finish(discard=discard, tokens=tokens)` with all its checks and errors,
        then tells luod to drop its fd, and closes the session. Of an Arrival both sessions; `tokens` is for one alone.

        When luod cannot be told, the session is finished in the kernel and stays open here: ask again. A program that
        called `session.finish()` itself says `release(session, finished=True)`.
        """
        self._run(restore.finish_any(session, discard=discard, tokens=tokens))

    def release(self, session: OutgoingSession | IncomingSession | SessionInfo, *, finished: bool = False) -> None:
        """Makes luod drop its fd of the session, and closes `session`, unless it is an entry of `sessions()`.

        As the last fd goes, an outgoing session's files are preserved no longer, and an incoming session's files that
        were not retrieved are lost. With `finished=True` luod first asks the kernel whether an incoming session is
        finished: CallFailed, NotFinished by name, when it is not. NoSuchSession (ENOENT). BadInput: an outgoing
        session cannot be finished.
        """
        self._run(sessions.release(session, finished=finished))

    def replace(
        self, session: OutgoingSession, files: Mapping[int, HasFileno], *, drop: Collection[int] = ()
    ) -> OutgoingSession:
        """Makes the session anew under its name, to let go of a file where the kernel has no UNPRESERVE_FD, or to put
        another in its place. The caller owns the new session; `session` is closed.

        `files` are preserved in their order under their tokens, with the names they had in the manifest; they stay the
        caller's. `drop` are the tokens to let go of.

        Refused while nothing has changed: FilesMissing, naming tokens that were preserved and are in neither; BadInput
        (a file that is not open, or there twice; a token in both, or in `drop` and not preserved); ComesBackSealed.

        From then on the old session is gone, and until this returns nothing is preserved: **a death in between loses
        the session**, this process's, luod's or the machine's jump. When a file is refused (errors of `preserve`) luod
        is made to drop the new session too, and the name is free: the caller still has its files, and creates the
        session. SessionExists (EEXIST): another fd of the old session is open somewhere; close it, then `release` the
        entry of `sessions()`, which is "dropped", and create.
        """
        return self._run(sessions.replace(session, files, drop, self.path))

    def sessions(self) -> tuple[SessionInfo, ...]:
        """This user's sessions, by name; for root everybody's."""
        return self._run(sessions.sessions())

    def manifest(self, name: str, *, direction: str = "outgoing") -> tuple[tuple[Entry, ...], bool]:
        """What the session `name` holds, by the manifest of whoever made it, as it is now; and whether that is all:
        beyond some 600 files only its maker knows. Nothing is changed, and nothing retrieved: this process does not
        become the one that has the session. NoManifest, also of an incoming session that waits in the kernel.
        NoSuchSession. ManifestError.
        """
        return self._run(sessions.manifest(name, direction))

    def describe(self, name: str) -> tuple[Description, ...]:
        """What luod knows of the outgoing session `name` and of the incoming one; nothing is changed. NoSuchSession."""
        return self._run(sessions.describe(name))

    def stash(self, name: str, files: Mapping[str, HasFileno]) -> None:
        """Has luod hold files, by names of their own, for this program to be started again without a kexec: memfds and
        devices, up to 16. They stay open here too, the caller's to close. A session cannot do this, since an outgoing
        one gives nothing back. No kernel carries them on; an update is refused while there are any.

        AlreadyStashed. Refused: too many of this user, or neither memory nor a device. BadInput. CallFailed (Busy).
        """
        self._run(held_files.stash(name, files))

    def unstash(self, name: str, *, keep: bool = False) -> dict[str, Fd]:
        """The files handed over under `name`, by anybody of this user; the caller owns them. luod closes its own when
        they are here. With `keep` it holds on to them, for whoever comes after a crash, until `drop_stash`. NotStashed.
        """
        return self._run(held_files.unstash(name, keep=keep))

    def drop_stash(self, name: str) -> None:
        """Makes luod close the files it holds under `name`. NotStashed."""
        self._run(held_files.drop_stash(name))

    def _run(self, steps: Exchange[T]) -> T:
        return perform(steps, self.path, self.timeout)

    def __repr__(self) -> str:
        return f"<Client {self.path}>"
