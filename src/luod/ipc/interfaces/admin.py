"""`io.luod.Admin` as types: the operator's calls. `io.luod.Admin.varlink` is generated from this module.

It is like `luod.ipc.interfaces.sessions`. It is served on the admin socket of root, and to users that the policy allows
to update; for calls that only root may make they get PermissionDenied.
"""

from collections.abc import AsyncIterator
from contextlib import aclosing

from luod.ipc.errors import PermissionDenied
from luod.ipc.names import ADMIN
from luod.ipc.server.methods import Interface, Last, accepted, method
from luod.ipc.server.received import Received
from luod.ipc.types import admin as types
from luod.ipc.types.admin import Checked, Progress, UpdateTimes, Wishes
from luod.ipc.types.phases import Way
from luod.linux import Fd
from luod.static import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from luod.ipc.server.peer import Peer

    class Service(Protocol):
        """luod's work for root. Fds in parameters belong to the service, which closes those it does not keep."""

        async def status(self) -> types.Status: ...
        async def load_kernel(
            self, kernel: Fd, initrd: Fd | None, command_line: str, ignore_findings: list[str]
        ) -> bool: ...
        async def unload_kernel(self) -> bool: ...
        async def check(
            self, kernel: Fd | None, initrd: Fd | None, command_line: str | None, wishes: Wishes
        ) -> Checked: ...
        def update(self, peer: Peer, wishes: Wishes) -> AsyncGenerator[Progress, None]: ...
        async def abort(self, peer: Peer) -> None: ...
        async def discard(self, peer: Peer, name: str, force: bool) -> str: ...
        async def timeline(self) -> UpdateTimes | None: ...
        async def carry_over(self, peer: Peer, name: str) -> str: ...
        async def stop(self, peer: Peer, drop: bool) -> list[str]: ...


