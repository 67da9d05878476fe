"""A program's calls about sessions, step by step and without I/O: `io.luod.Sessions` for the client.

An exchange is a generator: it yields a `Call` and is sent the `Reply`, so that both surfaces, `luod.client` (a blocking
socket) and `luod.aio` (a loop), run the same one. They document results, errors and ownership. The steps between two
calls make live-update calls on the caller's own session fds, in the caller's process: luod is never on the data path.
Answers are untrusted input: one that does not match the interface is a ProtocolError.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Collection, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from luod.errors import (
    BadInput,
    ComesBackSealed,
    FilesMissing,
    KernelRefused,
    LuodError,
    ManifestError,
    NoSuchSession,
    NotRetrieved,
    ProtocolError,
)
from luod.ipc.client.handle import IncomingHandle
from luod.ipc.client.limits import Limits
from luod.ipc.decode import decode
from luod.ipc.framing import Reply, encode_call
from luod.ipc.names import SESSIONS
from luod.ipc.types.sessions import Description, GivenUp, SessionInfo
from luod.liveupdate import HasFileno, IncomingSession, OutgoingSession
from luod.liveupdate.outgoing import new_manifest
from luod.liveupdate.session import check_token
from luod.manifest import PART_SIZE, RESERVED_TOKENS, Entry, read_first
from luod.session_name import SessionName
from luod.uapi.memfd import F_GET_SEALS, F_SEAL_EXEC

T = TypeVar("T")

OUTGOING: Final = "outgoing"
INCOMING: Final = "incoming"


@dataclass(frozen=True)
class Call:
    """One method call; `method` is its name without the interface. `fds` are sent along; their owner keeps them."""

    method: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    interface: str = SESSIONS
    fds: tuple[HasFileno, ...] = ()

    def encode(self) -> bytes:
        return encode_call(f"{self.interface}.{self.method}", self.parameters)


Exchange = Generator[Call, Reply, T]
"""The runner closes each Reply after the step to which it was sent: fds that were not taken end there."""


def create(name: str, path: str, *, manifest: bool) -> Exchange[OutgoingSession]:
    """Returns a new session. It asks luod, at its socket `path`, for memory limits that this process cannot read."""
    SessionName.parse(name)  # for a value that is not text luod would only drop the connection
    return (yield from _made("Create", name, path, manifest=manifest))


def retrieve(name: str, path: str) -> Exchange[IncomingSession]:
    """Returns an incoming session. `path` as for `create`."""
    SessionName.parse(name)
    reply = yield Call("Retrieve", {"name": name})
    return _named(name, IncomingSession(reply.take("session_fd"), limits=Limits(path)))


def release(name: str, direction: str, *, finished: bool) -> Exchange[None]:
    outcome = "finished" if finished else "given_up"
    yield Call("Release", {"name": name, "direction": direction, "outcome": outcome})


def refuse_losses(session: IncomingHandle) -> None:
    """Raises NotRetrieved, ContentsUnknown or ManifestError if finishing the session would drop files."""
    bare = session._bare
    if not session._ended and not bare.finished and (dropped := bare.unretrieved()):
        listed = ", ".join(map(str, dropped[:10]))
        raise NotRetrieved(f"finishing session {session.name!r} would drop tokens {listed}", tokens=dropped)


def finish(session: IncomingHandle, *, discard: bool, tokens: Iterable[int] | None) -> Exchange[None]:
    if session._ended:
        return
    session._bare.finish(discard=discard, tokens=tokens)
    yield from _ended(session, finished=True)


def discard(session: IncomingHandle) -> Exchange[None]:
    if not session._ended:
        yield from _ended(session, finished=session.finished)


def _ended(session: IncomingHandle, *, finished: bool) -> Exchange[None]:
    # luod may have closed it after an earlier call that it could not answer.
    with contextlib.suppress(NoSuchSession):
        yield from release(session.name, INCOMING, finished=finished)
    session._end()


def replace(
    name: str, session: OutgoingSession, files: Mapping[int, HasFileno], drop: Collection[int], path: str
) -> Exchange[OutgoingSession]:
    before = {entry.token: entry for entry in session.contents}
    _check_replacement(before, files, drop)
    manifest = session.has_manifest
    session.close()
    anew = yield from _made("Replace", name, path, manifest=manifest)
    try:
        for token, file in files.items():
            name_in_manifest = before[token].name if token in before else None
            anew.preserve(file, token, name=name_in_manifest, allow_sealed=True)
    except LuodError:
        anew.close()
        # A partial session must not be carried, nor keep the name from the caller, who has all the files. If luod is
        # not reachable, the caller still gets the original refusal.
        with contextlib.suppress(LuodError):
            yield from release(name, OUTGOING, finished=False)
        raise
    except BaseException:
        anew.close()
        raise
    return anew


def manifest(name: str, direction: str) -> Exchange[tuple[tuple[Entry, ...], bool]]:
    SessionName.parse(name)
    reply = yield Call("Manifest", {"name": name} if direction == OUTGOING else {"name": name, "direction": direction})
    with reply.take("manifest_fd") as part:
        # Its maker may have passed any file: a pipe would block.
        if _seals(part) is None or os.fstat(part.fileno()).st_size != PART_SIZE:
            raise ManifestError("the file that luod has as the manifest is not a manifest")
        return read_first(os.pread(part.fileno(), PART_SIZE, 0))


def sessions() -> Exchange[tuple[SessionInfo, ...]]:
    reply = yield Call("List")
    return tuple(decode(list[SessionInfo], reply.parameters.get("sessions"), "sessions"))


def give_up(name: str, direction: str | None, *, force: bool) -> Exchange[GivenUp]:
    """Releases a workload."""
    SessionName.parse(name)
    parameters: dict[str, Any] = {"name": name}
    if direction is not None:
        parameters["direction"] = direction
    if force:
        parameters["force"] = True
    reply = yield Call("GiveUp", parameters)
    return decode(GivenUp, reply.parameters)


def describe(name: str) -> Exchange[tuple[Description, ...]]:
    SessionName.parse(name)
    reply = yield Call("Describe", {"name": name})
    return tuple(decode(list[Description], reply.parameters.get("sessions"), "sessions"))


def _check_replacement(before: Mapping[int, Entry], files: Mapping[int, HasFileno], drop: Collection[int]) -> None:
    """Raises the errors that can be predicted, before any change."""
    dropped, inodes = set(drop), dict[tuple[int, int], int]()
    if both := sorted(dropped & files.keys()):
        raise BadInput(f"tokens both in `files` and in `drop`: {both}")
    if unknown := sorted(dropped - before.keys()):
        raise BadInput(f"tokens in `drop` that the session does not hold: {unknown}")
    if missing := tuple(token for token in before if token not in files and token not in dropped):
        raise FilesMissing(f"these tokens would be lost: {', '.join(map(str, missing))}", tokens=missing)
    for token, file in files.items():
        check_token(token)
        if token in RESERVED_TOKENS:
            raise BadInput(f"token {token} is reserved for the manifest", hint="take another")
        try:
            status = os.fstat(file.fileno())
        except (OSError, ValueError) as error:
            raise BadInput(f"the file for token {token} is not open: {error}") from error
        if (other := inodes.setdefault((status.st_dev, status.st_ino), token)) != token:
            raise BadInput(f"tokens {other} and {token} are the same file")
        # The caller allowed this at its first preserve.
        if (_seals(file) or 0) & ~(before[token].seals if token in before else 0) & F_SEAL_EXEC:
            raise ComesBackSealed(f"the file for token {token} has F_SEAL_EXEC, so it would come back immutable")


def _seals(file: HasFileno) -> int | None:
    """Returns the seals of a memfd; None for files that cannot have any."""
    try:
        return fcntl.fcntl(file.fileno(), F_GET_SEALS)
    except OSError:
        return None


def _made(method: str, name: str, path: str, *, manifest: bool) -> Exchange[OutgoingSession]:
    """Returns an outgoing session. luod gets a duplicate of its manifest, since files cannot be read from the session
    itself.
    """
    if not manifest:
        reply = yield Call(method, {"name": name})
        return _named(name, OutgoingSession(reply.take("session_fd"), manifest=False, limits=Limits(path)))
    first = new_manifest()
    try:
        reply = yield Call(method, {"name": name, "manifest_fd": 0}, fds=(first,))
        session = OutgoingSession(reply.take("session_fd"), manifest=first, limits=Limits(path))
    except BaseException:
        first.close()
        raise
    return _named(name, session)


S = TypeVar("S", OutgoingSession, IncomingSession)


def _named(name: str, session: S) -> S:
    """Returns `session`, after the kernel has confirmed that the fd is the requested session."""
    try:
        found = session.name
    except KernelRefused as error:
        session.close()
        raise ProtocolError(f"luod sent an fd that is not a session: {error}") from error
    if found != name:
        session.close()
        raise ProtocolError(f"luod sent session {found!r} in place of {name!r}")
    return session
