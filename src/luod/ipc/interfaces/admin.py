"""`io.luod.Admin` as types: what an operator asks luod for. `io.luod.Admin.varlink` is generated from this module.

Like `luod.ipc.interfaces.sessions`, only that it is served on the admin socket, which is root's, and to those whom the
policy lets update; they get PermissionDenied of what is root's alone.
"""

import fcntl
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Protocol

from asyncvarlink import AnnotatedResult, FileDescriptor, VarlinkInterface, varlinkmethod
from asyncvarlink.serviceinterface import InvalidParameter, PermissionDenied

from luod.ipc.interfaces.declared import answer, declared, members
from luod.ipc.names import ADMIN
from luod.ipc.server.peer import Peer
from luod.ipc.types import admin as types
from luod.ipc.types.admin import Checked, Progress, UpdateTimes, Wishes
from luod.linux import Fd


class Service(Protocol):
    """What luod does for root. Fds in parameters belong to the service, those it does not keep it closes."""

    async def status(self) -> types.Status: ...
    async def load_kernel(
        self, kernel: Fd, initrd: Fd | None, command_line: str, ignore_findings: list[str]
    ) -> None: ...
    async def check(
        self, kernel: Fd | None, initrd: Fd | None, command_line: str | None, wishes: Wishes
    ) -> Checked: ...
    def update(self, peer: Peer, wishes: Wishes) -> AsyncGenerator[Progress, None]: ...
    async def abort(self, peer: Peer) -> None: ...
    async def discard(self, peer: Peer, name: str, force: bool) -> str: ...
    async def timeline(self) -> UpdateTimes | None: ...
    async def carry_over(self, peer: Peer, name: str) -> str: ...
    async def stop(self, peer: Peer, drop: bool) -> list[str]: ...