class Admin(Interface, name=ADMIN):
    """The operator's side of luod: load the next kernel, then kexec into it with every session preserved."""

    def __init__(self, service: "Service", peer: "Peer", may_update: "Callable[[], bool]" = lambda: False) -> None:
        """`may_update` returns whether a peer that is not root may update. It runs at each call."""
        self._service = service
        self._peer = peer
        self._may_update = may_update

    def _permit(self, *, root_only: bool = False) -> None:
        if not self._peer.root and (root_only or not self._may_update()):
            raise PermissionDenied()

    @method()
    async def Status(self) -> types.Status:
        """Returns the state of luod.

        version: of luod. state: idle, preparing, freezing, jumping, or restoring, which is idle with incoming sessions;
        broken: no session works in this kernel (io.luod.Sessions.LiveUpdateBroken). boot: live updates that luod has
        seen, plus one. kernel_loaded, command_line: of the image that was loaded through luod. sessions: outgoing ones.
        waiting, retrieved (and resumed), torn: incoming ones, by state; an update waits until they are finished.
        participants: those that follow now. held_files: stashed files, which an update would lose. generation: updates
        that were begun. stuck: sessions whose reaper failed. restore_seconds_left: until unclaimed sessions are
        discarded; null: never. policy_file: null without one. policy_error: the mistake in it, so that an older one is
        in force. state_directory: its problem; an update is refused meanwhile. registry: copies of it that luod did not
        use at its start: of another machine, boot or format, or damaged. fd_store: of which files PID 1 may have no
        copy, so that they would be lost if every process of luod ended; luod tries again, and answers clients. undo:
        what a cancelled update has left on the host: its image, or a unit (`path`) that does not start again; luod
        tries again. way: that of an update that names no other. shutdown_lock: `held`, or the reason why luod does not
        inhibit a shutdown while it holds outgoing sessions; null: there is nothing to protect, or no systemd.
        outgoing_bytes, incoming_bytes: that participants declared for such sessions, which keep that much memory.
        """
        self._permit()
        return await self._service.status()

    @method("changed")
    async def LoadKernel(
        self,
        *,
        kernel_fd: Received,
        initrd_fd: Received | None,
        command_line: str,
        ignore_findings: list[str] | None,
    ) -> bool:
        """Loads a kernel image, and an initial RAM disk, with kexec_file_load.

        luod keeps the files, and loads them again right before the kexec. changed: false if the same files and command
        line are loaded already: then nothing is done. An initial RAM disk that no kernel can use is
        refused, unless ignore_findings has initrd-unusable. Only root may call this.

        Errors: NotAKernelImage, UpdateRunning, Refused, KernelRefused.
        """
        self._permit(root_only=True)
        kernel, initrd = _image(kernel_fd, initrd_fd)
        assert kernel is not None
        return await self._service.load_kernel(kernel, initrd, command_line, ignore_findings or [])

    @method("changed")
    async def UnloadKernel(self) -> bool:
        """Unloads the next kernel, and forgets its files. changed: false if none was loaded. Only root may call this.

        Errors: UpdateRunning, KernelRefused.
        """
        self._permit(root_only=True)
        return await self._service.unload_kernel()

    @method()
    async def Check(
        self,
        *,
        kernel_fd: Received | None,
        initrd_fd: Received | None,
        command_line: str | None,
        skip_unready: bool | None,
        ignore_findings: list[str] | None,
        way: Way | None,
    ) -> Checked:
        """Returns what an update into a kernel would lose, or may lose. Nothing is changed and no participant is asked.

        Without a kernel it is about the loaded one. release: the next kernel's; running: this one's. current: the next
        one has the build id of the running kernel, and is to get the same command line. sessions: those that would be
        carried. participants: those that would be asked, with the bytes that they declared. torn: the sessions for
        which no participant answers. blackout: of the last updates that were done, null without any.

        findings: each has a stable name; severity "refusal" (Update refuses, unless it is ignored by that name) or
        "warning"; the finding; its effect; the remedy. refused: whether there is a refusal that is not ignored.
        skip_unready, ignore_findings and way are those of the intended Update. Only root may give a kernel.

        Errors: NotLoaded, UpdateRunning, Refused (ignore_findings has an unknown name, or the way is not there).
        """
        self._permit(root_only=kernel_fd is not None or initrd_fd is not None)
        kernel, initrd = _image(kernel_fd, initrd_fd)
        wishes = Wishes(skip_unready=bool(skip_unready), ignore_findings=tuple(ignore_findings or ()), way=way)
        return await self._service.check(kernel, initrd, command_line, wishes)

    @method()
    async def Update(
        self,
        *,
        deadline: float | None,
        skip_unready: bool | None,
        dry_run: bool | None,
        ignore_findings: list[str] | None,
        way: Way | None,
        detach: bool | None,
    ) -> AsyncIterator[Progress | Last]:
        """Starts the loaded kernel, after every participant (io.luod.Updates) is ready. Call it with "more".

        Each change is a reply. participants: those with news, all in the first reply. torn: the sessions that will be
        lost for the next kernel's guests, as far as known. seconds_left: until the phase's deadline. After the reply
        "jumping" the connection ends with the machine. "cancelled", with a reason, is the last reply: every guest
        resumes, nothing is lost, and a later update works. An error comes before any participant is asked. Closing the
        connection before "jumping" cancels.

        deadline: the time for each phase in seconds; time for the bytes to preserve is added. skip_unready: the update
        continues without participants that are late, have ended, or have no memory for PRESERVE, and without sessions
        for which no participant answers. Their sessions are torn. A veto still cancels. Only root may set it, and
        ignore_findings. dry_run: no participant is asked and nothing is changed; the only reply is "checked". findings,
        in the first reply: the findings of Check. A refusal whose name is not in ignore_findings ends the update with
        the error Refused. way: direct, luod calls reboot(2); systemd, luod has systemd stop all other units while
        guests run, and then start the kernel by `systemctl kexec`; null: what the policy says, or direct. Each reply
        has the way. If systemd did not boot this machine, systemd is Refused. detach: once every participant is ready
        in preparing, "prepared" is the last reply; a second later guests are frozen, whether or not the connection is
        still there. Timeline, here and in the next kernel, has the end of the update.

        Errors: NotLoaded, UpdateRunning, Refused, NotAKernelImage, KernelRefused.
        """
        self._permit(root_only=bool(skip_unready or ignore_findings))
        wishes = Wishes(deadline, bool(skip_unready), bool(dry_run), tuple(ignore_findings or ()), way, bool(detach))
        async with aclosing(self._service.update(self._peer, wishes)) as replies:
            async for progress in replies:
                last = progress.state in ("checked", "prepared", "cancelled")
                yield Last(progress) if last else progress
                if last:
                    return

    @method()
    async def Abort(self) -> None:
        """Cancels the update that is under way. Returns when every participant has been told to resume.

        Errors: NoUpdate, TooLate.
        """
        self._permit()
        await self._service.abort(self._peer)

    @method("report")
    async def Discard(self, *, name: str, force: bool | None) -> str:
        """Discards the incoming sessions NAME and NAME#NUMBER of a workload by the reaper, and returns its report.

        From the start on no guest can be resumed from them. Only root may call this. force: even if a running process
        may still use one of them.

        Errors: DiscardFailed, Refused, io.luod.Sessions.NoSuchSession, io.luod.Sessions.Busy.
        """
        self._permit(root_only=True)
        return await self._service.discard(self._peer, name, bool(force))

    @method("timeline")
    async def Timeline(self) -> UpdateTimes | None:
        """Returns the phases of each session in the update that is under way, or in the last one; null without any.

        Times are in seconds since the update was requested, through the kexec.
        """
        self._permit()
        return await self._service.timeline()

    @method("report")
    async def CarryOver(self, *, name: str) -> str:
        """Preserves unclaimed incoming sessions NAME and NAME#NUMBER of a workload again for the next kexec.

        They are outgoing then, with the same files under the same tokens and names. The owner stays the same, and can
        retrieve them there and not here. Only root may call this.

        Errors: NotCarriedOver, CarryOverFailed, Refused (a process has retrieved one), io.luod.Sessions.SessionExists,
        io.luod.Sessions.NoSuchSession, io.luod.Sessions.Busy.
        """
        self._permit(root_only=True)
        return await self._service.carry_over(self._peer, name)

    @method("lost")
    async def Stop(self, *, drop: bool | None) -> list[str]:
        """Stops luod, both processes, right after the answer.

        It is refused while only luod has sessions or files open, since they are lost with it. With drop it stops
        regardless. lost: the lost sessions and files, for people. Only root may call this.

        Errors: Refused, UpdateRunning.
        """
        self._permit(root_only=True)
        return await self._service.stop(self._peer, bool(drop))


def _image(kernel_fd: Received | None, initrd_fd: Received | None) -> tuple[Fd | None, Fd | None]:
    """Returns duplicates of the two, which may be one fd."""
    kernel = None if kernel_fd is None else accepted(kernel_fd, "kernel_fd")
    try:
        return kernel, None if initrd_fd is None else accepted(initrd_fd, "initrd_fd")
    except BaseException:
        if kernel is not None:
            kernel.close()
        raise
