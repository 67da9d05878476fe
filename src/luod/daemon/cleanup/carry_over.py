"""The carry-over: preserves an unclaimed incoming session again, in an outgoing session, for the next kexec.

`luod.daemon.cleanup.carrier`, a separate process, does the work. This module makes its order safe: nothing changes
until the supervisor holds the files. From then on the session is in the state `carrying_over`; if a process dies, the
next serve or the operator starts again from those files. At the end one write to the registry makes the incoming row an
outgoing one.
"""

from __future__ import annotations

import asyncio
import socket

from luod.daemon.cleanup.carrier import CARRIED_FD, CONTROL_FD, GO, MOST_SOCKETS, OUTGOING_FD, held
from luod.daemon.cleanup.work import Work
from luod.daemon.cleanup.worker import REFUSED_STATUS, SESSION_FD, SESSION_NAME
from luod.daemon.completion import completed
from luod.daemon.log import Log
from luod.daemon.processes.child import Child, Children, Outcome
from luod.daemon.sessions.service import SessionService
from luod.daemon.store.fd_names import carried_name, carried_names, worker_name
from luod.daemon.store.fd_store import SupervisorGone
from luod.daemon.store.recovery import Holdings
from luod.daemon.store.registry import Registry
from luod.daemon.store.schema import IncomingRow
from luod.daemon.store.states import IncomingState
from luod.daemon.supervisor import protocol
from luod.errors import LuodError, Refused, SessionExists
from luod.ipc import errors
from luod.ipc.errors import CarryOverFailed, NotCarriedOver
from luod.ipc.server.peer import Peer
from luod.linux import Fd
from luod.static import Final

_SECONDS: Final = 600.0
"""The limit for one session. PRESERVE_FD and RETRIEVE_FD of a TiB take minutes (H3)."""
_CLOSING_TRIES: Final = 50
_CLOSING_SECONDS: Final = 0.1
_UNUSABLE: Final = {
    IncomingState.TORN: "torn",
    IncomingState.DISCARDING: "being discarded",
    IncomingState.RESUMED: "resumed",
}


