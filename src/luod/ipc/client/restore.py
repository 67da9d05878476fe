"""A workload in the next kernel, step by step and without I/O: its two sessions back, `resuming`, and their end.

Exchanges like those of `luod.ipc.client.sessions`, run by `luod.client` and `luod.aio`, which document them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from luod.errors import AlreadyResumed, BadInput, CallFailed, NoSuchSession
from luod.ipc.client import sessions
from luod.ipc.client.sessions import INCOMING, Call, Exchange, SessionInfo
from luod.ipc.framing import UPDATES
from luod.linux import Fd
from luod.liveupdate import IncomingSession


@dataclass(frozen=True)
class Arrival:
    """What came over the jump of one workload. Owns its sessions; closing it leaves them with luod.

    `running` is the session NAME, what was preserved while the guest ran. `frozen` is NAME#GENERATION, written while
    it was frozen, by the update that jumped; None: there was none.
    """

    name: str
    running: IncomingSession
    frozen: IncomingSession | None = None

    @property
    def sessions(self) -> tuple[IncomingSession, ...]:
        return (self.running,) if self.frozen is None else (self.frozen, self.running)

    @property
    def generation(self) -> int | None:
        """Of the update that jumped; None: no session was written while frozen."""
        return None if self.frozen is None else int(self.frozen.name.rpartition("#")[2])

    def retrieve(self, name: str, *, check_memory: bool = True) -> Fd:
        """The file that has this name in a manifest of either, the frozen one first: see IncomingSession.retrieve.

        BadInput: there is none of this name.
        """
        for session in self.sessions:
            if any(entry.name == name for entry in session.contents or ()):
                return session.retrieve(name, check_memory=check_memory)
        raise BadInput(f"no manifest of {self.name!r} names a file {name!r}", hint="see `contents` of its sessions")

    def close(self) -> None:
        """Closes the fds of both sessions. Unless they are finished, the next to ask luod gets them again."""
        for session in self.sessions:
            session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def arrive(name: str, begun: dict[str, IncomingSession], path: str) -> Exchange[Arrival]:
    """`begun` are sessions by name of which the workload's other one could not be had. It keeps them: should luod be
    gone, they may be the last fds of theirs, and closing one would lose what it carries.
    """
    found = yield from _of_workload(name)
    had = any(session.name == name and session.state == "retrieved" for session in found)
    running = begun.pop(name, None) if had else None
    if running is None:
        running = yield from sessions.retrieve(name, path)
    try:
        written = [session for session in found if session.name != name and session.state != "torn"]
        frozen = (yield from sessions.retrieve(written[-1].name, path)) if written else None
    except BaseException:
        _keep(begun, name, running)
        raise
    _drop(begun, name)
    return Arrival(name, running, frozen)


def _keep(begun: dict[str, IncomingSession], name: str, session: IncomingSession) -> None:
    _drop(begun, name)
    begun[name] = session


def _drop(begun: dict[str, IncomingSession], name: str) -> None:
    """Closes what is kept, once it is had otherwise, or given up."""
    if (kept := begun.pop(name, None)) is not None:
        kept.close()


def resuming(arrived: Arrival) -> Exchange[None]:
    try:
        yield Call("Resuming", {"names": [arrived.name]}, UPDATES)
    except CallFailed as error:
        if error.name != f"{UPDATES}.WrongPhase":
            raise
        raise AlreadyResumed(error.message) from error


def finish_any(arrived: IncomingSession | Arrival, *, discard: bool, tokens: Iterable[int] | None) -> Exchange[None]:
    if isinstance(arrived, IncomingSession):
        yield from sessions.finish(arrived, discard=discard, tokens=tokens)
        return
    if tokens is not None:
        raise BadInput("tokens are those of one session", hint="finish the sessions of the arrival one by one")
    # Refused before anything is finished, since half a workload is none.
    for session in arrived.sessions:
        if not discard and not session.finished:
            sessions.refuse_losses(session)
    for session in arrived.sessions:
        yield from sessions.finish(session, discard=discard, tokens=None)


def give_up(name: str, begun: dict[str, IncomingSession]) -> Exchange[tuple[str, ...]]:
    found = yield from _of_workload(name)
    for session in found:
        try:
            yield from sessions.release(session, finished=False)
        except NoSuchSession:
            continue
    _drop(begun, name)
    return tuple(session.name for session in found)


def _of_workload(name: str) -> Exchange[Sequence[SessionInfo]]:
    """The incoming sessions NAME and NAME#GENERATION, the newest last.

    Those of NAME's owner, or root's: root is shown everybody's, and must not resume from what somebody else has named
    so.
    """
    listed = yield from sessions.sessions()
    found = []
    for session in listed:
        base, _, generation = session.name.rpartition("#")
        if session.direction == INCOMING and session.name == name:
            found.append((-1, session))
        elif session.direction == INCOMING and base == name and generation.isdecimal():
            found.append((int(generation), session))
    owner = next((session.owner for generation, session in found if generation < 0), None)
    if owner is not None:
        found = [(generation, session) for generation, session in found if session.owner in (owner, 0)]
    return [session for _generation, session in sorted(found, key=lambda pair: pair[0])]
