"""A guest's part in updates: pauses it, has its state written, and continues it if the update is cancelled.

The phases are those of docs/updates.md. What fails in one is a veto, and the guest goes on; only QEMU's end ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from typing import Final

from luod.agents.qemu import command_line, control, live, ownership, programs, state, upgrade
from luod.agents.qemu.deadline import QEMU_SECONDS, in_time
from luod.agents.qemu.process import Qemu, said
from luod.agents.qemu.record import (
    GENERATION,
    RAM,
    RAM_TOKEN,
    SESSIONS_LOST,
    STATE,
    STATE_TOKEN,
    Record,
    about,
    about_state,
    of_plan,
)
from luod.agents.qemu.upgrade import Side
from luod.aio import AsyncClient, AsyncHeldOutgoingSession, AsyncParticipant, AsyncPhase
from luod.errors import (
    Busy,
    LuodError,
    NoSuchSession,
    QemuEnded,
    QemuError,
    QemuLate,
    QemuRefusal,
    QmpFailed,
    QmpUnknown,
    Refused,
)
from luod.ipc.client.participation import PlannedFile
from luod.ipc.errors import UpgradeFailed
from luod.ipc.types.qemu import Upgraded
from luod.linux import Fd

Report = Callable[[str], None]
"""Takes a line about the guest for people."""

_RELEASES: Final = 100
_RELEASE_PAUSE: Final = 0.1
"""How often the session of a guest that ended is released, and the seconds between two attempts."""
_AGAIN_PAUSE: Final = 0.5
"""The seconds between two attempts to create a session that luod has lost."""
_MARGIN: Final = 0.5
"""Seconds before luod's deadline at which the agent gives up by itself, so that its reason is heard."""


