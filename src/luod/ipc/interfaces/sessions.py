"""`io.luod.Sessions` as types: the calls of a VMM. `io.luod.Sessions.varlink` is generated from this module.

It converts parameters and replies. `Service` does the work, and `luod.daemon` implements it. One object of `Sessions`
serves one connection, and so knows its peer. `luod.ipc.server.methods` reads the annotations at run time, so this
module does not use `from __future__ import annotations`.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from luod.errors import LuodError
from luod.frozen import frozen
from luod.ipc.errors import InvalidParameter, on_the_wire
from luod.ipc.names import SESSIONS
from luod.ipc.server.methods import Interface, accepted, method
from luod.ipc.server.received import Received
from luod.ipc.types.sessions import Adopted, Description, Direction, GivenUp, MemoryRoom, Outcome, SessionInfo
from luod.linux import Fd
from luod.static import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luod.ipc.server.peer import Peer

    class WorkloadService(Protocol):
        """luod's calls for all sessions of a workload."""

        async def give_up(self, peer: Peer, name: str, direction: Direction | None, force: bool) -> GivenUp: ...

    class FilesService(Protocol):
        """luod's calls for stashed files. The service closes passed fds."""

        async def stash(self, peer: Peer, name: str, files: Sequence[tuple[str, Fd | None]]) -> None:
            """Stashes the files. None stands for a file that is neither memory nor a device."""
            ...

        async def unstash(self, peer: Peer, name: str) -> list[tuple[str, Fd]]: ...
        async def drop_stash(self, peer: Peer, name: str) -> None: ...

    Answers = list[tuple[str, Fd | BaseException]]
    """Sessions by name, each with its fd or the error in place of it."""

    class Service(Protocol):
        """luod's work for a peer. The caller owns returned fds."""

        async def create(self, peer: Peer, name: str, manifest: Fd | None = None) -> Fd: ...
        async def create_many(self, peer: Peer, sessions: Sequence[tuple[str, Fd | None]]) -> Answers: ...
        async def adopt(self, peer: Peer, session: Fd | None) -> Adopted:
            """Holds a duplicate of a session that the peer has. None stands for a file that cannot be a session."""
            ...

        async def retrieve(self, peer: Peer, name: str) -> Fd: ...
        async def retrieve_many(self, peer: Peer, names: Sequence[str]) -> Answers: ...
        async def release(self, peer: Peer, name: str, direction: Direction, outcome: Outcome) -> None: ...
        async def replace(self, peer: Peer, name: str, manifest: Fd | None = None) -> Fd: ...
        async def manifest(self, peer: Peer, name: str, direction: Direction) -> Fd: ...
        async def describe(self, peer: Peer, name: str) -> list[Description]: ...
        async def list(self, peer: Peer, workload: str | None) -> list[SessionInfo]: ...
        async def room(self, peer: Peer) -> MemoryRoom: ...


_MOST: "Final" = 16
"""Sessions of one call: the fds in a message of a client, and some milliseconds of work."""


@frozen
class StashedFile:
    """A memfd or a device, with a name that its owner chooses, 1 to 127 bytes in JSON."""

    name: str
    file_fd: Received


@frozen
class NewSession:
    """A session to create, as by Create."""

    name: str
    manifest_fd: Received | None


@frozen
class Failure:
    """An error that the call for one session would have: its full name and its parameters."""

    error: str
    message: str | None
    hint: str | None
    call: str | None
    errno: int | None
    meaning: str | None


@frozen
class Opened:
    """A session of CreateMany or RetrieveMany: its fd or its failure."""

    name: str
    session_fd: Fd | None
    failure: Failure | None


