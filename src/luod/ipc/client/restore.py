"""A workload in the next kernel, step by step and without I/O: restoring, resuming from and ending its sessions.

The exchanges are like those of `luod.ipc.client.sessions`. `luod.client` and `luod.aio` run and document them.
"""

from __future__ import annotations

from luod.errors import AlreadyResumed, BadInput, CallFailed, DaemonUnreachable, LuodError, NoSuchSession, Torn
from luod.ipc.client import sessions
from luod.ipc.client.sessions import INCOMING, OUTGOING, Call
from luod.ipc.names import UPDATES
from luod.linux import Resource
from luod.session_name import SessionName
from luod.static import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from luod.ipc.client.handle import IncomingHandle
    from luod.ipc.client.sessions import Exchange
    from luod.ipc.types.sessions import SessionInfo
    from luod.liveupdate import IncomingSession

    H = TypeVar("H", bound=IncomingHandle)
else:
    H = None

    class Generic:
        """Stands for the one of typing."""

        def __class_getitem__(cls, kind):
            return cls


class Arrived:
    """The result of `restore`: the workload's session, and the one written while it was frozen, if there is one."""

    def __init__(self, running: IncomingSession, frozen: tuple[str, IncomingSession] | None) -> None:
        self.running = running
        self.frozen = frozen

    def close(self) -> None:
        self.running.close()
        if self.frozen is not None:
            self.frozen[1].close()


class RestoredFiles(Resource, Generic[H]):
    """The state of a workload from the previous kernel, without the calls to luod.

    It owns its sessions. Closing it leaves them with luod.
    """

    def __init__(self, name: str, running: H, frozen: H | None) -> None:
        self._name = name
        self._running = running
        self._frozen = frozen
        self._resumed = False
        """Whether the guest resumes, or luod is being told that it does."""

    @property
    def name(self) -> str:
        """Returns the workload's name."""
        return self._name

    @property
    def running(self) -> H:
        """Returns the session NAME: files that were preserved while the guest ran."""
        return self._running

    @property
    def frozen(self) -> H | None:
        """Returns the session NAME#GENERATION, which the workload wrote while it was frozen by the update; None without
        one.
        """
        return self._frozen

    @property
    def sessions(self) -> tuple[H, ...]:
        """Returns both sessions, the frozen one first."""
        return (self._running,) if self._frozen is None else (self._frozen, self._running)

    @property
    def generation(self) -> int | None:
        """Returns the number of the update; None without a session written while frozen."""
        return None if self._frozen is None else SessionName.parse(self._frozen.name).generation

    @property
    def names(self) -> tuple[str, ...]:
        """Returns the names of the files, from the manifests of the sessions. Raises ManifestError.

        A file without a name is retrieved by its token, from one of `sessions`.
        """
        entries = (entry for session in self.sessions for entry in session.contents or ())
        return tuple(dict.fromkeys(entry.name for entry in entries if entry.name is not None))

    def _session_of(self, name: str) -> H:
        """Returns the session with a file of this name, the frozen one first. Raises BadInput: neither has it."""
        for session in self.sessions:
            if any(entry.name == name for entry in session.contents or ()):
                return session
        raise BadInput(f"{self._name!r} took along no file named {name!r}", hint=f"it has {', '.join(self.names)}")

    def close(self) -> None:
        """Closes the fds of the sessions. Unless they are finished, the next `restore` returns them again."""
        for session in self.sessions:
            session.close()

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name}>"


def restore(name: str, begun: dict[str, IncomingSession], path: str) -> Exchange[Arrived | None]:
    """Returns the bare sessions of the workload; None without an incoming one. Raises Busy for one that luod carries
    over: it waits for the next kernel, and a guest that starts from the beginning would take its place.

    `begun` are sessions by name of workloads whose other session could not be retrieved. It keeps them: when luod is
    gone, they may be the last fds of their sessions, and closing one would lose its files.
    """
    listed = yield from _listed(name)
    found = _incoming(name, listed)
    if not found:
        _drop(begun, name)
        if not any(session.direction == OUTGOING and session.name == name for session in listed):
            return None
        # Of an earlier process in this kernel, or carried over by the operator, of which Retrieve tells.
        try:
            return Arrived((yield from _retrieved(name, name, path)), None)
        except NoSuchSession:
            return None
    had = any(session.name == name and session.state == "retrieved" for session in found)
    running = begun.pop(name, None) if had else None
    if running is None:
        running = yield from _retrieved(name, name, path)
    try:
        written = [session.name for session in found if session.name != name and session.state != "torn"]
        frozen = (written[-1], (yield from _retrieved(written[-1], name, path))) if written else None
    except BaseException:
        _drop(begun, name)
        begun[name] = running
        raise
    _drop(begun, name)
    return Arrived(running, frozen)


