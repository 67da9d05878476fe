"""The kernel's answers about an incoming session that luod holds: whether it is finished, and its manifest.

The ioctl waits for other processes in an ioctl of the same session, without limit. So each has a thread of its own, of
which there are few: a user that makes them wait takes no resource that others need, and delays neither answers nor the
end of serve. luod reads no manifest: it passes the file on.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
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

    async def unfinished(self, uid: int, session: Fd) -> bool:
        """Returns whether the kernel still has the session's files, from its manifest (docs/hazards.md, H10).

        A session without a manifest counts as finished. Raises Busy: a process is in an ioctl of the session, or this
        user has had too many such. Raises KernelRefused.
        """
        self._admit(uid)
        copy = session.duplicate()
        return await self.ask(uid, lambda: _holds(copy))

    async def manifest(self, uid: int, session: Fd) -> Fd | None:
        """Returns the first part of the session's manifest, read-only, which the caller owns; None without one.

        None also when the session is finished. No other file of the session is retrieved. Raises Busy, KernelRefused as
        `unfinished`. Raises NotEnoughMemory: 64 KiB are not available, and the kernel was not asked.
        """
        self._admit(uid)
        copy = session.duplicate()
        return await self.ask(uid, lambda: _manifest(copy))

    def _admit(self, uid: int) -> None:
        if self.waiting[uid] >= _OF_A_USER or self.waiting.total() >= _MOST:
            raise _busy("luod waits for the kernel to answer about other sessions")

    async def ask(self, uid: int, call: Callable[[], T]) -> T:
        """Returns or raises the result of `call`, run in a thread. Raises Busy: it takes longer than the patience."""
        answer: asyncio.Future[T] = self._loop.create_future()

        def done(value: T | None, error: BaseException | None) -> None:
            self.waiting[uid] -= 1
            if not self.waiting[uid]:
                del self.waiting[uid]
            if answer.cancelled():
                if isinstance(value, Fd):
                    value.close()
            elif error is None:
                answer.set_result(cast(T, value))
            else:
                answer.set_exception(error)

        def run() -> None:
            value, failure = None, None
            try:
                value = call()
            except (LuodError, OSError) as error:
                failure = error
            try:
                self._loop.call_soon_threadsafe(done, value, failure)
            except RuntimeError:
                return  # the loop has ended, and serve with it

        # A daemon thread, so that serve's end does not wait for it.
        threading.Thread(target=run, daemon=True).start()
        self.waiting[uid] += 1
        try:
            return await asyncio.wait_for(answer, self.patience)
        except TimeoutError:
            raise _busy("a process is in an ioctl of this session") from None


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
