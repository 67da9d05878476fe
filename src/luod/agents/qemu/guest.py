"""A guest whose QEMU the agent started: how it is paused, saved and continued, and the exchange of its QEMU."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from luod.agents.guests import live, state
from luod.agents.guests.carried import CarriedGuest, Report, words
from luod.agents.guests.monitor import Monitor
from luod.agents.qemu import command_line, control, programs, upgrade
from luod.agents.qemu.process import Qemu, said
from luod.agents.qemu.record import AGENT, Record, about, of_plan
from luod.agents.qemu.upgrade import Side
from luod.aio import AsyncClient, AsyncHeldOutgoingSession
from luod.errors import LuodError, QemuEnded, QemuError, QemuRefusal
from luod.ipc.errors import UpgradeFailed
from luod.ipc.types.qemu import Upgraded
from luod.linux import Fd


class Guest(CarriedGuest):
    """A guest that runs in `qemu` on the memfd `ram`, for as long as QEMU does."""

    agent = AGENT
    by_hand = "`cont` at a monitor of its own"

    def __init__(self, name: str, record: Record, qemu: Qemu, ram: Fd, client: AsyncClient, report: Report) -> None:
        """`ram` and `qemu` belong to the caller. Nothing is created yet."""
        super().__init__(name, ram, client, report)
        self._record = record
        self._qemu = qemu
        self._noted: Record | None = None
        """What the session's manifest says about the guest."""
        self._hardware: live.Hardware | None = None

    async def carry(self, *, patiently: bool = False) -> int:
        await self._look()
        code = await super().carry(patiently=patiently)
        self._report(f"QEMU ended with {said(code)}")
        return code

    async def _ended(self) -> int:
        """Returns QEMU's exit status."""
        return await self._qemu.wait()

    def _about(self) -> Mapping[str, Any]:
        return about(self._record)

    async def _note(self, session: AsyncHeldOutgoingSession) -> None:
        record, self._noted = self._record, None
        await super()._note(session)
        self._noted = record

    async def _vetoes(self) -> tuple[str, ...]:
        return await live.vetoes(self._qemu.qmp, self._hardware)

    @property
    def _monitor(self) -> Monitor:
        return self._qemu.qmp

    async def _pause(self) -> None:
        qmp = self._qemu.qmp
        async with qmp.events("STOP") as following:
            stopped = following()
            try:
                await qmp.execute("stop")
                await stopped
            finally:
                stopped.cancel()

    async def _save(self, within: float) -> Fd:
        return await state.save(self._qemu.qmp, file_uri=self._record.capabilities.file_uri, within=within)

    async def _proceed(self) -> None:
        try:
            await self._qemu.qmp.execute("cont")
        except QemuEnded as error:
            if await self._qemu.ends():
                raise
            raise QemuError(f"QEMU lives, and its monitor is lost: {error}") from error

    async def upgrade(self, program: str) -> Upgraded:
        """Replaces the guest's QEMU by `program`, on this kernel.

        What the session says about the guest is changed before, so that a failure of that changes nothing. Raises
        QemuRefusal: nothing was done. Raises UpgradeFailed: the guest goes on with the old QEMU. Raises QemuEnded: the
        guest has ended. Raises another QemuError: the guest stays paused in the old QEMU.
        """
        async with self._turn:
            if self._updating:
                raise QemuRefusal("an update of the kernel is under way", hint="try again when it has ended")
            if found := self._stuck_vetoes():
                raise QemuRefusal(f"{self.name}: {'; '.join(found)}", hint="try again when it runs")
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
            ran = await state.runs(self._qemu.qmp)
            self._record = of_plan(new.plan, capabilities, file)
            try:
                await self._note_change()
                folder = control.folder(control.path(self.name, self._client.path))
                self._ram_left_out = True
                outcome = await upgrade.replaced(self._qemu, old, new, self._ram, folder)
            except BaseException as error:
                self._record = record
                if isinstance(error, QemuError):
                    await self._have_ram_saved()
                if ran and isinstance(error, QemuError) and not isinstance(error, QemuEnded):
                    self._paused = True
                    self._note_stuck(words(error))
                raise
            if outcome.failure is not None:
                self._record = record
                await self._have_ram_saved()
                with contextlib.suppress(QemuRefusal):  # else it is repeated when an update freezes
                    await self._note_change()
                self._report(f"goes on with QEMU {record.qemu}: {outcome.failure}")
                raise self._still(outcome.failure)
            self._ram_left_out = False  # it is another QEMU
            await self._look()
            self._report(f"goes on with QEMU {capabilities.version} ({outcome.way})")
            return Upgraded(capabilities.version, record.machine, outcome.way, self._qemu.pid)

    async def _look(self) -> None:
        """Notes what hardware the guest has. A guest of which QEMU does not say it goes on, too."""
        try:
            self._hardware = await live.hardware(self._qemu.qmp)
        except Exception as error:  # noqa: BLE001 - no error of the agent's ends its guest
            self._report(f"what is plugged in from now on may not be noticed: {words(error)}")

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
            await self._note(self._session)
        except (LuodError, OSError) as error:
            raise QemuRefusal(
                f"{self.name}: its session cannot say which QEMU runs it: {words(error)}", hint="see luod's log"
            ) from error

    @contextlib.asynccontextmanager
    async def _accompanied(self) -> AsyncIterator[None]:
        """Serves the guest's socket in the block. Without a place for it, the guest lives as well."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(control.served(self, control.path(self.name, self._client.path)))
            except OSError as error:
                self._report(f"has no socket, so that its QEMU cannot be upgraded: {error}")
            yield
