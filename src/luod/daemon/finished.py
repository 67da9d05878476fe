"""Whether an incoming session is finished, asked of the kernel for those who release one.

The ioctl waits for whoever else is in one of the same session, for as long as they like. So each has a thread of its
own, of which there are few: who makes them wait takes nothing of luod's that others need, and keeps serve from ending
no more than from answering. Called by `luod.daemon.sessions`.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from typing import Final

from luod.errors import LuodError
from luod.ipc.sessions import Busy
from luod.linux import Fd
from luod.liveupdate import IncomingSession

_PATIENCE_SECONDS: Final = 5.0
_MOST: Final = 32
_OF_A_USER: Final = 4


class Checks:
    """Made inside a running loop. `waiting` is how many threads each user has in the kernel."""

    def __init__(self, *, patience: float = _PATIENCE_SECONDS) -> None:
        """`patience`: seconds an answer may take; the thread goes on behind."""
        self._loop = asyncio.get_running_loop()
        self.patience = patience
        self.waiting: Counter[int] = Counter()

    async def unfinished(self, uid: int, session: Fd) -> bool:
        """Whether the kernel still has the session's files, told by its manifest (H10); one without looks finished.

        Busy: somebody is in an ioctl of the session, or this user has had too many such. KernelRefused.
        """
        if self.waiting[uid] >= _OF_A_USER or self.waiting.total() >= _MOST:
            raise _busy("luod waits for the kernel to say whether other sessions are finished")
        copy = session.duplicate()
        return await self.ask(uid, lambda: _holds(copy))

    async def ask(self, uid: int, call: Callable[[], bool]) -> bool:
        """What `call` gives or raises, called in a thread. Busy: it takes longer than the patience."""
        answer: asyncio.Future[bool] = self._loop.create_future()

        def done(value: bool, error: BaseException | None) -> None:
            self.waiting[uid] -= 1
            if not self.waiting[uid]:
                del self.waiting[uid]
            if answer.cancelled():
                return
            if error is None:
                answer.set_result(value)
            else:
                answer.set_exception(error)

        def run() -> None:
            value, failure = False, None
            try:
                value = call()
            except (LuodError, OSError) as error:
                failure = error
            try:
                self._loop.call_soon_threadsafe(done, value, failure)
            except RuntimeError:
                return  # the loop has ended, and serve with it

        # A daemon, so that a serve that is to end does not wait for it.
        threading.Thread(target=run, daemon=True).start()
        self.waiting[uid] += 1
        try:
            return await asyncio.wait_for(answer, self.patience)
        except TimeoutError:
            raise _busy("somebody is in an ioctl of this session") from None


def _holds(session: Fd) -> bool:
    with IncomingSession(session) as incoming:
        return incoming.holds()


def _busy(message: str) -> Busy:
    return Busy(message=message, hint="ask again when that is over")