class Sessions(Interface, name=SESSIONS):
    """Sessions of the Live Update Orchestrator, for programs whose files shall live through a kernel update.

    A session belongs to the user that created it. That user and root may use it. Parameters named ..._fd are indexes
    into the fds of the message. The caller itself preserves, retrieves and finishes with the fd, by ioctl. luod keeps a
    copy, so that the session lives until the kexec even if the caller ends. Every error has a reason (message) and a
    remedy (hint).
    """

    def __init__(self, service: "Service", files: "FilesService", workloads: "WorkloadService", peer: "Peer") -> None:
        self._service = service
        self._files = files
        self._workloads = workloads
        self._peer = peer

    @method("session_fd", completed=True)
    async def Create(self, *, name: str, manifest_fd: Received | None) -> Fd:
        """Creates an outgoing session. luod holds a copy of it before this is answered.

        manifest_fd: the memfd that the caller will preserve as its manifest (docs/manifest.md), of which luod keeps a
        duplicate for Manifest. luod reads it only to check an update of a session without a participant.

        A session NAME#NUMBER is created while update NUMBER freezes, and belongs to the owner of NAME.

        Errors: InvalidName, WrongPhase, SessionExists, Busy, Refused, LiveUpdateBroken, KernelRefused.
        """
        with _borrowed(manifest_fd) as manifest:
            return await self._service.create(self._peer, name, manifest)

    @method("sessions", completed=True)
    async def CreateMany(self, *, sessions: list[NewSession]) -> list[Opened]:
        """Creates up to 16 outgoing sessions, each as by Create.

        There is an answer for each: sessions are of different guests, so one that fails does not affect the others.
        Errors: those of Create are in failure.
        """
        _check_number("sessions", sessions)
        with ExitStack() as borrowed:
            asked = [(each.name, borrowed.enter_context(_borrowed(each.manifest_fd))) for each in sessions]
            return _opened(await self._service.create_many(self._peer, asked))

    @method(completed=True)
    async def Adopt(self, *, session_fd: Received) -> Adopted:
        """Makes luod hold a duplicate of a session that the caller created or retrieved by itself, at /dev/liveupdate.

        When this is answered luod has it, as if it had come from Create or Retrieve: it belongs to the caller's user,
        and lives until the kexec even if the caller ends. Its name and its direction are from the kernel. Names and
        numbers of sessions are limited as in Create; an incoming one counts with the user's other incoming ones.

        It can be repeated: luod holds one duplicate. Whose process created the session is not known to the kernel: the
        fd is the authority. luod cannot tell whether an incoming session without a manifest is finished.

        Errors: NotASession, InvalidName, WrongPhase, SessionExists (of another user), Torn, Resumed, Busy, Refused,
        KernelRefused.
        """
        passed = session_fd.duplicate()
        try:
            adopted = await self._service.adopt(self._peer, passed)
            session_fd.close_here()  # until it is closed, the name is not free after a Release (docs/hazards.md, H9)
            return adopted
        finally:
            if passed is not None:
                passed.close()

    @method("sessions", completed=True)
    async def RetrieveMany(self, *, names: list[str]) -> list[Opened]:
        """Returns up to 16 incoming sessions, each as by Retrieve.

        There is an answer for each, as of CreateMany. Until it is sent only luod has the sessions: if all of luod is
        killed before, they are lost. Errors: those of Retrieve are in failure.
        """
        _check_number("names", names)
        return _opened(await self._service.retrieve_many(self._peer, names))

    @method("session_fd", completed=True)
    async def Retrieve(self, *, name: str) -> Fd:
        """Returns an incoming session: one that the caller's user had at the kexec into this kernel.

        Repeated, by a restarted VMM, it returns the same session, until io.luod.Updates.Resuming.

        Busy, also: the operator carried the session over. Its guest can be restored in the next kernel, and must not
        be started from the beginning in this one. Errors: NoSuchSession, Torn, Resumed, Busy, LiveUpdateBroken,
        KernelRefused.
        """
        return await self._service.retrieve(self._peer, name)

    @method(completed=True)
    async def Release(self, *, name: str, direction: Direction, outcome: Outcome) -> None:
        """Makes luod close its copy. "finished": the caller made the FINISH ioctl, which luod checks. "given_up": the
        files that the session still holds may be lost. An outgoing session can only be given up.

        Errors: NoSuchSession, NotFinished, Busy, KernelRefused.
        """
        await self._service.release(self._peer, name, direction, outcome)

    @method(completed=True)
    async def GiveUp(self, *, name: str, direction: Direction | None, force: bool | None) -> GivenUp:
        """Releases a workload, its sessions NAME and NAME#NUMBER together, as given up.

        Files that only luod has of them are lost. The call is for operators, and for the program that started a VMM
        which is dead. direction: needed if there are sessions of both.

        It is refused while they are in use: a participant answers for them, their guest was resumed, or a process that
        may still run has retrieved one. For root also while a process is seen to have one open. With force they are
        released regardless. open: outgoing sessions that another process still has open, whose files the kernel carries
        as long as that process lives. Errors: NoSuchSession, Refused, Busy, KernelRefused.
        """
        return await self._workloads.give_up(self._peer, name, direction, bool(force))

    @method("session_fd", completed=True)
    async def Replace(self, *, name: str, manifest_fd: Received | None) -> Fd:
        """Replaces an outgoing session by a new, empty one.

        The caller closes its own copies first, and preserves again after. manifest_fd as of Create.

        SessionExists: a copy is still open; luod has closed its own, the session is listed as "dropped", and this can
        be repeated. Errors: NoSuchSession, SessionExists, Busy, KernelRefused.
        """
        with _borrowed(manifest_fd) as manifest:
            return await self._service.replace(self._peer, name, manifest)

    @method("manifest_fd")
    async def Manifest(self, *, name: str, direction: Direction | None) -> Fd:
        """Returns the present manifest of a session, outgoing unless direction says otherwise: a memfd of the session's
        maker.

        It lists the files in the first part of a manifest (docs/manifest.md).

        Nothing is changed: the caller does not become the holder of the session, and a session that waits in the kernel
        stays there (NoManifest). Errors: NoSuchSession, NoManifest, Busy, Refused, KernelRefused.
        """
        return await self._service.manifest(self._peer, name, direction or "outgoing")

    @method("sessions")
    async def Describe(self, *, name: str) -> list[Description]:
        """Returns luod's facts about the sessions of a workload, or of the session NAME#NUMBER.

        The sessions of a workload are NAME and NAME#NUMBER, outgoing and incoming. Nothing is retrieved or changed.
        Errors: NoSuchSession.
        """
        return await self._service.describe(self._peer, name)

    @method(completed=True)
    async def Stash(self, *, name: str, files: list[StashedFile]) -> None:
        """Has luod hold files, up to 16 at a time, over a restart of a program in this kernel: memfds and devices.

        When this is answered luod has them, and the caller may close its own. They are for the caller's user alone, and
        no kernel carries them: an update is refused while there are any.

        Errors: InvalidName, AlreadyStashed, Busy (an update is under way), Refused (too many; no memory and no device),
        KernelRefused.
        """
        await self._files.stash(self._peer, name, [(file.name, file.file_fd.duplicate()) for file in files])

    @method("files")
    async def Unstash(self, *, name: str) -> list[StashedFile]:
        """Returns the files of this name. luod holds them until DropStash, so that a program that dies right after this
        gets them again. Errors: NotStashed.
        """
        taken = await self._files.unstash(self._peer, name)
        return [StashedFile(label, Received(fd, Fd.close)) for label, fd in taken]

    @method(completed=True)
    async def DropStash(self, *, name: str) -> None:
        """Makes luod close its files of this name. Errors: NotStashed."""
        await self._files.drop_stash(self._peer, name)

    @method()
    async def Room(self) -> MemoryRoom:
        """Returns the memory that the calling process can still use, for one that cannot read its own limits.

        Such a process is in a chroot without /proc. A RETRIEVE_FD that runs out of memory frees the file for good.

        chargeable: the tightest limit for RETRIEVE_FD; null without a limit. free: the tightest for new memory, which
        PRESERVE_FD of a file with holes needs. unknown: the part of the caller's limits that luod cannot read; null: no
        part. With it, the true limits may be tighter. The process is the one that made the connection. It has no errors
        of its own.
        """
        return await self._service.room(self._peer)

    @method("sessions")
    async def List(self, *, workload: str | None) -> list[SessionInfo]:
        """Returns the sessions of the caller's user, in the order of their names; for root those of all users.

        workload: only its sessions NAME and NAME#NUMBER.

        held: outgoing, luod has a copy. dropped: outgoing, luod has no copy, since a Replace, or luod, ended. waiting:
        incoming, still in the kernel. retrieved: incoming, given to its owner. torn: incoming, no guest may be resumed
        from it, so not handed out. resumed: incoming, its guest runs, so not handed out again. lost: incoming, and this
        kernel could not take it over (LiveUpdateBroken); it can be released, as given up. discarding: incoming, the
        reaper works on it. stuck: incoming, the reaper failed; it can be released, too. carrying_over: incoming, luod
        preserves its files again for the next kexec.
        """
        return await self._service.list(self._peer, workload)


def _check_number(parameter: str, given: "Sequence[object]") -> None:
    """Raises InvalidParameter: there are too many."""
    if len(given) > _MOST:
        raise InvalidParameter(parameter=parameter)


def _opened(found: "Answers") -> list[Opened]:
    """Returns the answers. Raises an error that the interface does not declare, which is a defect of luod."""
    try:
        return [Opened(name, each if isinstance(each, Fd) else None, _failure(each)) for name, each in found]
    except BaseException:
        for _name, each in found:
            if isinstance(each, Fd):
                each.close()
        raise


def _failure(found: Fd | BaseException) -> Failure | None:
    if isinstance(found, Fd):
        return None
    named = on_the_wire(found, SESSIONS) if isinstance(found, LuodError) else None
    if named is None:
        raise found
    name, parameters = named
    return Failure(name, *(parameters.get(member) for member in ("message", "hint", "call", "errno", "meaning")))


@contextmanager
def _borrowed(passed: Received | None) -> Iterator[Fd | None]:
    """Yields a duplicate for the duration of the call, also if work that it began continues after it."""
    copy = None if passed is None else accepted(passed, "manifest_fd")
    try:
        yield copy
    finally:
        if copy is not None:
            copy.close()
