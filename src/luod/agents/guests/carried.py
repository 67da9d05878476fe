"""A guest's part in updates: pauses it, has its state written, and continues it if the update is cancelled.

The phases are those of docs/updates.md. A failure in a phase is a veto, and the guest goes on. Only the end of its QEMU
ends it. The agents differ in how they pause, ask and continue a guest, which is in their subclasses.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import traceback
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

from luod.agents.guests import ownership, state
from luod.agents.guests.deadline import QEMU_SECONDS, in_time
from luod.agents.guests.monitor import Monitor
from luod.agents.guests.pairing import GENERATION, RAM, RAM_TOKEN, SESSIONS_LOST, STATE, STATE_TOKEN, about_state
from luod.aio import AsyncClient, AsyncHeldOutgoingSession, AsyncParticipant, AsyncPhase
from luod.errors import (
    Busy,
    LuodError,
    NoSuchSession,
    QemuEnded,
    QemuError,
    QemuLate,
    QemuRefusal,
    Refused,
)
from luod.ipc.client.participation import PlannedFile
from luod.linux import Fd

Report = Callable[[str], None]
"""Takes a line about the guest for people."""

_RELEASES: Final = 100
_RELEASE_PAUSE: Final = 0.1
"""How often the session of a guest that ended is released, and the seconds between two attempts."""
_AGAIN_PAUSE: Final = 0.5
"""The seconds between two attempts to create a session that luod has lost."""
_PROCEEDS: Final = 20
"""How often a guest is continued that an unexpected error keeps paused, with `_AGAIN_PAUSE` between."""
_STUCK_PAUSES: Final = (1.0, 2.0, 5.0, 10.0)
"""The seconds between two attempts to continue a guest that QEMU refuses to continue. The last one is repeated."""
_MARGIN: Final = 0.5
"""Seconds before luod's deadline at which the agent gives up by itself, so that its reason is heard."""


