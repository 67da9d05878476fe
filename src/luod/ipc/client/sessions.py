"""A program's calls about sessions, step by step and without I/O: `io.luod.Sessions` for the client. Those that create
a session are in `luod.ipc.client.creation`.

An exchange is a generator: it yields a `Call` and is sent the `Reply`, so that both surfaces, `luod.client` (a blocking
socket) and `luod.aio` (a loop), run the same one. They document results, errors and ownership. The steps between two
calls make live-update calls on the caller's own session fds, in the caller's process: luod is never on the data path.
Answers are untrusted input: one that does not match the interface is a ProtocolError.
"""

from __future__ import annotations

import fcntl
import os

from luod.errors import KernelRefused, LuodError, ManifestError, NoSuchSession, NotRetrieved, ProtocolError
from luod.frozen import frozen
from luod.ipc.client.limits import Limits
from luod.ipc.decode import decode
from luod.ipc.framing import encode_call
from luod.ipc.names import SESSIONS
from luod.ipc.types.sessions import Description, GivenUp, SessionInfo
from luod.liveupdate.incoming import IncomingSession
from luod.liveupdate.session import Session
from luod.manifest import PART_SIZE, read_first
from luod.session_name import SessionName
from luod.static import TYPE_CHECKING, Any, Final, TypeVar
from luod.uapi.memfd import F_GET_SEALS

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping

    from luod.ipc.client.handle import IncomingHandle
    from luod.ipc.framing import Reply
    from luod.linux import Fd
    from luod.liveupdate import HasFileno, OutgoingSession
    from luod.manifest import Entry, Reading

    T = TypeVar("T")
    S = TypeVar("S", OutgoingSession, IncomingSession)
    Exchange = Generator["Call", Reply, T]
    """The runner closes each Reply after the step to which it was sent: fds that were not taken end there."""

OUTGOING: Final = "outgoing"
INCOMING: Final = "incoming"
MANY: Final = 16
"""Sessions in one call, as luod limits them."""


@frozen
class Call:
    """One method call; `method` is its name without the interface. `fds` are sent along; their owner keeps them."""

    method: str
    parameters: Mapping[str, Any] | None = None
    interface: str = SESSIONS
    fds: tuple[HasFileno, ...] = ()

    def encode(self) -> bytes:
        return encode_call(f"{self.interface}.{self.method}", self.parameters)


def retrieve(name: str, path: str) -> Exchange[IncomingSession]:
    """Returns an incoming session. `path` as for `create`."""
    SessionName.parse(name)
    reply = yield Call("Retrieve", {"name": name})
    return named(name, IncomingSession(reply.take("session_fd"), limits=Limits(path)))


def retrieve_many(names: Iterable[str], path: str) -> Exchange[dict[str, IncomingSession | LuodError]]:
    """Returns each session, or the error of `retrieve`."""
    wanted = tuple(dict.fromkeys(names))
    for name in wanted:
        SessionName.parse(name)
    found: dict[str, IncomingSession | LuodError] = {}
    for at in range(0, len(wanted), MANY):
        some = wanted[at : at + MANY]
        try:
            reply = yield Call("RetrieveMany", {"names": some})
            taken = results(reply, some, lambda _name, fd: IncomingSession(fd, limits=Limits(path)))
        except LuodError as error:
            # The others must not be closed: if luod is gone, these may be the last fds of their sessions.
            taken = dict.fromkeys(some, error)
        found |= taken
    return found


def results(reply: Reply, names: Iterable[str], made: Callable[[str, Fd], S]) -> dict[str, S | LuodError]:
    """Returns the sessions in the answer to a call for these, and the errors in place of others.

    Raises ProtocolError.
    """
    found: dict[str, S | LuodError] = {}
    listed = reply.parameters.get("sessions")
    try:
        for each in listed if isinstance(listed, list) else (None,):
            if not isinstance(each, dict) or not isinstance(name := each.get("name"), str) or name in found:
                raise ProtocolError(f"luod returned an invalid session: {each!r:.100}")
            failure = each.get("failure")
            if failure is None:
                found[name] = named(name, made(name, reply.take("session_fd", each)))
            elif isinstance(failure, dict) and isinstance(error := failure.get("error"), str):
                from luod.ipc.errors import from_the_wire  # late, as in luod.ipc.framing

                found[name] = from_the_wire(error, failure)
            else:
                raise ProtocolError(f"luod returned an invalid error: {failure!r:.100}")
        if missing := sorted(set(names) - found.keys()):
            raise ProtocolError(f"luod returned nothing about {missing[0]!r}")
    except BaseException:
        close(found.values())
        raise
    return found


def close(found: Iterable[Session | LuodError]) -> None:
    """Closes the sessions among these."""
    for each in found:
        if isinstance(each, Session):
            each.close()


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
    try:
        yield from release(session.name, INCOMING, finished=finished)
    except NoSuchSession:
        pass  # luod closed it after an earlier call that it could not answer
    session._end()


def manifest(name: str, direction: str) -> Exchange[tuple[tuple[Entry, ...], bool]]:
    reading, complete = yield from manifest_read(name, direction)
    return reading.files, complete


def about(name: str, direction: str) -> Exchange[dict[str, Any]]:
    return (yield from manifest_read(name, direction))[0].about


def manifest_read(name: str, direction: str) -> Exchange[tuple[Reading, bool]]:
    """Returns what luod's copy of the manifest's first part says, and whether that is all."""
    SessionName.parse(name)
    reply = yield Call("Manifest", {"name": name} if direction == OUTGOING else {"name": name, "direction": direction})
    with reply.take("manifest_fd") as part:
        # Its maker may have passed any file: a pipe would block.
        if seals(part) is None or os.fstat(part.fileno()).st_size != PART_SIZE:
            raise ManifestError("the file that luod has as the manifest is not a manifest")
        return read_first(os.pread(part.fileno(), PART_SIZE, 0))


def sessions(workload: str | None = None) -> Exchange[tuple[SessionInfo, ...]]:
    reply = yield Call("List", None if workload is None else {"workload": workload})
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


def seals(file: HasFileno) -> int | None:
    """Returns the seals of a memfd; None for files that cannot have any."""
    try:
        return fcntl.fcntl(file.fileno(), F_GET_SEALS)
    except OSError:
        return None


def named(name: str, session: S) -> S:
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