def _retrieved(session: str, workload: str, path: str) -> Exchange[IncomingSession]:
    try:
        return (yield from sessions.retrieve(session, path))
    except (Torn, AlreadyResumed) as error:
        raise type(error)(error.message, hint=_cold_start(workload)) from None


def _cold_start(workload: str) -> str:
    return f"release what is left of it with client.discard({workload!r}), and start the guest from the beginning"


def _drop(begun: dict[str, IncomingSession], name: str) -> None:
    """Closes the session that is kept, after another retrieve or a discard."""
    if (kept := begun.pop(name, None)) is not None:
        kept.close()


def resume(restored: RestoredFiles[H]) -> Exchange[None]:
    """Records that the guest resumes.

    luod may have recorded it and died before its answer: it accepts a repetition from this process, and this object
    refuses one after the answer.
    """
    if restored._resumed:
        raise AlreadyResumed(
            f"the guest of session {restored.name!r} has already resumed", hint=_cold_start(restored.name)
        )
    restored._resumed = True
    try:
        try:
            yield Call("Resuming", {"names": [restored.name]}, UPDATES)
        except DaemonUnreachable as lost:
            try:
                yield Call("Resuming", {"names": [restored.name]}, UPDATES)
            except (NoSuchSession, Torn):
                raise
            except LuodError as error:
                raise lost from error  # the first call may have been recorded, and no other process may make it
    except BaseException as error:
        restored._resumed = False
        if not isinstance(error, CallFailed) or error.name != f"{UPDATES}.WrongPhase":
            raise
        # It was not resumed when this process retrieved it.
        raise AlreadyResumed(error.message, hint="another process runs the guest: end this one") from error


def finish(handles: Sequence[IncomingHandle]) -> Exchange[None]:
    # Refused before anything is finished, since a part of a workload is of no use.
    for handle in handles:
        sessions.refuse_losses(handle)
    for handle in handles:
        yield from sessions.finish(handle, discard=False, tokens=None)


def discard_all(handles: Sequence[IncomingHandle]) -> Exchange[None]:
    for handle in handles:
        yield from sessions.discard(handle)


def discard(name: str, begun: dict[str, IncomingSession]) -> Exchange[tuple[str, ...]]:
    """Releases the workload's sessions, outgoing ones first, and returns their names."""
    # Refused while a participant answers for them, before anything is lost.
    try:
        released = (yield from sessions.give_up(name, OUTGOING, force=False)).released
    except NoSuchSession:
        released = []
    for session in _incoming(name, (yield from _listed(name))):
        try:
            yield from sessions.release(session.name, INCOMING, finished=False)
        except NoSuchSession:
            continue
        released.append(session.name)
    _drop(begun, name)
    return tuple(released)


def _listed(name: str) -> Exchange[Sequence[SessionInfo]]:
    """Returns the sessions of the workload, of both directions. Raises BadInput for a name of a part of one."""
    if (part := SessionName.parse(name)).generation is not None:
        raise BadInput(f"session {name!r} is a part of the workload {part.base!r}", hint="name the workload")
    return (yield from sessions.sessions(name))


def _incoming(name: str, listed: Sequence[SessionInfo]) -> Sequence[SessionInfo]:
    """Returns the incoming sessions NAME and NAME#GENERATION, the newest last.

    They are those of NAME's owner, or root's: luod shows root the sessions of all users, and root must not resume from
    another user's session of that name.
    """
    found = []
    for session in listed:
        if session.direction != INCOMING or not session.name.startswith(name):
            continue
        written = SessionName.parse(session.name)
        if written.base == name:
            found.append((-1 if written.generation is None else written.generation, session))
    owner = next((session.owner for generation, session in found if generation < 0), None)
    if owner is not None:
        found = [(generation, session) for generation, session in found if session.owner in (owner, 0)]
    return [session for _generation, session in sorted(found, key=lambda pair: pair[0])]
