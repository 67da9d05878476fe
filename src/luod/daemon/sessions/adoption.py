"""Sessions that a program created or retrieved by itself, at /dev/liveupdate, and of which luod becomes a custodian.

QEMU's posted mode cpr-luo works so. The program passes an fd of its session; luod then holds it as any other. Name and
direction are the kernel's answers, never the program's. The kernel does not say whose process made a session, so the
fd is the authority. A new outgoing session gets its row as a created one does (`luod.daemon.sessions.service`).
"""

from __future__ import annotations

import errno

from luod.daemon.replies import carrying_over, reaped, resumed, torn
from luod.daemon.sessions.file_kind import is_session
from luod.daemon.sessions.names import may_use, parsed
from luod.daemon.store.fd_names import fd_name
from luod.daemon.store.schema import MOST_SESSIONS, IncomingRow
from luod.daemon.store.states import IncomingState
from luod.errors import KernelRefused, Refused
from luod.ipc.errors import InvalidName, NotASession, PermissionDenied, SessionExists
from luod.ipc.types.sessions import Adopted
from luod.linux import Fd
from luod.liveupdate.session import Session, is_incoming
from luod.session_name import SessionName
from luod.static import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from luod.daemon.policy.current import Policy
    from luod.daemon.sessions.changes import Changes
    from luod.daemon.sessions.finish_check import Checks
    from luod.daemon.sessions.owner_watch import Owners
    from luod.daemon.store.fd_store import FdStore
    from luod.daemon.store.registry import Registry
    from luod.daemon.store.schema import OutgoingRow, Row
    from luod.ipc.server.peer import Peer
    from luod.ipc.server.sparing import Sparing

    Store = Callable[[OutgoingRow, Callable[[], None]], Awaitable[Fd]]
    """Has the supervisor hold the session of a row, then writes the row by the function. Returns the store's fd."""
    Begin = Callable[[Peer, SessionName, Store, str], Awaitable[Fd]]
    """Adds an outgoing session, with all checks of Create. The string is the event in the log."""

_AGAIN: dict[IncomingState, Callable[[str], Exception]] = {
    IncomingState.CARRYING_OVER: carrying_over,
    IncomingState.DISCARDING: reaped,
    IncomingState.TORN: torn,
    IncomingState.RESUMED: resumed,
}
"""The errors of incoming sessions that luod knows and hands to no process."""


class Adopting:
    def __init__(
        self,
        registry: Registry,
        fds: FdStore,
        policy: Policy,
        changes: Changes,
        owners: Owners,
        sparing: Sparing,
        being_carried_over: Collection[str],
    ) -> None:
        self._registry = registry
        self._fds = fds
        self._policy = policy
        self._changes = changes
        self._owners = owners
        self._sparing = sparing
        self._being_carried_over = being_carried_over

    async def adopt(self, peer: Peer, file: Fd | None, checks: Checks, begin: Begin) -> Adopted:
        """Holds a duplicate of the session `file`, which the caller owns; None for a file that cannot be one.

        Raises PermissionDenied, NotASession, Busy (a process is in an ioctl of the session), and for its name and state
        as Create and Retrieve.
        """
        if peer.anonymous:
            raise PermissionDenied()
        if file is None or not is_session(file):
            raise _not_a_session()
        found = await checks.about(peer.uid, file, _identity)
        name = parsed(found.name)
        if found.direction == "incoming":
            granted = await self._policy.granted(peer)
            if self._registry.incoming(found.name) is None:
                # A user that may not have the name does not learn whether it is taken.
                mine = sum(row.owner == peer.uid for row in self._registry.record.incoming)
                self._policy.check_create(granted, name, mine)
            await self._changes.make(found.name, self._incoming(peer, name, file))
        elif self._is_known(peer, found.name):
            await self._changes.make(found.name, self._outgoing(peer, found.name, file))
        else:
            (await begin(peer, name, lambda row, record: self._store(row, file, record), "adopted")).close()
        return found

    def _is_known(self, peer: Peer, name: str) -> bool:
        row = self._registry.outgoing(name)
        return row is not None and may_use(peer, row)

    async def _store(self, row: Row, file: Fd, record: Callable[[], None] | None) -> Fd:
        await self._fds.store({fd_name(row): file}, record)
        return self._fds[fd_name(row)]

    async def _outgoing(self, peer: Peer, name: str, file: Fd) -> None:
        """Holds a session again that the caller's user has already: luod may have no fd of it since it was stopped.

        If luod has one, it is of the same session: the kernel has one of a name and a direction.
        """
        row = self._registry.outgoing(name)
        if row is None or not may_use(peer, row):
            raise _taken(name)
        if fd_name(row) in self._fds:
            return
        if row.discard and peer.uid == row.owner:
            await self._owners.pin(row, peer)
        await self._store(row, file, None)
        self._tell(peer, row)

    async def _incoming(self, peer: Peer, name: SessionName, file: Fd) -> None:
        row = self._registry.incoming(str(name))
        if row is None:
            row = await self._new(peer, name, file)
        else:
            if not may_use(peer, row):
                raise _taken(row.name)
            if row.name in self._being_carried_over:
                raise carrying_over(row.name)
            if (error := _AGAIN.get(row.state)) is not None:
                raise error(row.name)
            if fd_name(row) not in self._fds:
                await self._store(row, file, None)
            now = self._registry.become(row, IncomingState.RETRIEVED)
            self._registry.note(now, "retrieved")
        if peer.pidfd is not None and peer.uid == row.owner:
            await self._owners.pin(row, peer, stored=self._policy.settings.restore_deadline is not None)
        self._tell(peer, row)

    async def _new(self, peer: Peer, name: SessionName, file: Fd) -> IncomingRow:
        """Adds an incoming session that luod does not know: it was created without luod, before the kexec."""
        if name.generation is not None:
            raise InvalidName(
                name=str(name),
                message=f"'{name}' is a name for what a participant wrote while frozen, and luod has no record of it",
                hint="use a name that does not end in # and a number",
            )
        outgoing = self._registry.outgoing(str(name))
        if outgoing is not None and not may_use(peer, outgoing):
            raise _taken(str(name))
        if len(self._registry) >= MOST_SESSIONS:
            raise Refused(message=f"luod holds {MOST_SESSIONS} sessions, which is the maximum", hint="release some")
        row = IncomingRow(name.base, peer.uid, state=IncomingState.RETRIEVED)
        await self._store(row, file, lambda: self._registry.add(row))
        return row

    def _tell(self, peer: Peer, row: Row) -> None:
        self._sparing("adopted", of=peer.uid, name=row.name, owner=row.owner, uid=peer.uid, pid=peer.pid)


def _identity(session: Fd) -> Adopted:
    """Returns the kernel's answers about a session. It can wait for every process that is in an ioctl of the session.

    Raises NotASession, KernelRefused.
    """
    with Session(session) as asked:
        try:
            name = asked.name
        except KernelRefused as error:
            if error.errno in (errno.ENOTTY, errno.EINVAL):
                raise _not_a_session() from error
            raise
        # A name that JSON cannot carry is shown escaped, and is refused.
        shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        return Adopted(shown, "incoming" if is_incoming(asked) else "outgoing")


def _not_a_session() -> NotASession:
    return NotASession(
        message="the file is not a session of the Live Update Orchestrator",
        hint="pass an fd that CREATE_SESSION or RETRIEVE_SESSION of /dev/liveupdate returned",
    )


def _taken(name: str) -> SessionExists:
    return SessionExists(
        name=name,
        message=f"luod holds a session {name!r} for another user",
        hint="its owner, or root, can adopt or release it",
    )