class CarryOver:
    """Needs a running loop. `take_over` runs before the first request is answered."""

    def __init__(self, holdings: Holdings, sessions: SessionService, log: Log) -> None:
        self._registry: Registry = holdings.registry
        self._fds = holdings.fds
        self._sessions = sessions
        self._work = Work(holdings.registry, sessions)
        self._children = Children(holdings.fds)
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        # Two sessions that each fit into memory may not fit together (H2).
        self._one = asyncio.Lock()

    def take_over(self) -> None:
        """Continues the carry-overs that the previous serve had begun."""
        for row in self._registry.all_incoming:
            if row.state is IncomingState.CARRYING_OVER:
                task = self._loop.create_task(self._go_on(row))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _go_on(self, row: IncomingRow) -> None:
        self._log.warning("carrying-over-again", name=row.name, owner=row.owner)
        try:
            await self._carry_over(row.name)
        except LuodError as error:
            # The session is unchanged, and the operator can repeat the command.
            self._log.error("carry-over-failed", name=row.name, owner=row.owner, reason=error)

    async def carry_over(self, peer: Peer, name: str) -> str:
        """Returns the carrier's report. Raises NotCarriedOver, CarryOverFailed, NoSuchSession, Refused, Busy."""
        self._log("carry-over", name=name, uid=peer.uid, pid=peer.pid)
        return await completed(self._carry_over(name))

    async def _carry_over(self, name: str) -> str:
        async with self._one:
            row, incoming = await self._work.begin(name, self.check, carry_over=True)
            done = False
            try:
                outcome = await self._carry(row, incoming)
                done = outcome.failure is None
                if done:
                    self._registry.carried_over(row)
            finally:
                if not done:
                    await self._fds.drop(protocol.OUTGOING + name)
                await self._work.end(row, remove=done, carried_over=True)
        if outcome.status == REFUSED_STATUS:
            raise NotCarriedOver(name=name, message=outcome.report, hint="nothing was changed")
        if outcome.failure is not None:
            reason = ": ".join(part for part in (outcome.failure, outcome.report) if part)
            self._log.error("carry-over-failed", name=name, owner=row.owner, reason=reason)
            raise CarryOverFailed(
                name=name,
                message=f"session {name!r} was not carried over: {reason}",
                hint="nothing is lost; run `luoctl carry-over` again",
            )
        self._log("carried-over", name=name, owner=row.owner, said=outcome.report)
        return outcome.report

    def check(self, row: IncomingRow) -> None:
        """Raises NotCarriedOver or Refused if the session cannot be carried over now."""
        if self._registry.outgoing(row.name) is not None:
            raise errors.SessionExists(
                name=row.name, message="an outgoing session of this name exists", hint="release it first"
            )
        if (said := _UNUSABLE.get(row.state)) is not None:
            raise NotCarriedOver(
                name=row.name,
                message=f"session {row.name!r} is {said}, so it cannot be restored in any kernel",
                hint="`luoctl discard` frees what it holds",
            )
        if self._sessions.claimed(row):
            raise Refused(
                message=f"session {row.name!r} was retrieved by a process that may still run",
                hint="let its VMM finish it and create a new session",
            )

    async def _carry(self, row: IncomingRow, incoming: Fd) -> Outcome:
        """Runs the carrier until it has preserved the files in an outgoing session, which luod holds, or fails."""
        await self._children.end_left(worker_name(row))
        outgoing = await self._create(row)
        try:
            return await self._run(row, incoming, outgoing)
        except SupervisorGone:
            raise
        except OSError as error:
            raise CarryOverFailed(
                name=row.name,
                message=f"session {row.name!r} was not carried over: its carrier could not be started: {error}",
                hint="nothing is lost; run `luoctl carry-over` again",
            ) from error

    async def _run(self, row: IncomingRow, incoming: Fd, outgoing: Fd) -> Outcome:
        """Raises OSError, KernelRefused: the carrier could not be started."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with ours, theirs, incoming.duplicate() as source:
            fds = {SESSION_FD: source.fileno(), OUTGOING_FD: outgoing.fileno(), CONTROL_FD: theirs.fileno()}
            for number, carried in enumerate(carried_names(self._fds, row)):
                if row.state is IncomingState.CARRYING_OVER:
                    fds[f"{CARRIED_FD}{number}"] = self._fds[carried].fileno()
                else:  # an incomplete set: the serve ended before the supervisor held all files
                    await self._fds.drop(carried)
            holding = self._loop.create_task(self._hold(row, ours))
            try:
                carrier = Child("luod.daemon.cleanup.carrier", fds=fds, environment={SESSION_NAME: row.name})
                return await self._children.run(carrier, worker_name(row), _SECONDS)
            finally:
                holding.cancel()
                await asyncio.wait((holding,))

    async def _create(self, row: IncomingRow) -> Fd:
        """Creates the outgoing session. Retries: that of a killed carrier is closed when the process has ended."""
        for _ in range(_CLOSING_TRIES):
            try:
                return await self._fds.create(row.name, None)
            except SessionExists:
                await asyncio.sleep(_CLOSING_SECONDS)
        raise errors.SessionExists(
            name=row.name, message="an outgoing session of this name is open outside luod", hint="close it first"
        )

    async def _hold(self, row: IncomingRow, ours: socket.socket) -> None:
        """Waits until the carrier sends the files, has the supervisor hold them, and then lets the carrier
        continue.
        """
        readable = asyncio.Event()
        self._loop.add_reader(ours, readable.set)
        try:
            await readable.wait()
        finally:
            self._loop.remove_reader(ours)
        holding = self._loop.create_task(self._held(row, ours))
        try:
            # Not interrupted: the supervisor and the registry must agree.
            await asyncio.shield(holding)
            self._registry.write()
            ours.send(GO)
        except asyncio.CancelledError:
            await asyncio.wait((holding,))
            raise
        except (LuodError, OSError) as error:
            self._log.error("carry-over-failed", name=row.name, owner=row.owner, reason=error)
            ours.close()  # which ends the carrier

    async def _held(self, row: IncomingRow, ours: socket.socket) -> None:
        packed = received(ours)
        try:
            names = {carried_name(row, number): reader for number, reader in enumerate(packed)}
            await self._fds.store(names, lambda: self._mark(row))
        finally:
            for reader in packed:
                reader.close()

    def _mark(self, row: IncomingRow) -> None:
        """Raises NotCarriedOver or Refused: the session is not as it was when the work began."""
        now = self._registry.incoming(row.name)
        if now is None or now.state is not row.state:
            raise Refused(message=f"session {row.name!r} was changed while it was being carried over")
        self.check(now)
        self._registry.become(row, IncomingState.CARRYING_OVER)


def received(control: socket.socket) -> list[Fd]:
    """Returns the sockets that the carrier has sent, which hold the files. The caller owns them.

    Raises Refused: some are lost, since this process has no free fd.
    """
    word, numbers, flags, _address = socket.recv_fds(control, len(held(MOST_SOCKETS)), MOST_SOCKETS)
    packed = [Fd(number) for number in numbers]
    if word != held(len(packed)) or flags & socket.MSG_CTRUNC:
        for reader in packed:
            reader.close()
        raise Refused(
            message=f"luod got {len(packed)} sockets of the carrier, which sent {word.decode('ascii', 'replace')!r}",
            hint="raise LimitNOFILE= of luod's unit or `ulimit -Hn`",
        )
    return packed
