"""luod from asyncio: `luod.AsyncClient`, and the sessions that it returns.

It has the methods of `luod.client`, which documents them, as coroutines for all calls that may take long: those to
luod, and those to the kernel with a session's files, which run in a thread. Nothing here blocks the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from luod.errors import LuodError
from luod.ipc.client import adoption, creation, held_files, restore, sessions
from luod.ipc.client.async_connection import connected, in_thread, perform, retried
from luod.ipc.client.connection import LOOK_PAUSE, is_absent, unreachable
from luod.ipc.client.handle import ClientBase, IncomingHandle, OutgoingHandle
from luod.ipc.client.restore import RestoredFiles
from luod.ipc.client.sessions import OUTGOING
from luod.ipc.types.sessions import Description, SessionInfo
from luod.linux import Fd
from luod.liveupdate import HasFileno, IncomingSession, OutgoingSession
from luod.manifest import MANIFEST_TOKEN, Entry

if TYPE_CHECKING:
    from luod.ipc.client.sessions import Exchange, T


class AsyncClient(ClientBase):
    """`luod.Client` with coroutines. Calls may run at the same time.

    Cancelling a call drops its connection; it is not known then whether luod executed the call. A kernel call that has
    begun is awaited first. Cancelling `replace` loses the session, as a death in between does, and cancelling `unstash`
    without `keep` may lose the files.
    """

    async def create(self, name: str, *, manifest: bool = True) -> AsyncHeldOutgoingSession:
        """See `luod.Client.create`."""
        return AsyncHeldOutgoingSession(
            self, name, await self._run(creation.create(name, self.path, manifest=manifest))
        )

    async def create_many(
        self, names: Iterable[str], *, manifest: bool = True
    ) -> dict[str, AsyncHeldOutgoingSession | LuodError]:
        """See `luod.Client.create_many`."""
        found = await self._run(creation.create_many(names, self.path, manifest=manifest))
        return {
            name: made if isinstance(made, LuodError) else AsyncHeldOutgoingSession(self, name, made)
            for name, made in found.items()
        }

    async def retrieve_many(self, names: Iterable[str]) -> dict[str, AsyncHeldIncomingSession | LuodError]:
        """See `luod.Client.retrieve_many`."""
        found = await self._run(sessions.retrieve_many(names, self.path))
        return {
            name: made if isinstance(made, LuodError) else AsyncHeldIncomingSession(self, name, made)
            for name, made in found.items()
        }

    async def retrieve(self, name: str) -> AsyncHeldIncomingSession:
        """See `luod.Client.retrieve`."""
        return AsyncHeldIncomingSession(self, name, await self._run(sessions.retrieve(name, self.path)))

    async def restore(self, name: str) -> AsyncRestored | None:
        """See `luod.Client.restore`."""
        arrived = await self._run(restore.restore(name, self._begun, self.path))
        if arrived is None:
            return None
        frozen = None if arrived.frozen is None else AsyncHeldIncomingSession(self, *arrived.frozen)
        return AsyncRestored(self, name, AsyncHeldIncomingSession(self, name, arrived.running), frozen)

    async def discard(self, name: str) -> tuple[str, ...]:
        """See `luod.Client.discard`."""
        return await self._run(restore.discard(name, self._begun))

    async def adopt(self, session: int | HasFileno) -> AsyncHeldOutgoingSession | AsyncHeldIncomingSession:
        """See `luod.Client.adopt`."""
        name, made = await self._run(adoption.adopt(session, self.path))
        if isinstance(made, IncomingSession):
            return AsyncHeldIncomingSession(self, name, made)
        return AsyncHeldOutgoingSession(self, name, made)

    async def sessions(self) -> tuple[SessionInfo, ...]:
        """See `luod.Client.sessions`."""
        return await self._run(sessions.sessions())

    async def manifest(self, name: str, *, direction: str = "outgoing") -> tuple[tuple[Entry, ...], bool]:
        """See `luod.Client.manifest`."""
        return await self._run(sessions.manifest(name, direction))

    async def about(self, name: str, *, direction: str = "outgoing") -> dict[str, Any]:
        """See `luod.Client.about`."""
        return await self._run(sessions.about(name, direction))

    async def describe(self, name: str) -> tuple[Description, ...]:
        """See `luod.Client.describe`."""
        return await self._run(sessions.describe(name))

    async def stash(self, name: str, files: Mapping[str, HasFileno]) -> None:
        """See `luod.Client.stash`."""
        await self._run(held_files.stash(name, files))

    async def unstash(self, name: str, *, keep: bool = False) -> dict[str, Fd]:
        """See `luod.Client.unstash`."""
        return await self._run(held_files.unstash(name, keep=keep))

    async def drop_stash(self, name: str) -> None:
        """See `luod.Client.drop_stash`."""
        await self._run(held_files.drop_stash(name))

    async def __aenter__(self) -> Self:
        await retried(self._check, is_absent, self.patience, LOOK_PAUSE)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _run(self, steps: Exchange[T]) -> T:
        return await perform(steps, self.path, self.timeout)

    async def _check(self) -> None:
        try:
            async with asyncio.timeout(self.timeout):
                (await connected(self.path)).close()
        except (OSError, ValueError) as error:
            raise unreachable(self.path, error) from error


class AsyncHeldOutgoingSession(OutgoingHandle):
    """`luod.HeldOutgoingSession` with coroutines."""

    def __init__(self, client: AsyncClient, name: str, bare: OutgoingSession) -> None:
        super().__init__(name, bare)
        self._client = client
        self._calls = asyncio.Lock()

    async def preserve(
        self,
        file: int | HasFileno,
        token: int | None = None,
        *,
        name: str | None = None,
        allow_sealed: bool = False,
        check_memory: bool = True,
        device: str | None = None,
    ) -> int:
        """See `luod.HeldOutgoingSession.preserve`."""
        return await self._kernel(
            lambda: self._bare.preserve(
                file, token, name=name, allow_sealed=allow_sealed, check_memory=check_memory, device=device
            )
        )

    async def annotate(self, about: Mapping[str, Any]) -> None:
        """See `luod.HeldOutgoingSession.annotate`."""
        await self._kernel(lambda: self._bare.annotate(about))

    async def unpreserve(self, token: int) -> None:
        """See `luod.HeldOutgoingSession.unpreserve`."""
        await self._kernel(lambda: self._bare.unpreserve(token))

    async def replace(self, files: Mapping[int, HasFileno], *, drop: Collection[int] = ()) -> None:
        """See `luod.HeldOutgoingSession.replace`."""
        async with self._calls:
            steps = creation.replace(self._name, self._bare, files, drop, self._client.path)
            self._bare = await self._client._run(steps)

    async def release(self) -> None:
        """See `luod.HeldOutgoingSession.release`."""
        async with self._calls:
            self.close()  # first: luod waits until the session is gone
        await self._client._run(sessions.release(self._name, OUTGOING, finished=False))

    async def _kernel(self, call: Callable[[], T]) -> T:
        """Makes the kernel's calls on this session, which may take long, in a thread and one after the other.

        The methods that close the session wait for them: the thread would use the next fd with that number.
        """
        async with self._calls:
            return await in_thread(call)


class AsyncHeldIncomingSession(IncomingHandle):
    """`luod.HeldIncomingSession` with coroutines."""

    def __init__(self, client: AsyncClient, name: str, bare: IncomingSession) -> None:
        super().__init__(name, bare)
        self._client = client
        self._calls = asyncio.Lock()

    async def retrieve(
        self,
        file: int | str | None = None,
        *,
        name: str | None = None,
        size: int | None = None,
        check_memory: bool = True,
        check_driver: bool = True,
    ) -> Fd:
        """See `luod.HeldIncomingSession.retrieve`."""
        return await self._kernel(
            lambda: self._bare.retrieve(
                file, name=name, size=size, check_memory=check_memory, check_driver=check_driver
            )
        )

    async def unretrieved(self, tokens: Iterable[int] | None = None) -> tuple[int, ...]:
        """See `luod.HeldIncomingSession.unretrieved`."""
        return await self._kernel(lambda: self._bare.unretrieved(tokens))

    async def holds(self, token: int = MANIFEST_TOKEN) -> bool:
        """See `luod.HeldIncomingSession.holds`."""
        return await self._kernel(lambda: self._bare.holds(token))

    async def finish(self, *, discard: bool = False, tokens: Iterable[int] | None = None) -> None:
        """See `luod.HeldIncomingSession.finish`."""
        async with self._calls:
            await self._client._run(sessions.finish(self, discard=discard, tokens=tokens))

    async def discard(self) -> None:
        """See `luod.HeldIncomingSession.discard`."""
        async with self._calls:
            await self._client._run(sessions.discard(self))

    async def _kernel(self, call: Callable[[], T]) -> T:
        """Makes the kernel's calls on this session, which may take long, in a thread and one after the other.

        The methods that close the session wait for them: the thread would use the next fd with that number.
        """
        async with self._calls:
            return await in_thread(call)


class AsyncRestored(RestoredFiles[AsyncHeldIncomingSession]):
    """`luod.Restored` with coroutines: `await restored["ram"]`."""

    def __init__(
        self,
        client: AsyncClient,
        name: str,
        running: AsyncHeldIncomingSession,
        frozen: AsyncHeldIncomingSession | None,
    ) -> None:
        super().__init__(name, running, frozen)
        self._client = client

    async def retrieve(self, name: str, *, check_memory: bool = True, check_driver: bool = True) -> Fd:
        """See `luod.Restored.retrieve`."""
        session = self._session_of(name)
        return await session.retrieve(name, check_memory=check_memory, check_driver=check_driver)

    async def __getitem__(self, name: str) -> Fd:
        return await self.retrieve(name)

    async def resume(self) -> None:
        """See `luod.Restored.resume`."""
        await self._client._run(restore.resume(self))

    async def finish(self) -> None:
        """See `luod.Restored.finish`."""
        async with self._alone():
            await self._client._run(restore.finish(self.sessions))

    async def discard(self) -> None:
        """See `luod.Restored.discard`."""
        async with self._alone():
            await self._client._run(restore.discard_all(self.sessions))

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            for session in self.sessions:
                await stack.enter_async_context(session._calls)
            yield