class Guest:
    """A guest that runs in `qemu` on the memfd `ram`, for as long as QEMU does."""

    def __init__(self, name: str, record: Record, qemu: Qemu, ram: Fd, client: AsyncClient, report: Report) -> None:
        """`ram` and `qemu` belong to the caller. Nothing is created yet."""
        self.name = name
        self._record = record
        self._qemu = qemu
        self._ram = ram
        self._client = client
        self._report = report
        self._session: AsyncHeldOutgoingSession | None = None
        self._sessions_lost = 0
        self._noted: Record | None = None
        """What the session's manifest says about the guest."""
        self._hardware: live.Hardware | None = None
        self._turn = asyncio.Lock()
        """Of a phase of an update, or an upgrade of QEMU: one at a time."""
        self._updating = False
        self._paused = False
        """Whether the agent paused the guest, so that the agent has to continue it."""
        self._leaving = False
        """Whether luod starts the next kernel, which has the guest then."""

    async def carry(self, *, patiently: bool = False) -> int:
        """Takes part in updates until QEMU ends. Returns QEMU's exit status.

        The session NAME is created, and released when the guest has ended. Raises the errors of `AsyncClient.create`;
        the guest runs then, and the caller ends it. If `patiently`, the session is created as soon as that is possible.
        A luod that is gone later does not end the guest.
        """
        await self._look()
        try:
            self._session = await self._created()
        except LuodError as error:
            if not patiently:
                raise
            self._report(f"takes part in no update yet: {error}")
        taking = asyncio.ensure_future(self._keep_taking_part())
        ending = asyncio.ensure_future(self._qemu.wait())
        try:
            async with self._controlled():
                await asyncio.wait({taking, ending}, return_when=asyncio.FIRST_COMPLETED)
                if taking.done():
                    taking.result()  # raises
                code = await ending
        finally:
            for task in (taking, ending):
                task.cancel()
            await asyncio.wait({taking, ending})
            await self._release()
        self._report(f"QEMU ended with {said(code)}")
        return code

    async def _created(self, *, sessions_lost: int = 0) -> AsyncHeldOutgoingSession:
        session = await self._client.create(self.name)
        try:
            await self._note(session, self._record)
            if sessions_lost:
                await session.annotate({SESSIONS_LOST: sessions_lost})
        except BaseException:
            session.close()
            raise
        return session

    async def _note(self, session: AsyncHeldOutgoingSession, record: Record) -> None:
        self._noted = None
        await session.annotate(about(record))
        self._noted = record

    async def _keep_taking_part(self) -> None:
        """Takes part in updates with a session that luod knows. It is another one when luod has lost the last."""
        while True:
            if self._session is not None:
                try:
                    await self._take_part(self._session)
                except (LuodError, OSError) as error:
                    self._report(f"takes part in no update: {_words(error)}")
                # Its RAM is preserved no longer with the last fd of the session, and can be preserved in another one.
                session, self._session = self._session, None
                session.close()
            self._session = await self._created_again()

    async def _created_again(self) -> AsyncHeldOutgoingSession:
        """Creates the session until that succeeds. The operator is told: meanwhile no update carries the guest."""
        reason = ""
        while True:
            await asyncio.sleep(_AGAIN_PAUSE)
            try:
                await ownership.release_earlier(self._client, self.name)
                session = await self._created(sessions_lost=self._sessions_lost + 1)
            except (LuodError, OSError) as error:
                # luod is gone, or an update runs that this guest is no part of.
                if reason != (reason := _words(error)):
                    self._report(f"has no session, which is tried again: {reason}")
                continue
            self._sessions_lost += 1
            self._report(
                "has a new session, since luod had lost the last; an update that ran meanwhile did not carry it"
            )
            return session

    async def _release(self) -> None:
        """Ends the session of a guest that is gone, so that nothing of it is carried.

        luod releases nothing during an update. One in progress ends, since this participant is gone. When luod starts
        the next kernel, systemd may end this unit: the guest is in its session, and a wait here would delay the kexec.
        """
        session = self._session
        if session is None:
            return
        session.close()
        if self._leaving:
            return
        with contextlib.suppress(NoSuchSession):
            for _ in range(_RELEASES):
                try:
                    await session.release()
                    return
                except (Busy, Refused):
                    await asyncio.sleep(_RELEASE_PAUSE)
                except LuodError as error:
                    self._report(f"its session is still held: {error}")
                    return
            self._report("its session is still held: an update does not end")

    async def upgrade(self, program: str) -> Upgraded:
        """Replaces the guest's QEMU by `program`, on this kernel.

        What the session says about the guest is changed before, so that a failure of that changes nothing. Raises
        QemuRefusal: nothing was done. Raises UpgradeFailed: the guest goes on with the old QEMU. Raises QemuEnded: the
        guest has ended. Raises another QemuError: the guest stays paused in the old QEMU.
        """
        async with self._turn:
            if self._updating:
                raise QemuRefusal("an update of the kernel is under way", hint="try again when it has ended")
            record = self._record
            try:
                file, capabilities = await programs.for_record(record, program)
            except QemuError as error:
                raise self._still(error) from error
            new = Side(command_line.plan(record.arguments, capabilities, machine=record.machine), capabilities)
            if found := await live.vetoes(self._qemu.qmp, self._hardware):
                raise QemuRefusal(f"{self.name}: {'; '.join(found)}", hint="undo that, and try again")
            old = Side(
                command_line.plan(record.arguments, record.capabilities, machine=record.machine), record.capabilities
            )
            self._record = of_plan(new.plan, capabilities, file)
            try:
                await self._note_change()
                folder = control.folder(control.path(self.name, self._client.path))
                outcome = await upgrade.replaced(self._qemu, old, new, self._ram, folder)
            except BaseException:
                self._record = record
                raise
            if outcome.failure is not None:
                self._record = record
                with contextlib.suppress(QemuRefusal):  # else it is repeated when an update freezes
                    await self._note_change()
                self._report(f"goes on with QEMU {record.qemu}: {outcome.failure}")
                raise self._still(outcome.failure)
            await self._look()
            self._report(f"goes on with QEMU {capabilities.version} ({outcome.way})")
            return Upgraded(capabilities.version, record.machine, outcome.way, self._qemu.pid)

    async def _look(self) -> None:
        """Notes what hardware the guest has. A guest of which QEMU does not say it goes on, too."""
        try:
            self._hardware = await live.hardware(self._qemu.qmp)
        except (QmpFailed, QmpUnknown, QemuLate) as error:
            self._report(f"what is plugged in from now on may not be noticed: {error}")

    def _still(self, failure: LuodError) -> UpgradeFailed:
        """Returns the answer to an upgrade after which the guest goes on with the QEMU that it had."""
        return UpgradeFailed(
            message=f"{self.name} goes on with QEMU {self._record.qemu}: {failure}",
            hint=failure.hint or "see what the agent and QEMU printed",
        )

    async def _note_change(self) -> None:
        """Has the session say what the record says. Raises QemuRefusal."""
        if self._session is None or self._noted is self._record:
            return
        try:
            await self._note(self._session, self._record)
        except (LuodError, OSError) as error:
            raise QemuRefusal(
                f"{self.name}: its session cannot say which QEMU runs it: {_words(error)}", hint="see luod's log"
            ) from error

    @contextlib.asynccontextmanager
    async def _controlled(self) -> AsyncIterator[None]:
        """Serves the guest's socket in the block. Without a place for it, the guest lives as well."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(control.served(self, control.path(self.name, self._client.path)))
            except OSError as error:
                self._report(f"has no socket, so that its QEMU cannot be upgraded: {error}")
            yield

    async def _take_part(self, session: AsyncHeldOutgoingSession) -> None:
        async with AsyncParticipant(self.name, [session], planned=self._plan(session), client=self._client) as taking:
            self._report("takes part in updates")
            while True:
                try:
                    phase = await taking.next()
                except LuodError:
                    if not self._paused:
                        raise
                    # The event that continues the guest is still to come.
                    await asyncio.sleep(_RELEASE_PAUSE)
                    continue
                if phase is None:
                    continue
                async with phase:
                    try:
                        async with self._turn:
                            await self._answer(phase, session, taking)
                    except (LuodError, OSError) as error:
                        self._report(f"{phase.kind}: {_words(error)}")
                        if phase.event.votes_in is not None and not phase.voted:
                            await phase.veto(f"{self.name}: {_words(error)}")

    def _plan(self, session: AsyncHeldOutgoingSession) -> tuple[PlannedFile, ...]:
        """Returns the files that luod has to expect in an update."""
        written = PlannedFile(session.name, state.MOST_BYTES, "freezing", token=STATE_TOKEN, name=STATE)
        if RAM_TOKEN in session.tokens:
            return (written,)
        status = os.fstat(self._ram.fileno())
        size, allocated = status.st_size, status.st_blocks * 512
        ram = PlannedFile(session.name, size, "preparing", allocated, RAM_TOKEN, RAM)
        return written, ram

    async def _answer(self, phase: AsyncPhase, session: AsyncHeldOutgoingSession, taking: AsyncParticipant) -> None:
        self._updating = phase.kind not in ("cancelled", "lost")
        self._leaving = phase.kind == "jumping"
        match phase.kind:
            case "preparing":
                await self._prepare(phase)
            case "granted":
                # The guest runs on: what would punch holes into preserved memory was refused, and is again when frozen.
                await session.preserve(self._ram, RAM_TOKEN, name=RAM)
                await taking.declare([session], planned=self._plan(session))
                await phase.ready()
            case "freezing":
                await self._freeze(phase, session)
            case "jumping":
                self._report("waits for the next kernel")
            case "cancelled" | "lost":
                await self._go_on(phase.reason)

    async def _prepare(self, phase: AsyncPhase) -> None:
        async with in_time(_left(phase), "QEMU did not say whether its guest can be carried"):
            found = await live.vetoes(self._qemu.qmp, self._hardware)
        if found:
            self._report(f"refuses the update: {'; '.join(found)}")
            await phase.veto(f"{self.name}: {'; '.join(found)}")
        elif phase.awaits_vote:
            await phase.ready()

    async def _freeze(self, phase: AsyncPhase, session: AsyncHeldOutgoingSession) -> None:
        qmp = self._qemu.qmp
        async with in_time(_left(phase), "QEMU did not pause the guest"):
            running = await state.runs(qmp)
            if running:
                await self._pause()
            # A device or an image that was changed since preparing would be another one in the next kernel.
            found = await live.vetoes(qmp, self._hardware)
        if found:
            raise QemuRefusal("; ".join(found))
        # No update carries the state of one QEMU with the description of another.
        await self._note_change()
        with await state.save(qmp, file_uri=self._record.capabilities.file_uri, within=_left(phase)) as written:
            frozen = await phase.create()  # the participant closes it when the update is cancelled
            await frozen.annotate(about_state(phase.generation, running=running))
            await frozen.preserve(written, STATE_TOKEN, name=STATE)
            await session.annotate({GENERATION: phase.generation})
            self._report(f"frozen, with {os.fstat(written.fileno()).st_size} bytes of state")
        await phase.ready()

    async def _pause(self) -> None:
        qmp = self._qemu.qmp
        async with qmp.events("STOP") as following:
            stopped = following()
            self._paused = True
            await qmp.execute("stop")
            await stopped

    async def _go_on(self, reason: str | None) -> None:
        """Continues the guest, if the agent paused it."""
        if not self._paused:
            self._report(f"goes on: {reason}")
            return
        while True:
            try:
                await self._qemu.qmp.execute("cont")
            except QemuLate as error:
                self._report(f"is still paused: {error}")
                continue
            except QmpFailed as error:
                self._report(f"cannot be continued: {error}; it stays paused")
                return
            except QemuEnded:
                return  # which ends this task
            self._paused = False
            self._report(f"goes on: {reason}")
            return


def _left(phase: AsyncPhase) -> float:
    """Returns the seconds that QEMU may take in a phase: the agent says why it vetoes before luod's deadline."""
    left = QEMU_SECONDS if phase.seconds_left is None else phase.seconds_left
    return min(QEMU_SECONDS, max(_MARGIN, left - _MARGIN))


def _words(error: Exception) -> str:
    """Returns what an error says; its kind, if it has no words."""
    return str(error) or type(error).__name__
