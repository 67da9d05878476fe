"""`io.luod.Sessions` as types: what a VMM asks luod for. `io.luod.Sessions.varlink` is generated from this module.

Parameters are converted and replies shaped here; what is done is `Service`, which `luod.daemon` implements. One object
of `Sessions` serves one connection, and so knows its peer. The annotations are read at run time by asyncvarlink, so
this module does without `from __future__ import annotations`.
"""

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from asyncvarlink import AnnotatedResult, FileDescriptor, VarlinkInterface, varlinkmethod
from asyncvarlink.serviceinterface import InvalidParameter

from luod.ipc.errors import NoManifest
from luod.ipc.interfaces.declared import answer, declared, members
from luod.ipc.names import SESSIONS
from luod.ipc.server.peer import Peer
from luod.ipc.types.sessions import Description, Direction, GivenUp, MemoryRoom, Outcome, SessionInfo
from luod.linux import Fd


@dataclass(frozen=True)
class StashedFile:
    """A memfd or a device, with a name that is its owner's own, 1 to 127 bytes in JSON."""

    name: str
    file_fd: FileDescriptor


class WorkloadService(Protocol):
    """What luod does with all sessions of a workload."""

    async def give_up(self, peer: Peer, name: str, direction: Direction | None, force: bool) -> GivenUp: ...


class FilesService(Protocol):
    """What luod does with files that are handed over. Fds that are passed in are the service's to close."""

    async def stash(self, peer: Peer, name: str, files: Sequence[tuple[str, Fd | None]]) -> None:
        """None stands for a file that is neither memory nor a device."""
        ...

    async def unstash(self, peer: Peer, name: str) -> list[tuple[str, Fd]]: ...
    async def drop_stash(self, peer: Peer, name: str) -> None: ...


class Service(Protocol):
    """What luod does for a peer. Fds that are returned belong to the caller."""

    async def create(self, peer: Peer, name: str, manifest: Fd | None = None) -> Fd: ...
    async def retrieve(self, peer: Peer, name: str) -> Fd: ...
    async def release(self, peer: Peer, name: str, direction: Direction, outcome: Outcome) -> None: ...
    async def replace(self, peer: Peer, name: str, manifest: Fd | None = None) -> Fd: ...
    async def manifest(self, peer: Peer, name: str, direction: Direction) -> Fd | None: ...
    async def describe(self, peer: Peer, name: str) -> list[Description]: ...
    async def list(self, peer: Peer) -> list[SessionInfo]: ...
    async def room(self, peer: Peer) -> MemoryRoom: ...


