"""What a program uses to talk to luod, blocking: `luod.connect()`.

A socket and the standard library, no loop and no thread, since VMMs fork. Every call has a connection of its own: there
is nothing to close, nothing a forked child could disturb, and a luod that was started again is found again. What is
asked and how answers are judged is `luod.ipc.exchange`, the socket is `luod.ipc.connection`; the same for asyncio is
`luod.aio`. Preserving, retrieving and all else about a session's files is done with the session itself, in this
process.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

from luod.errors import LuodError
from luod.ipc import exchange
from luod.ipc.connection import TIMEOUT, Connection
from luod.ipc.exchange import Session
from luod.ipc.framing import SESSIONS_SOCKET
from luod.liveupdate import HasFileno, IncomingSession, OutgoingSession

__all__ = ["connect", "Client", "Session"]  # noqa: RUF022 - most important first

T = TypeVar("T")


def connect(path: str | os.PathLike[str] | None = None, *, timeout: float = TIMEOUT) -> Client:
    """luod, as a program sees it whose sessions it keeps; DaemonUnreachable when nobody listens.

    `path` is luod's socket, None the usual one, /run/luod/luod.sock. `timeout` is in seconds and holds for each call.
    """
    client = Client(SESSIONS_SOCKET if path is None else os.fspath(path), timeout=timeout)
    Connection(client.path, timeout=timeout).close()
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

    def create(self, name: str, *, manifest: bool = True) -> OutgoingSession:
        """A new session for files to be carried; the caller owns it. luod keeps an fd of its own until `release`, so
        the session lives until the jump whatever becomes of this process.

        `manifest=False` is for programs that keep no list of tokens in the session (see OutgoingSession).
        BadInput: luod takes names of 1 to 63 of `A-Z a-z 0-9 . _ @ / # -`, not those it keeps for itself.
        SessionExists (EEXIST): some fd of an outgoing session with this name is open. KernelRefused: the kernel's own.
        """
        return self._run(exchange.create(name, manifest=manifest))

    def retrieve(self, name: str) -> IncomingSession:
        """The session `name` as it came over the last jump; the caller owns it. Asked again, by a VMM that was started
        again, luod gives the same session, from which everything can be retrieved once more until it is finished.

        BadInput: no session can have this name. NoSuchSession (ENOENT): it was not carried, or is finished, or is
        another user's. KernelRefused.
        """
        return self._run(exchange.retrieve(name))

    def finish(self, session: IncomingSession, *, discard: bool = False, tokens: Iterable[int] | None = None) -> None:
        """Ends a session of luod's: `session.finish(discard=discard, tokens=tokens)` with all its checks and errors,
        then tells luod to drop its fd, and closes the session.

        When luod cannot be told, the session is finished in the kernel and stays open here: ask again. A program that
        called `session.finish()` itself says `release(session, finished=True)`.
        """
        self._run(exchange.finish(session, discard=discard, tokens=tokens))

    def release(self, session: OutgoingSession | IncomingSession | Session, *, finished: bool = False) -> None:
        """Makes luod drop its fd of the session, and closes `session`, unless it is an entry of `sessions()`.

        As the last fd goes, an outgoing session's files are preserved no longer, and an incoming session's files that
        were not retrieved are lost. With `finished=True` luod first asks the kernel whether an incoming session is
        finished: CallFailed, NotFinished by name, when it is not. NoSuchSession (ENOENT). BadInput: an outgoing
        session cannot be finished.
        """
        self._run(exchange.release(session, finished=finished))

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
        return self._run(exchange.replace(session, files, drop))

    def sessions(self) -> tuple[Session, ...]:
        """This user's sessions, by name; for root everybody's."""
        return self._run(exchange.sessions())

    def _run(self, steps: exchange.Exchange[T]) -> T:
        try:
            call = next(steps)
            while True:
                try:
                    with Connection(self.path, timeout=self.timeout) as connection:
                        reply = connection.ask(call.encode())
                except LuodError as error:
                    call = steps.throw(error)
                    continue
                try:
                    call = steps.send(reply)
                finally:
                    reply.close()
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            steps.close()

    def __repr__(self) -> str:
        return f"<Client {self.path}>"
