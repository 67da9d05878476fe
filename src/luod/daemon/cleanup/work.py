"""luod's own work on incoming sessions: begun in turn with the calls of programs, and exclusive until its end.

What the work is, discarding or carrying over, is in `reaping` and `carry_over`. It changes no row but the state.
"""

from __future__ import annotations

from collections import Counter

from luod.daemon.replies import no_such_session
from luod.daemon.store.states import IncomingState
from luod.ipc.errors import Busy
from luod.static import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from luod.daemon.sessions.service import SessionService
    from luod.daemon.store.registry import Registry
    from luod.daemon.store.schema import IncomingRow, Row
    from luod.linux import Fd


class Work:
    """Owns nothing: `sessions` has the names of the sessions that are worked on, and does not hand these out."""

    def __init__(self, registry: Registry, sessions: SessionService) -> None:
        self._registry = registry
        self._sessions = sessions

    async def begin(
        self,
        name: str,
        check: Callable[[IncomingRow], None],
        *,
        start: Callable[[IncomingRow, Fd], None] | None = None,
        carry_over: bool = False,
    ) -> tuple[IncomingRow, Fd]:
        """Returns the incoming session, which is not handed out until `end`, and its fd, which luod keeps. Without
        `carry_over` its state becomes DISCARDING. Raises Busy, NoSuchSession and as `check`.

        `start` starts what does the work, right before the state changes. Its error is raised, and nothing is changed.
        `carry_over` blocks the name and excludes updates, which would have to wait for minutes.
        """
        if carry_over:
            participation = self._sessions.participation
            if participation is not None and participation.updating:
                raise Busy(
                    message="an update is running",
                    hint="run `luoctl wait --for update`, which ends with it, or `luoctl abort`",
                )
            self._sessions.being_carried_over += Counter((name,))
        try:
            return await self._sessions.changes.make(name, self._begin(name, check, start, carry_over))
        except BaseException:
            if carry_over:
                self._sessions.being_carried_over -= Counter((name,))
            raise

    async def _begin(
        self,
        name: str,
        check: Callable[[IncomingRow], None],
        start: Callable[[IncomingRow, Fd], None] | None,
        carry_over: bool,
    ) -> tuple[IncomingRow, Fd]:
        if name in self._sessions.working or (name in self._sessions.being_carried_over and not carry_over):
            raise Busy(message=f"luod already works on session {name!r}", hint="see `luoctl list`")

        def checked() -> IncomingRow:
            row = self._registry.incoming(name)
            if row is None:
                raise no_such_session("incoming", name)
            check(row)
            return row

        fd = await self._sessions.taken(checked())
        row = checked()  # the workload may have resumed meanwhile
        if start is not None:
            start(row, fd)
        if not carry_over:
            row = self._registry.become(row, IncomingState.DISCARDING)
        self._sessions.working.add(name)
        if carry_over:
            self._sessions.changes.begin()
        return row, fd

    async def end(self, row: Row, *, remove: bool, carried_over: bool = False) -> None:
        """Ends the work. `remove`: removes the session, which has ended. `carried_over`: as `carry_over` of `begin`."""
        if remove:
            await self._sessions.changes.exclusively(row.name, self._sessions.remove(row))
        self._sessions.working.discard(row.name)
        if carried_over:
            self._sessions.being_carried_over -= Counter((row.name,))
            self._sessions.changes.end()
