"""`io.luod.Admin` as types: what an operator asks luod for. `io.luod.Admin.varlink` is generated from this module.

Like `luod.ipc.sessions`, only that it is served on the admin socket alone, which is root's.
"""

import fcntl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Protocol, TypedDict

from asyncvarlink import FileDescriptor, TypedVarlinkErrorReply, VarlinkInterface, varlinkmethod

from luod.ipc.framing import ADMIN
from luod.ipc.peer import Peer
from luod.linux import Fd


class NotLoaded(TypedVarlinkErrorReply, interface=ADMIN):
    """No kernel was loaded through luod, and luod jumps into no other."""

    class Parameters:
        message: str
        hint: str


class NotAKernelImage(TypedVarlinkErrorReply, interface=ADMIN):
    """The kernel does not take the file for a kernel image. Whatever was loaded before is still loaded."""

    class Parameters:
        message: str
        hint: str


class UpdateRunning(TypedVarlinkErrorReply, interface=ADMIN):
    """One update at a time."""

    class Parameters:
        message: str
        hint: str


class Refused(TypedVarlinkErrorReply, interface=ADMIN):
    """luod declines, to keep state from getting lost. Nothing was changed."""

    class Parameters:
        message: str
        hint: str


class KernelRefused(TypedVarlinkErrorReply, interface=ADMIN):
    """The kernel answered `call` with `errno`; `message` is its meaning for that call. No session is lost."""

    class Parameters:
        call: str
        errno: int
        message: str
        hint: str


class StatusReply(TypedDict):
    """What Status answers."""

    version: str
    state: str
    boot: int
    kernelLoaded: bool
    commandLine: str | None
    sessions: int
    waiting: int
    retrieved: int


class Service(Protocol):
    """What luod does for root. Fds in parameters belong to the service, those it does not keep it closes."""

    async def status(self) -> StatusReply: ...
    async def load_kernel(self, kernel: Fd, initrd: Fd | None, command_line: str) -> None: ...
    def update(self, peer: Peer) -> AsyncGenerator[str, None]: ...


class Admin(VarlinkInterface, name=ADMIN):
    """The operator's side of luod: load the next kernel, then jump into it with every session kept."""

    errors = (NotLoaded, NotAKernelImage, UpdateRunning, Refused, KernelRefused)

    def __init__(self, service: Service, peer: Peer) -> None:
        self._service = service
        self._peer = peer

    @varlinkmethod
    async def Status(self) -> StatusReply:
        """version: of luod. state: idle, preparing or jumping. boot: live updates luod has seen, plus one.
        kernelLoaded, commandLine: what was loaded through luod. sessions: outgoing ones. waiting, retrieved: incoming
        ones, by state; an update waits for them to be finished.
        """
        return await self._service.status()

    @varlinkmethod
    async def LoadKernel(
        self, *, kernelFileDescriptor: FileDescriptor, initrdFileDescriptor: FileDescriptor | None, commandLine: str
    ) -> None:
        """Loads a kernel image, and an initial RAM disk, with kexec_file_load. luod keeps the files, and loads them
        again right before the jump.

        Errors: NotAKernelImage, UpdateRunning, Refused, KernelRefused.
        """
        kernel = _copy(kernelFileDescriptor)
        try:
            initrd = None if initrdFileDescriptor is None else _copy(initrdFileDescriptor)
        except OSError:
            kernel.close()
            raise
        await self._service.load_kernel(kernel, initrd, commandLine)

    @varlinkmethod(return_parameter="state", delay_generator=False)
    async def Update(self) -> AsyncIterator[str]:
        """Jumps into the loaded kernel. Call it with "more": each state is a reply, the last is "jumping", after which
        the connection ends with the machine, or an error says why it did not jump. No session is lost then.

        Errors: NotLoaded, UpdateRunning, Refused, KernelRefused.
        """
        async with aclosing(self._service.update(self._peer)) as states:
            async for state in states:
                yield state


def _copy(passed: FileDescriptor) -> Fd:
    """A duplicate: two parameters may point to one fd, and the library closes it after the call."""
    return Fd(fcntl.fcntl(passed.fileno(), fcntl.F_DUPFD_CLOEXEC, 0))