class Sessions(VarlinkInterface, name=SESSIONS):
    """Sessions of the Live Update Orchestrator, for programs that want files of theirs to live through a kernel update.

    A session belongs to the user that created it; that user and root may use it. Parameters named ..._fd
    are indexes into the fds that come with the message. The caller preserves, retrieves and finishes with the fd
    itself, by ioctl; luod keeps a copy, so that the session lives until the jump whatever becomes of the caller.
    Every error says what was wrong (message) and what to do (hint).
    """

    errors = declared(SESSIONS)

    def __init__(self, service: Service, files: FilesService, workloads: WorkloadService, peer: Peer) -> None:
        self._service = service
        self._files = files
        self._workloads = workloads
        self._peer = peer

    @varlinkmethod(return_parameter="session_fd")
    async def Create(self, *, name: str, manifest_fd: FileDescriptor | None) -> FileDescriptor:
        """Creates an outgoing session. luod holds a copy of it before this is answered.

        manifest_fd: the memfd that the caller will preserve as its manifest (docs/manifest.md), of which
        luod keeps a duplicate for Manifest. luod does not read it.

        A session NAME#NUMBER is created while update NUMBER freezes, and belongs to the owner of NAME.

        Errors: InvalidName, WrongPhase, SessionExists, Busy, Refused, LiveUpdateBroken, KernelRefused.
        """
        with _borrowed(manifest_fd) as manifest:
            return _passed(await self._service.create(self._peer, name, manifest))

    @varlinkmethod(return_parameter="session_fd")
    async def Retrieve(self, *, name: str) -> FileDescriptor:
        """Gives an incoming session: one that the caller's user had when the machine jumped into this kernel.

        Asked again, by a VMM that was restarted, it gives the same session again, until io.luod.Updates.Resuming.
        Errors: NoSuchSession, Torn, Resumed, Busy, LiveUpdateBroken, KernelRefused.
        """
        return _passed(await self._service.retrieve(self._peer, name))

    @varlinkmethod
    async def Release(self, *, name: str, direction: Direction, outcome: Outcome) -> None:
        """Makes luod drop its copy. "finished": the caller made the FINISH ioctl, which luod checks. "given_up": what
        the session still holds may be lost. An outgoing session can only be given up.

        Errors: NoSuchSession, NotFinished, Busy, KernelRefused.
        """
        await self._service.release(self._peer, name, direction, outcome)

    @varlinkmethod(return_type=members(GivenUp))
    async def GiveUp(self, *, name: str, direction: Direction | None, force: bool | None) -> AnnotatedResult:
        """Releases a workload, its sessions NAME and NAME#NUMBER together, as given up: what only luod has of them is
        lost. For operators, and for whoever started a VMM that is dead. direction: needed where there are both.

        Refused while they are in use: a participant answers for them, their guest was resumed, or a process that may
        live has retrieved one. For root also while a process is seen to have one open. With force they are released
        regardless. open: outgoing sessions that another process still has open, whose files the kernel carries on for
        as long as that process lives. Errors: NoSuchSession, Refused, Busy, KernelRefused.
        """
        return answer(await self._workloads.give_up(self._peer, name, direction, bool(force)))

    @varlinkmethod(return_parameter="session_fd")
    async def Replace(self, *, name: str, manifest_fd: FileDescriptor | None) -> FileDescriptor:
        """Creates an outgoing session anew, empty. The caller closes its own copies first, and preserves again after.
        manifest_fd as of Create.

        SessionExists: a copy is still open; luod has dropped its own, the session is listed as "dropped", and this
        can be called again. Errors: NoSuchSession, SessionExists, Busy, KernelRefused.
        """
        with _borrowed(manifest_fd) as manifest:
            return _passed(await self._service.replace(self._peer, name, manifest))

    @varlinkmethod(return_parameter="manifest_fd")
    async def Manifest(self, *, name: str, direction: Direction | None) -> FileDescriptor:
        """The manifest of a session, outgoing unless direction says otherwise, as it is while the session goes on: a
        memfd, which is the maker's word. It lists what the first part of a manifest does (docs/manifest.md).

        Nothing is changed: the caller does not become the one that has the session, and a session that waits in the
        kernel stays there (NoManifest). Errors: NoSuchSession, NoManifest, Busy, Refused, KernelRefused.
        """
        manifest = await self._service.manifest(self._peer, name, direction or "outgoing")
        if manifest is None:
            raise NoManifest(
                name=name,
                message=f"luod was given no manifest of session {name!r}",
                hint="its maker wrote none, or luod was started again since; the session is carried as any other",
            )
        return _passed(manifest)

    @varlinkmethod(return_parameter="sessions")
    async def Describe(self, *, name: str) -> list[Description]:
        """What luod knows of the sessions of a workload, NAME and NAME#NUMBER, outgoing and incoming, or of the session
        NAME#NUMBER; nothing is retrieved or changed. Errors: NoSuchSession.
        """
        return await self._service.describe(self._peer, name)

    @varlinkmethod
    async def Stash(self, *, name: str, files: list[StashedFile]) -> None:
        """Has luod hold files, up to 16 at a time, for a program that ends and is started again in this kernel: memfds
        and devices. When this is answered luod has them, and the caller may close its own. They are for the caller's
        user alone, and no kernel carries them on: an update is refused while there are any.

        Errors: InvalidName, AlreadyStashed, Busy (an update is under way), Refused (too many; no memory and no device),
        KernelRefused.
        """
        await self._files.stash(self._peer, name, [(f.name, _copy(f.file_fd) if f.file_fd else None) for f in files])

    @varlinkmethod(return_parameter="files")
    async def Unstash(self, *, name: str) -> list[StashedFile]:
        """Gives the files of this name. luod holds on to them until DropStash, so that a program that dies right after
        this gets them again. Errors: NotStashed.
        """
        taken = await self._files.unstash(self._peer, name)
        return [StashedFile(label, _passed(fd)) for label, fd in taken]

    @varlinkmethod
    async def DropStash(self, *, name: str) -> None:
        """Makes luod close its files of this name. Errors: NotStashed."""
        await self._files.drop_stash(self._peer, name)

    @varlinkmethod(return_type=members(MemoryRoom))
    async def Room(self) -> AnnotatedResult:
        """How much memory the calling process can still take, for one that cannot read its own limits, as in a chroot
        without /proc: a RETRIEVE_FD that runs out of memory frees the file for good.

        chargeable: the tightest limit for RETRIEVE_FD; null: there is none. free: the tightest for new memory, which
        PRESERVE_FD of a file with holes takes. unknown: what luod cannot read of the caller's limits; null: nothing.
        With it, the true limits may be tighter. The process is the one that made the connection. Errors: none.
        """
        return answer(await self._service.room(self._peer))

    @varlinkmethod(return_parameter="sessions")
    async def List(self) -> list[SessionInfo]:
        """The sessions of the caller's user, in the order of their names; root is shown all.

        held: outgoing, luod has a copy. dropped: outgoing, luod has none, since a Replace, or luod, ended. waiting:
        incoming, still in the kernel. retrieved: incoming, given to its owner. torn: incoming, not to be resumed from,
        so not handed out. resumed: incoming, its guest runs, so not handed out again. lost: incoming, and this kernel
        could not take it over (LiveUpdateBroken); it can be released, as given up. discarding: incoming, the reaper
        works on it. stuck: incoming, the reaper failed; it can be released, too. carrying_over: incoming, luod
        preserves its files again for the next kexec.
        """
        return await self._service.list(self._peer)


def _passed(fd: Fd) -> FileDescriptor:
    """The fd in the library's wrapping, which closes it when the reply is sent."""
    return FileDescriptor(fd.detach(), should_close=True)


def _copy(passed: FileDescriptor) -> Fd:
    """A duplicate: the library closes what was passed after the call."""
    return Fd(fcntl.fcntl(passed.fileno(), fcntl.F_DUPFD_CLOEXEC, 0))


@contextmanager
def _borrowed(passed: FileDescriptor | None) -> Iterator[Fd | None]:
    """A duplicate for as long as the call lasts, also when what it began goes on behind it."""
    if passed is not None and not passed:
        raise InvalidParameter(parameter="manifest_fd")  # a file of a kind that luod does not receive
    copy = None if passed is None else _copy(passed)
    try:
        yield copy
    finally:
        if copy is not None:
            copy.close()