class CarriedGuest(ABC):
    """A guest that runs on the memfd `ram`, for as long as its QEMU does. `agent` is the word for its agent."""

    agent: str
    by_hand: str
    """How an operator continues the guest, for people."""

    def __init__(self, name: str, ram: Fd, client: AsyncClient, report: Report) -> None:
        """`ram` belongs to the caller. Nothing is created yet."""
        self.name = name
        self._ram = ram
        self._client = client
        self._report = report
        self._session: AsyncHeldOutgoingSession | None = None
        self._sessions_lost = 0
        self._turn = asyncio.Lock()
        """Held during a phase of an update, and during an agent's other work on the guest: one at a time."""
        self._updating = False
        self._paused = False
        """Whether the agent paused the guest, so that the agent has to continue it."""
        self._stuck = ""
        """Why QEMU refused to continue the guest; "" unless it did."""
        self._continuing: asyncio.Task[None] | None = None
        """Continues the guest as soon as QEMU does not refuse it."""
        self._ram_left_out = False
        """Whether QEMU may still leave the RAM out of a state, also of one that the guest's owner has it save."""
        self._leaving = False
        """Whether luod starts the next kernel, in which the guest goes on."""

    @abstractmethod
    async def _ended(self) -> int:
        """Waits for the end of the guest, and returns an exit status."""

    @abstractmethod
    def _about(self) -> Mapping[str, Any]:
        """Returns what the session NAME says about the guest."""

    @abstractmethod
    async def _vetoes(self) -> tuple[str, ...]:
        """Returns why the guest cannot be carried as it is now; () if it can be. Raises QemuError."""

    @property
    @abstractmethod
    def _monitor(self) -> Monitor:
        """Returns the monitor of the guest's QEMU."""

    @abstractmethod
    async def _pause(self) -> None:
        """Pauses the running guest, and returns when it is paused. Raises QemuError."""

    @abstractmethod
    async def _save(self, within: float) -> Fd:
        """Returns a new memfd with the state of the paused guest, in `within` seconds. Raises QemuError."""

    @abstractmethod
    async def _proceed(self) -> None:
        """Continues the guest, which the agent paused.

        Raises QemuEnded: it has ended. Raises QemuLate: this has to be tried again. Raises another QemuError: it stays
        paused.
        """

    @abstractmethod
    async def _note_change(self) -> None:
        """Writes a changed description of the guest to the session. Raises the errors of `annotate`, or QemuRefusal."""

    @contextlib.asynccontextmanager
    async def _accompanied(self) -> AsyncIterator[None]:
        """Does an agent's work beside updates during the block, such as serving a socket."""
        yield

    async def carry(self, *, patiently: bool = False) -> int:
        """Takes part in updates until the guest ends. Returns its exit status.

        The session NAME is created, and released when the guest has ended. Raises the errors of `AsyncClient.create`;
        the guest runs then. If `patiently`, the session is created as soon as that is possible. Neither a luod that is
        gone later nor an error of the agent ends the guest.
        """
        try:
            self._session = await self._created()
        except Exception as error:
            if not patiently:
                raise
            self._report(f"takes part in no update yet: {said(error)}")
        taking = asyncio.ensure_future(self._keep_taking_part())
        ending = asyncio.ensure_future(self._ended())
        try:
            async with self._accompanied():
                await asyncio.wait({taking, ending}, return_when=asyncio.FIRST_COMPLETED)
                if taking.done() and (failure := taking.exception()) is not None:
                    said(failure)
                return await ending
        finally:
            tasks = {taking, ending} if self._continuing is None else {taking, ending, self._continuing}
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await self._release()

    async def _created(self, *, sessions_lost: int = 0) -> AsyncHeldOutgoingSession:
        session = await self._client.create(self.name)
        try:
            await self._note(session)
            if sessions_lost:
                await session.annotate({SESSIONS_LOST: sessions_lost})
        except BaseException:
            session.close()
            raise
        return session

    async def _note(self, session: AsyncHeldOutgoingSession) -> None:
        await session.annotate(self._about())

    async def _keep_taking_part(self) -> None:
        """Takes part in updates with a session that luod knows. It is another one when luod has lost the last."""
        while True:
            if self._session is not None:
                try:
                    await self._take_part(self._session)
                except Exception as error:  # noqa: BLE001 - no error of the agent's ends its guest
                    self._report(f"takes part in no update: {said(error)}")
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
            except Exception as error:  # noqa: BLE001 - no error of the agent's ends its guest
                # luod is gone, or an update runs that this guest is no part of.
                if reason != words(error):
                    reason = said(error)
                    self._report(f"has no session, which is tried again: {reason}")
                continue
            self._sessions_lost += 1
            self._report(
                "has a new session, since luod had lost the last; an update that ran meanwhile did not carry it"
            )
            return session

    async def _release(self) -> bool:
        """Ends the session of a guest that is gone, so that no update carries it. Returns whether luod has released it.

        luod releases nothing during an update. One in progress ends, since this participant is gone. When luod starts
        the next kernel, systemd may end this unit: the guest is in its session, and a wait here would delay the kexec.
        """
        session = self._session
        if session is None:
            return True
        session.close()
        if self._leaving:
            return False
        with contextlib.suppress(NoSuchSession):
            for _ in range(_RELEASES):
                try:
                    await session.release()
                    return True
                except (Busy, Refused):
                    await asyncio.sleep(_RELEASE_PAUSE)
                except LuodError as error:
                    self._report(f"its session is still held: {error}")
                    return False
            self._report("its session is still held: an update does not end")
            return False
        return True

    async def _take_part(self, session: AsyncHeldOutgoingSession) -> None:
        async with AsyncParticipant(self.name, [session], planned=self._plan(session), client=self._client) as taking:
            self._report("takes part in updates")
            while True:
                try:
                    phase = await taking.next()
                except Exception:
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
                    except Exception as error:  # noqa: BLE001 - no error of the agent's ends its guest
                        self._report(f"{phase.kind}: {said(error)}")
                        if phase.event.votes_in is not None and not phase.voted:
                            await self._veto(phase, f"{self.name}: {words(error)}")

    async def _veto(self, phase: AsyncPhase, reason: str) -> None:
        """Vetoes. If that fails the vote is missing, which cancels the update as well: the guest waits for that."""
        try:
            await phase.veto(reason)
        except Exception as error:  # noqa: BLE001 - no error of the agent's ends its guest
            self._report(f"{phase.kind}: cannot vote: {said(error)}")

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
            if self._stuck:
                await self._go_on("QEMU continues it now")
            found = (*self._stuck_vetoes(), *await self._vetoes())
        if found:
            self._report(f"refuses the update: {'; '.join(found)}")
            await phase.veto(f"{self.name}: {'; '.join(found)}")
        elif phase.awaits_vote:
            await phase.ready()

    async def _freeze(self, phase: AsyncPhase, session: AsyncHeldOutgoingSession) -> None:
        async with in_time(_left(phase), "QEMU did not pause the guest"):
            if found := self._stuck_vetoes():
                raise QemuRefusal("; ".join(found))
            running = await state.runs(self._monitor)
            if running:
                self._paused = True
                await self._pause()
            # A device or an image that was changed since preparing would be another one in the next kernel.
            found = await self._vetoes()
        if found:
            raise QemuRefusal("; ".join(found))
        # No update carries the state of one QEMU with the description of another.
        await self._note_change()
        self._ram_left_out = True
        with await self._save(_left(phase)) as written:
            self._ram_left_out = False
            frozen = await phase.create()  # the participant closes it when the update is cancelled
            await frozen.annotate(about_state(self.agent, phase.generation, running=running))
            await frozen.preserve(written, STATE_TOKEN, name=STATE)
            await session.annotate({GENERATION: phase.generation})
            self._report(f"frozen, with {os.fstat(written.fileno()).st_size} bytes of state")
        await phase.ready()

    async def go_on_restored(self) -> None:
        """Continues the guest, whose state was loaded. One that cannot be continued yet is continued later."""
        self._paused = True
        await self._go_on("it was restored")

    @property
    def stuck(self) -> bool:
        """Returns whether QEMU refused to continue the guest, so that it is paused."""
        return bool(self._stuck)

    def _stuck_vetoes(self) -> tuple[str, ...]:
        """Returns why an update has to wait: a guest that should run would be carried as one that its owner paused."""
        return (f"it is paused, and cannot be continued: {self._stuck}",) if self._stuck else ()

    async def _go_on(self, reason: str | None) -> None:
        """Continues the guest, if the agent paused it, and has its owner's saves contain its RAM.

        One that QEMU refuses to continue is continued as soon as QEMU does not refuse it.
        """
        failures = 0
        while self._paused:
            try:
                await self._proceed()
                self._paused, self._stuck = False, ""
            except QemuLate as error:
                self._report(f"is still paused: {error}")
            except QemuEnded:
                return  # which ends this task
            except QemuError as error:
                self._note_stuck(words(error))
                break
            except Exception as error:  # noqa: BLE001 - no error of the agent's ends its guest
                failures += 1
                if failures == _PROCEEDS:
                    self._note_stuck(words(error))
                    break
                if failures == 1:
                    self._report(f"is still paused: {said(error)}")
                await asyncio.sleep(_AGAIN_PAUSE)
        else:
            self._report(f"goes on: {reason}")
        await self._have_ram_saved()

    def _note_stuck(self, reason: str) -> None:
        """Notes that the guest stays paused. Its QEMU has the only state of it, so it is continued there or never."""
        if reason != self._stuck:
            self._report(
                f"cannot be continued: {reason}; it stays paused, and this is tried again. Remove the cause, or "
                f"continue it by {self.by_hand}. Ending its QEMU loses the guest"
            )
        self._stuck = reason
        if self._continuing is None or self._continuing.done():
            self._continuing = asyncio.ensure_future(self._continue_later())

    async def _continue_later(self) -> None:
        pauses = iter(_STUCK_PAUSES)
        while True:
            await asyncio.sleep(next(pauses, _STUCK_PAUSES[-1]))
            async with self._turn:
                if not self._paused:
                    return
                if not self._updating:  # it is continued when the update is cancelled
                    await self._go_on("QEMU continues it now")

    async def _have_ram_saved(self) -> None:
        """Has QEMU write the RAM too, after a failure that may have kept the agent from it."""
        if not self._ram_left_out:
            return
        try:
            await state.with_ram_again(self._monitor)
        except QemuEnded:
            return
        except Exception as error:  # noqa: BLE001 - no error of the agent's ends its guest
            self._report(
                f"must be saved by this agent only: another save would be without the guest's memory: {said(error)}"
            )
            return
        self._ram_left_out = False


def _left(phase: AsyncPhase) -> float:
    """Returns the seconds that QEMU may take in a phase: the agent says why it vetoes before luod's deadline."""
    left = QEMU_SECONDS if phase.seconds_left is None else phase.seconds_left
    return min(QEMU_SECONDS, max(_MARGIN, left - _MARGIN))


def words(error: BaseException) -> str:
    """Returns what an error says; its kind, if it has no words."""
    return str(error) or type(error).__name__


def said(error: BaseException) -> str:
    """Returns `words` of an error, and prints the traceback of one that is not expected."""
    if not isinstance(error, LuodError | OSError):
        with contextlib.suppress(OSError):  # standard error may be a full disk, or a pipe without a reader
            traceback.print_exception(error)
    return words(error)
