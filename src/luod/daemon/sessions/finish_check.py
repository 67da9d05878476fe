"""The kernel's answers about a session: of an incoming one whether it is finished, and its manifest.

The ioctl waits for other processes in an ioctl of the same session, without limit, and nothing tells luod beforehand
whether it will. So a thread makes it. There are few: a user that makes them wait takes no resource that others need,
and delays neither answers nor the end of serve. An idle thread is used again: to start one takes longer than the ioctl.
luod reads no manifest: it passes the file on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import Final, TypeVar, cast

from luod import memory
from luod.errors import LuodError, NoSuchToken
from luod.ipc.errors import Busy
from luod.linux import Fd
from luod.liveupdate import IncomingSession
from luod.manifest import MANIFEST_TOKEN, PART_SIZE

T = TypeVar("T")

_PATIENCE_SECONDS: Final = 5.0
_MOST: Final = 32
_OF_A_USER: Final = 4


class Checks:
    """Made inside a running loop. `waiting` is the number of each user's threads in the kernel."""

    def __init__(self, *, patience: float = _PATIENCE_SECONDS) -> None:
        """`patience`: the time limit of an answer in seconds. The thread continues after it."""
        self._loop = asyncio.get_running_loop()
        self.patience = patience
        self.waiting: Counter[int] = Counter()
        self._turns: dict[int, deque[asyncio.Future[None]]] = {}
        self._idle: list[_Thread] = []

    async def unfinished(self, uid: int, session: Fd) -> bool:
        """Returns whether the kernel still has the session's files, from its manifest (docs/hazards.md, H10).

        A session without a manifest counts as finished. Raises Busy: a process is in an ioctl of the session, or of
        too many others of this user. Raises KernelRefused.
        """
        return await self.about(uid, session, _holds)

    async def manifest(self, uid: int, session: Fd) -> Fd | None:
        """Returns the first part of the session's manifest, read-only, which the caller owns; None without one.

        None also when the session is finished. No other file of the session is retrieved. Raises Busy, KernelRefused as
        `unfinished`. Raises NotEnoughMemory: 64 KiB are not available, and the kernel was not asked.
        """
        return await self.about(uid, session, _manifest)

    async def about(self, uid: int, session: Fd, call: Callable[[Fd], T]) -> T:
        """Returns or raises the result of `call`, run in a thread, which owns a duplicate of the session.

        Raises Busy as `unfinished`.
        """
        await self._admit(uid)
        copy = session.duplicate()
        return await self.ask(uid, lambda: call(copy))

    async def _admit(self, uid: int) -> None:
        """Waits until this user has fewer calls in the kernel. Raises Busy: that takes longer than the patience."""
        if self.waiting.total() < _MOST and self.waiting[uid] >= _OF_A_USER:
            turn = self._loop.create_future()
            self._turns.setdefault(uid, deque()).append(turn)
            await asyncio.wait((turn,), timeout=self.patience)
            if turn.done():
                return
            self._turns[uid].remove(turn)
        if self.waiting.total() >= _MOST or self.waiting[uid] >= _OF_A_USER:
            raise _busy("luod waits for the kernel to answer about other sessions")

    async def ask(self, uid: int, call: Callable[[], T]) -> T:
        """Returns or raises the result of `call`, run in a thread. Raises Busy: it takes longer than the patience."""
        answer: asyncio.Future[T] = self._loop.create_future()

        def done(thread: _Thread, value: T | None, error: BaseException | None) -> None:
            self._idle.append(thread)
            self.waiting[uid] -= 1
            if not self.waiting[uid]:
                del self.waiting[uid]
            if turns := self._turns.get(uid):
                turns.popleft().set_result(None)
            else:
                self._turns.pop(uid, None)
            if answer.done():
                if isinstance(value, Fd):
                    value.close()
            elif error is None:
                answer.set_result(cast(T, value))
            else:
                answer.set_exception(error)

        def run(thread: _Thread) -> None:
            value, failure = None, None
            try:
                value = call()
            except (LuodError, OSError) as error:
                failure = error
            # RuntimeError: the loop has ended, and serve with it.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(done, thread, value, failure)

        thread = self._idle.pop() if self._idle else _Thread()
        self.waiting[uid] += 1
        thread.put(run)
        try:
            return await asyncio.wait_for(answer, self.patience)
        except TimeoutError:
            raise _busy("a process is in an ioctl of this session") from None


class _Thread:
    """Runs one call after another. It is a daemon thread, so that serve's end does not wait for it."""

    def __init__(self) -> None:
        from queue import SimpleQueue  # not on the way to the first session

        self._calls: SimpleQueue[Callable[[_Thread], None]] = SimpleQueue()
        self.put = self._calls.put
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            self._calls.get()(self)


def _holds(session: Fd) -> bool:
    with IncomingSession(session) as incoming:
        return incoming.holds()


def _manifest(session: Fd) -> Fd | None:
    with IncomingSession(session) as incoming:
        # A RETRIEVE_FD that runs out of memory frees the file (docs/hazards.md, H1).
        memory.require(PART_SIZE, memory.chargeable(enough=PART_SIZE), "reading the manifest")
        try:
            part = incoming.retrieve(MANIFEST_TOKEN, check_memory=False, check_driver=False)
        except NoSuchToken:
            return None
        with part:
            return Fd(os.open(f"/proc/self/fd/{part.fileno()}", os.O_RDONLY | os.O_CLOEXEC))


def _busy(message: str) -> Busy:
    return Busy(message=message, hint="try again later")
