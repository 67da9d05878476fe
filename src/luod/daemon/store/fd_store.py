"""Custody: serve's side of the channel to `luod keep`, which holds every fd that must outlive serve.

What is asked and answered is `luod.daemon.supervisor.protocol`. Each call returns when keep has done it, so what was
created or stored is safe from then on, whatever becomes of serve.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable

from luod.daemon.supervisor import protocol
from luod.errors import (
    KernelRefused,
    LiveUpdateBroken,
    LiveUpdateBusy,
    LuodError,
    NoSuchSession,
    ProtocolError,
    SessionExists,
    SessionTaken,
)
from luod.ipc import framing
from luod.linux import Fd

_CREATE_REFUSALS: dict[int, type[KernelRefused]] = {
    errno.EEXIST: SessionExists,
    errno.EBUSY: LiveUpdateBusy,
    errno.EIO: LiveUpdateBroken,
}
_RETRIEVE_REFUSALS: dict[int, type[KernelRefused]] = {
    errno.ENOENT: NoSuchSession,
    errno.EINVAL: SessionTaken,
    errno.EBUSY: LiveUpdateBusy,
    errno.EIO: LiveUpdateBroken,
}


class KeeperGone(LuodError):
    """The channel to keep is at its end: nothing can be held any more."""


class Custody:
    """Owns the channel until close(). `lost` is called once when keep is gone. Made inside a running loop."""

    def __init__(self, channel: socket.socket, lost: Callable[[], None]) -> None:
        self._channel = channel
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()
        self._answer: asyncio.Future[tuple[dict[str, str], tuple[Fd, ...]]] | None = None
        self._spare: Fd | None = None
        channel.setblocking(False)
        self._loop.add_reader(channel, self._readable)

    def close(self) -> None:
        self._loop.remove_reader(self._channel)
        self._channel.close()
        if self._spare is not None:
            self._spare.close()

    def _reserve(self) -> None:
        """Keeps an fd number free for the session that keep is asked for: one that does not fit would be lost on the
        way, and with it what serve knows of keep. KernelRefused: EMFILE, and keep was not asked.
        """
        try:
            self._spare = Fd(os.dup(self._channel.fileno()))
        except OSError as error:
            raise KernelRefused(
                error.errno or errno.EMFILE,
                "luod serve",
                "luod has no room for one more file",
                hint="close connections to luod, or give it more: LimitNOFILE= of its unit, or `ulimit -Hn`",
            ) from error

    def _readable(self) -> None:
        if self._spare is not None:
            self._spare.close()
            self._spare = None
        try:
            message, fds = framing.receive(self._channel)
        except (OSError, ProtocolError):
            message, fds = b"", ()
        answer, self._answer = self._answer, None
        if not message:
            self._loop.remove_reader(self._channel)
            if answer is not None:
                answer.set_exception(KeeperGone("luod keep is gone"))
            self._lost()
        elif answer is not None:
            answer.set_result((protocol.decode(message), fds))

    async def _ask(
        self,
        request: dict[str, object],
        refusals: dict[int, type[KernelRefused]],
        fds: tuple[int, ...] = (),
        *,
        session: bool = False,
    ) -> tuple[Fd, ...]:
        """Asks and waits for the answer, with a `session` in it. Not to be cancelled: the next to ask would get this
        one's answer.
        """
        async with self._turn:
            if session:
                self._reserve()
            answer: asyncio.Future[tuple[dict[str, str], tuple[Fd, ...]]] = self._loop.create_future()
            self._answer = answer
            try:
                framing.send(self._channel, protocol.encode(request), fds)
            except OSError as error:
                self._answer = None
                raise KeeperGone(f"luod keep is gone: {error}") from error
            said, received = await answer
        code = int(said["ERRNO"])
        if code:
            raise refusals.get(code, KernelRefused)(code, said.get("CALL", ""), said.get("MEANING", ""))
        return received

    async def create(self, name: str) -> Fd:
        """CREATE_SESSION; keep holds a copy. The fd is the caller's.

        SessionExists: EEXIST. LiveUpdateBusy: somebody else had /dev/liveupdate open all the time. LiveUpdateBroken:
        EIO, the kernel could not take over what was carried (H20). KernelRefused, of serve itself with EMFILE.
        """
        (fd,) = await self._ask({"CREATE": name}, _CREATE_REFUSALS, session=True)
        return fd

    async def retrieve(self, name: str) -> Fd:
        """RETRIEVE_SESSION; keep holds a copy. The fd is the caller's.

        NoSuchSession: ENOENT. SessionTaken: EINVAL. LiveUpdateBusy, LiveUpdateBroken as above. KernelRefused.
        """
        (fd,) = await self._ask({"RETRIEVE": name}, _RETRIEVE_REFUSALS, session=True)
        return fd

    async def store(self, name: str, fd: int) -> None:
        """Keep holds a copy of `fd`, in place of any it holds under `name`. KernelRefused: it has no room."""
        await self._ask({"FDSTORE": 1, "FDNAME": name}, {}, (fd,))

    async def remove(self, name: str) -> None:
        """Keep's copy under `name`, if any, is closed when this returns."""
        await self._ask({"FDSTOREREMOVE": 1, "FDNAME": name}, {})

    async def drop(self, fds: dict[str, Fd], name: str, discard: Callable[[Fd], None] | None = None) -> None:
        """Where serve has a copy under `name`, among its own `fds`, that one is closed, and then keep's.

        `discard` is for a file whose last close can take long: it gets serve's copy after keep's is closed.
        """
        fd = fds.pop(name, None)
        if fd is None:
            return
        if discard is None:
            fd.close()
        try:
            await self.remove(name)
        finally:
            if discard is not None:
                discard(fd)

    async def ready(self) -> None:
        """Tells keep, and through it whoever started keep, that clients are answered."""
        await self._ask({"READY": 1}, {})
