"""The fds that outlive serve: `luod` has a copy of each, by name, and passes it to the next serve.

keep has the fd, then the row is written, then the client is answered: `create` and `store` keep this order, since they
write the row themselves, by `record`. The names are in `luod.daemon.store.fd_names`; `luod.daemon.supervisor.protocol`
has the messages between serve and keep.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Iterator, Mapping

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
    """The channel to keep is closed: no fd can be held any more."""


class FdStore(Mapping[str, Fd]):
    """serve's fds by the names of keep's copies. Owns them and the channel until close(). Made inside a running loop.

    The store owns an fd that is read here. One is in it as long as keep has its copy, or is about to have it.
    """

    def __init__(self, channel: socket.socket, fds: dict[str, Fd], lost: Callable[[], None]) -> None:
        """`fds` are those from keep at the start. `lost` runs once when keep is gone."""
        self._channel = channel
        self._fds = fds
        self._lost = lost
        self.before_request: Callable[[], None] = lambda: None
        """Writes what the registry has not written yet: the supervisor must not be ahead of it."""
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()
        self._answer: asyncio.Future[tuple[dict[str, str], tuple[Fd, ...]]] | None = None
        self._spare: Fd | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        channel.setblocking(False)
        self._loop.add_reader(channel, self._readable)

    def __getitem__(self, name: str) -> Fd:
        return self._fds[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fds)

    def __len__(self) -> int:
        return len(self._fds)

    def close(self) -> None:
        self._loop.remove_reader(self._channel)
        self._channel.close()
        for fd in (*self._fds.values(), *(() if self._spare is None else (self._spare,))):
            fd.close()

    async def create(self, name: str, record: Callable[[], None] | None) -> Fd:
        """Creates a session; then `record` writes the row, and only then the session may be given to a client.

        An error of `record` ends the session. None: no client will have it. Raises SessionExists: EEXIST. Raises
        LiveUpdateBusy: another process had /dev/liveupdate open all the time. Raises LiveUpdateBroken: EIO, the kernel
        could not take over what was carried (docs/hazards.md, H20). Raises KernelRefused, of serve itself with EMFILE.
        """
        fd = await self._session({"CREATE": name}, _CREATE_REFUSALS)
        self._put(protocol.OUTGOING + name, fd)
        await self._record(record, protocol.OUTGOING + name)
        return fd

    async def retrieve(self, name: str) -> Fd:
        """Retrieves a session. Its row exists: it came over the kexec.

        Raises NoSuchSession: ENOENT. Raises SessionTaken: EINVAL. Raises LiveUpdateBusy, LiveUpdateBroken as `create`.
        Raises KernelRefused.
        """
        fd = await self._session({"RETRIEVE": name}, _RETRIEVE_REFUSALS)
        self._put(protocol.INCOMING + name, fd)
        return fd

    async def store(self, files: Mapping[str, Fd], record: Callable[[], None] | None = None) -> None:
        """Holds a duplicate of each file, in place of any under its name; then `record`, if given, writes the row.

        All or none: an error of `record` drops them. Raises KernelRefused: keep has no room.
        """
        try:
            for name, file in files.items():
                self._put(name, file.duplicate())
                await self._copy(name)
        except BaseException:
            await self.drop(*files)
            raise
        await self._record(record, *files)

    def store_soon(self, name: str, file: Fd, refused: Callable[[LuodError], None]) -> None:
        """Holds a file as `store`, without a wait for keep, for a file whose loss does no harm to a session.

        `refused` gets the reason for which keep does not have it.
        """
        self._put(name, file.duplicate())

        async def copy() -> None:
            try:
                await self._copy(name)
            except (KernelRefused, KeeperGone) as error:
                refused(error)

        task = asyncio.ensure_future(copy())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def drop(self, *names: str, discard: Callable[[Fd], None] | None = None) -> None:
        """Closes the fds under these names, serve's and then keep's. The row must be removed before.

        `discard` is for a file whose last close can take long: it gets serve's after keep's is closed.
        """
        for name in names:
            fd = self._fds.pop(name, None)
            if fd is None:
                continue
            if discard is None:
                fd.close()
            try:
                await self._remove(name)
            finally:
                if discard is not None:
                    discard(fd)

    async def open_elsewhere(self, name: str) -> bool:
        """Returns whether a process has an outgoing session of this name open of which luod has no fd.

        The kernel refuses the name then (docs/hazards.md, H9).
        """
        try:
            (await self._session({"CREATE": name}, _CREATE_REFUSALS)).close()
        except SessionExists:
            return True
        except KernelRefused:
            return False
        await self._remove(protocol.OUTGOING + name)
        return False

    async def ready(self) -> None:
        """Reports to keep, and through it to its parent, that clients are answered."""
        async with self._turn:
            await self._exchange({"READY": 1}, {})

    def _put(self, name: str, fd: Fd) -> None:
        if name in self._fds:
            self._fds[name].close()
        self._fds[name] = fd

    async def _record(self, record: Callable[[], None] | None, *names: str) -> None:
        try:
            if record is not None:
                record()
        except BaseException:
            await self.drop(*names)
            raise

    async def _copy(self, name: str) -> None:
        """Has keep hold a copy of the fd under `name`, if it was not dropped meanwhile."""
        async with self._turn:
            if name in self._fds:
                await self._exchange({"FDSTORE": 1, "FDNAME": name}, {}, (self._fds[name].fileno(),))

    async def _remove(self, name: str) -> None:
        async with self._turn:
            await self._exchange({"FDSTOREREMOVE": 1, "FDNAME": name}, {})

    async def _session(self, request: dict[str, object], refusals: dict[int, type[KernelRefused]]) -> Fd:
        async with self._turn:
            self._reserve()
            (fd,) = await self._exchange(request, refusals)
        return fd

    async def _exchange(
        self, request: dict[str, object], refusals: dict[int, type[KernelRefused]], fds: tuple[int, ...] = ()
    ) -> tuple[Fd, ...]:
        """Sends a request and waits for the answer, in the caller's turn.

        It must not be cancelled: the next request would get this one's answer.
        """
        answer: asyncio.Future[tuple[dict[str, str], tuple[Fd, ...]]] = self._loop.create_future()
        self.before_request()
        self._answer = answer
        try:
            framing.send(self._channel, protocol.encode(request), fds)
        except OSError as error:
            self._answer = None
            raise KeeperGone(f"the supervisor has ended: {error}") from error
        said, received = await answer
        code = int(said["ERRNO"])
        if code:
            raise refusals.get(code, KernelRefused)(code, said.get("CALL", ""), said.get("MEANING", ""))
        return received

    def _reserve(self) -> None:
        """Keeps an fd number free for the requested session. Raises KernelRefused: EMFILE, and keep was not asked.

        A session for which there is no number would be lost on the way, and with it serve's view of keep.
        """
        try:
            self._spare = Fd(os.dup(self._channel.fileno()))
        except OSError as error:
            raise KernelRefused(
                error.errno or errno.EMFILE,
                "serve",
                "luod has no free file descriptor",
                hint="close connections to luod, or raise LimitNOFILE= of its unit or `ulimit -Hn`",
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
                answer.set_exception(KeeperGone("the supervisor has ended"))
            self._lost()
        elif answer is not None:
            answer.set_result((protocol.decode(message), fds))