class Admin(VarlinkInterface, name=ADMIN):
    """The operator's side of luod: load the next kernel, then jump into it with every session kept."""

    errors = declared(ADMIN)

    def __init__(self, service: Service, peer: Peer, may_update: Callable[[], bool] = lambda: False) -> None:
        """`may_update` is asked at each call, of a peer that is not root."""
        self._service = service
        self._peer = peer
        self._may_update = may_update

    def _permit(self, *, root_only: bool = False) -> None:
        if not self._peer.root and (root_only or not self._may_update()):
            raise PermissionDenied()

    @varlinkmethod(return_type=members(types.Status))
    async def Status(self) -> AnnotatedResult:
        """version: of luod. state: idle, preparing, freezing, jumping, or restoring, which is idle with incoming
        sessions; broken: no session works in this kernel (io.luod.Sessions.LiveUpdateBroken). boot: live updates luod
        has seen, plus one. kernel_loaded, command_line: what was loaded through luod. sessions: outgoing ones. waiting,
        retrieved (and resumed), torn: incoming ones, by state; an update waits for them to be finished. participants:
        who follows now. held_files: handed over, and lost to an update. generation: updates that were begun. stuck:
        sessions whose reaper failed. restore_seconds_left: until what nobody claimed is reaped; null: never.
        policy_file: null where there is none. policy_error: what is wrong with it, so that an older one is in force.
        state_directory: what is wrong with it; an update is refused meanwhile. registry: copies of it that luod did not
        go by when it began: of another machine, boot or format, or damaged.
        """
        self._permit()
        return answer(await self._service.status())

    @varlinkmethod
    async def LoadKernel(
        self,
        *,
        kernel_fd: FileDescriptor,
        initrd_fd: FileDescriptor | None,
        command_line: str,
        ignore_findings: list[str] | None,
    ) -> None:
        """Loads a kernel image, and an initial RAM disk, with kexec_file_load. luod keeps the files, and loads them
        again right before the jump. An initial RAM disk that no kernel can use is refused, unless ignore_findings has
        initrd-unusable. Root's alone.

        Errors: NotAKernelImage, UpdateRunning, Refused, KernelRefused.
        """
        self._permit(root_only=True)
        kernel = _copy(kernel_fd, "kernel_fd")
        try:
            initrd = None if initrd_fd is None else _copy(initrd_fd, "initrd_fd")
        except (OSError, InvalidParameter):
            kernel.close()
            raise
        await self._service.load_kernel(kernel, initrd, command_line, ignore_findings or [])

    @varlinkmethod(return_type=members(Checked))
    async def Check(
        self,
        *,
        kernel_fd: FileDescriptor | None,
        initrd_fd: FileDescriptor | None,
        command_line: str | None,
        skip_unready: bool | None,
        ignore_findings: list[str] | None,
    ) -> AnnotatedResult:
        """Says what an update into a kernel would lose, or may. Nothing is changed and nobody is asked. Without a
        kernel it is about the one that was loaded. release: the next kernel's.

        findings: each has a stable name; severity "refusal" (Update refuses, unless it is ignored by that name) or
        "warning"; what was found; why it matters; the remedy. refused: whether there is a refusal that is not ignored:
        skip_unready, ignore_findings are those an Update would be called with. To give a kernel is root's alone.

        Errors: NotLoaded, UpdateRunning, Refused (ignore_findings names one that there is not).
        """
        self._permit(root_only=kernel_fd is not None or initrd_fd is not None)
        kernel = None if kernel_fd is None else _copy(kernel_fd, "kernel_fd")
        try:
            initrd = None if initrd_fd is None else _copy(initrd_fd, "initrd_fd")
        except (OSError, InvalidParameter):
            if kernel is not None:
                kernel.close()
            raise
        wishes = Wishes(skip_unready=bool(skip_unready), ignore_findings=tuple(ignore_findings or ()))
        return answer(await self._service.check(kernel, initrd, command_line, wishes))

    @varlinkmethod(return_type=members(Progress))
    async def Update(
        self,
        *,
        deadline: float | None,
        skip_unready: bool | None,
        dry_run: bool | None,
        ignore_findings: list[str] | None,
    ) -> AsyncIterator[AnnotatedResult]:
        """Jumps into the loaded kernel, with everybody that follows (io.luod.Updates) being ready. Call it with "more".

        Each change is a reply. participants: those of whom something is new, all in the first reply. torn: the sessions
        that will be lost to the next kernel's guests, as far as known. seconds_left: until the phase's deadline. After
        the reply "jumping" the connection ends with the machine. "cancelled", with a reason, is the last reply:
        everybody resumes, nothing is lost, and a later update works. An error comes before anybody is asked. Closing
        the connection before "jumping" cancels.

        deadline: the time for each phase; time for the bytes to preserve is added. skip_unready: the update goes on
        without participants that are late, have ended, or have no memory for PRESERVE, and without sessions that no
        participant answers for. Their sessions are torn. A veto still cancels. Root only, as is ignore_findings.
        dry_run: no participant is asked and nothing is changed; the only reply is "checked". findings, in the first
        reply: the findings of Check. A refusal whose name is not in ignore_findings ends the update with the error
        Refused.

        Errors: NotLoaded, UpdateRunning, Refused, NotAKernelImage, KernelRefused.
        """
        self._permit(root_only=bool(skip_unready or ignore_findings))
        wishes = Wishes(deadline, bool(skip_unready), bool(dry_run), tuple(ignore_findings or ()))
        async with aclosing(self._service.update(self._peer, wishes)) as replies:
            async for progress in replies:
                last = progress.state in ("checked", "cancelled")
                yield answer(progress, continues=not last)
                if last:
                    return

    @varlinkmethod
    async def Abort(self) -> None:
        """Cancels the update that is under way. Answered when everybody has been told to resume.

        Errors: NoUpdate, TooLate.
        """
        self._permit()
        await self._service.abort(self._peer)

    @varlinkmethod(return_parameter="report")
    async def Discard(self, *, name: str, force: bool | None) -> str:
        """Has the incoming sessions NAME and NAME#NUMBER of a workload cleaned up by the reaper, and answers what that
        reported. From its begin on nothing can be resumed from them. Root's alone. force: also when a process that may
        live has one of them.

        Errors: DiscardFailed, Refused, io.luod.Sessions.NoSuchSession, io.luod.Sessions.Busy.
        """
        self._permit(root_only=True)
        return await self._service.discard(self._peer, name, bool(force))

    @varlinkmethod(return_parameter="timeline")
    async def Timeline(self) -> UpdateTimes | None:
        """The update that is under way, or the last one: when each session was in which phase, in seconds since it was
        asked for, through the kexec; null where there was no update yet.
        """
        self._permit()
        return await self._service.timeline()

    @varlinkmethod(return_parameter="report")
    async def CarryOver(self, *, name: str) -> str:
        """Makes the incoming sessions NAME and NAME#NUMBER of a workload that nobody claimed outgoing ones: the same
        files under the same tokens and names, for the next kernel. The owner is who it was, and can retrieve them there
        and not here. Root's alone.

        Errors: NotCarriedOver, CarryOverFailed, Refused (somebody has
        it), io.luod.Sessions.SessionExists, io.luod.Sessions.NoSuchSession, io.luod.Sessions.Busy.
        """
        self._permit(root_only=True)
        return await self._service.carry_over(self._peer, name)

    @varlinkmethod(return_parameter="lost")
    async def Stop(self, *, drop: bool | None) -> list[str]:
        """Ends luod, both processes, right after the answer. Refused while only luod has sessions or files open, since
        they are lost with it; with drop it ends regardless. lost: what is, for people. Root's alone.

        Errors: Refused, UpdateRunning.
        """
        self._permit(root_only=True)
        return await self._service.stop(self._peer, bool(drop))


def _copy(passed: FileDescriptor, parameter: str) -> Fd:
    """A duplicate: two parameters may point to one fd, and the library closes it after the call."""
    if not passed:
        raise InvalidParameter(parameter=parameter)  # neither a regular file nor memory, so luod did not receive it
    return Fd(fcntl.fcntl(passed.fileno(), fcntl.F_DUPFD_CLOEXEC, 0))
