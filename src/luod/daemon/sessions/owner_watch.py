"""Tracks the processes of sessions by pidfd across restarts of serve: the supervisor holds the pidfds, too.

A session's process is the one that created it, or that replaced or retrieved it since: the peer of that call's
connection. `luod.daemon.sessions.service` decides what follows from its end.
"""

from __future__ import annotations

import asyncio

from luod.daemon.store.fd_names import PROCESS, process_name, session_of
from luod.errors import Refused
from luod.linux import has_ended, pid_of
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from luod.daemon.store.recovery import Holdings
    from luod.daemon.store.registry import Registry
    from luod.daemon.store.schema import Row
    from luod.ipc.server.peer import Peer
    from luod.linux import Fd


KEPT_AFTER_SECONDS: Final = 1.0
"""The time after which the supervisor gets the pidfds for which no call waits: guests may wait for the calls before."""


class Owners:
    """Owns the pidfds for which no call waits until the supervisor has them, and still then, until their processes are
    forgotten. `died` runs once for each process that ends. In a running loop.
    """

    def __init__(self, holdings: Holdings, died: Callable[[Row], None]) -> None:
        self._fds = holdings.fds
        self._died = died
        self._loop = asyncio.get_running_loop()
        self._own: dict[str, Fd] = {}
        self._not_kept: set[str] = set()
        """The names of those that the supervisor does not have yet."""

    def take_over(self, registry: Registry) -> None:
        for name in [name for name in self._fds if name.startswith(PROCESS)]:
            session = session_of(name)
            row = None if session is None else registry.row(*session)
            if row is not None:
                self._watch(row)

    async def pin(self, row: Row, peer: Peer, *, stored: bool = True) -> None:
        """Watches the peer's process. `stored`: the supervisor holds the pidfd when this returns; otherwise it gets it
        soon.

        Raises Refused: the process has no pidfd, so its end would not be noticed.
        """
        if peer.pidfd is None:
            raise Refused(
                message="luod cannot watch the calling process, whose end ends the session",
                hint="call from a running process in luod's PID namespace, or use Linux 6.5 or later",
            )
        with peer.pidfd.duplicate() as pidfd:  # the peer's is closed when it hangs up
            await self.forget(row)
            if stored:
                await self._fds.store({process_name(row): pidfd})
            else:
                self._own[process_name(row)] = pidfd.duplicate()
                if not self._not_kept:
                    self._loop.call_later(KEPT_AFTER_SECONDS, self._have_kept)
                self._not_kept.add(process_name(row))
        self._watch(row)

    def alive(self, row: Row) -> bool | None:
        """Returns whether the process lives; None if no process is watched."""
        pidfd = self._pidfd(row)
        return None if pidfd is None else not has_ended(pidfd)

    def pid(self, row: Row) -> int | None:
        """Returns the id of the session's process; None: it has ended, or no process is watched."""
        pidfd = self._pidfd(row)
        return None if pidfd is None else pid_of(pidfd)

    async def forget(self, row: Row) -> None:
        self._unwatch(row)
        await self._fds.drop(process_name(row))

    def forget_soon(self, row: Row) -> None:
        """Forgets the process without a wait for the supervisor."""
        self._unwatch(row)
        self._fds.drop_soon(process_name(row))

    def _have_kept(self) -> None:
        """Gives the supervisor the pidfds that it lacks. One for which it has no room is unknown to the next serve."""
        names, self._not_kept = self._not_kept, set()
        for name in names:
            if (own := self._own.get(name)) is not None:
                self._fds.store_soon(name, own, lambda _refused: None)

    def _unwatch(self, row: Row) -> None:
        if (pidfd := self._pidfd(row)) is not None:
            self._loop.remove_reader(pidfd)
            if (own := self._own.pop(process_name(row), None)) is not None:
                own.close()

    def _pidfd(self, row: Row) -> Fd | None:
        return self._own.get(process_name(row)) or self._fds.get(process_name(row))

    def _watch(self, row: Row) -> None:
        pidfd = self._pidfd(row)
        assert pidfd is not None

        def tell() -> None:
            self._loop.remove_reader(pidfd)
            self._died(row)

        self._loop.add_reader(pidfd, tell)
