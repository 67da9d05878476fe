"""A guest whose QEMU libvirt started: how it is paused, saved and continued, by libvirt's own interfaces."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping
from typing import Any, Final

from luod.agents.guests import live, state
from luod.agents.guests.carried import CarriedGuest, Report
from luod.agents.guests.monitor import Monitor
from luod.agents.libvirt import domain, paths, record, refusals
from luod.agents.libvirt.description import Description
from luod.agents.libvirt.domain import DomainQemu
from luod.agents.libvirt.virsh import virsh
from luod.aio import AsyncClient, AsyncHeldOutgoingSession
from luod.errors import LibvirtFailed, LuodError, QemuEnded, QemuLate, QemuRefusal
from luod.linux import Fd

_AGAIN_PAUSE: Final = 0.2
"""The seconds between two attempts to continue a guest by a libvirt that does not do it."""
_OF_LIBVIRT: Final = frozenset(
    f"{each}.ram" for each in ("pc", "microvm", "mach-virt", "ppc_spapr", "s390", "riscv_virt_board", "loongarch")
)
"""The back ends that libvirt names by the machine, which has luod's instead."""


class Domain(CarriedGuest):
    """A domain that runs in `qemu` on the memfd `ram`, for as long as its QEMU does."""

    agent = record.AGENT
    by_hand = "`virsh resume`"

    def __init__(
        self,
        description: Description,
        qemu: DomainQemu,
        ram: Fd,
        client: AsyncClient,
        report: Report,
        *,
        file_uri: bool,
    ) -> None:
        """`ram` and `qemu` belong to the caller. `file_uri`: QEMU knows addresses `file:`. Nothing is created yet."""
        super().__init__(description.name, ram, client, report)
        self.description = description
        self._noted = ""
        self._qemu = qemu
        self.file_uri = file_uri
        self._leave = asyncio.Event()

    async def carry(self, *, patiently: bool = False) -> int:
        """See `CarriedGuest.carry`. SIGTERM and SIGINT end the part in updates, and leave the domain running."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._leave.set)
        try:
            return await super().carry(patiently=patiently)
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def take_over(self) -> None:
        """Continues the guest if the last agent, which was killed, had paused it.

        Nothing of the guest may be in a session of luod's. libvirt's own saves contain its memory afterwards.
        """
        self._ram_left_out = True
        self._paused = was_paused(self.name)
        await self._go_on("its last agent has ended")

    async def _ended(self) -> int:
        ending, leaving = asyncio.ensure_future(self._qemu.wait()), asyncio.ensure_future(self._leave.wait())
        try:
            await asyncio.wait({ending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ending.cancel()
            leaving.cancel()
        if not self._qemu.ended:
            if self._leaving:
                self._report("is left by its agent, paused, and goes on in the next kernel")
                return 0
            self._report("takes no part in updates any more; the domain runs on")
            return 0
        with contextlib.suppress(LuodError):
            self._report(f"has ended: {(await virsh('domstate', '--domain', self.name, '--reason')).strip()}")
        forget_pause(self.name)
        return 0

    async def _release(self) -> bool:
        released = await super()._release()
        if (self._paused or self._ram_left_out) and not self._leaving and not self._qemu.ended:
            if released or not self._paused:
                await self._go_on("its agent ends")
            else:
                self._report("stays paused: luod still has its memory and its state, and an update may carry them")
        return released

    def _about(self) -> Mapping[str, Any]:
        return record.about(self.description)

    async def _note(self, session: AsyncHeldOutgoingSession) -> None:
        self._noted = ""
        await super()._note(session)
        self._noted = self.description.text

    async def _note_change(self) -> None:
        if self._session is not None and self._noted != self.description.text:
            await self._note(self._session)

    async def _vetoes(self) -> tuple[str, ...]:
        """Looks at the domain as libvirt describes it, which is what the next kernel starts."""
        self.description = await domain.running(self.name)
        found = [f"{row.what}: {row.reason}" for row in refusals.found(self.description)]
        if not self._paused:
            # Each question is a process of virsh, so a paused guest is asked no more of them than is needed.
            facts = await domain.facts(self.name)
            if facts.autostart:
                found.append(AUTOSTART.format(self.name))
            if not facts.persistent:
                found.append(UNDEFINED.format(self.name))
            found += await live.vetoes(self._qemu.monitor, unused=_OF_LIBVIRT.__contains__)
        return tuple(found)

    @property
    def _monitor(self) -> Monitor:
        return self._qemu.monitor

    async def _pause(self) -> None:
        note_pause(self.name)
        await virsh("suspend", "--domain", self.name)

    async def _save(self, within: float) -> Fd:
        return await state.save(self._qemu.monitor, file_uri=self.file_uri, within=within)

    async def _proceed(self) -> None:
        try:
            await virsh("resume", "--domain", self.name)
        except LibvirtFailed as error:
            if self._qemu.ended:
                raise QemuEnded("QEMU has ended") from error
            await self._require_running(error)
        forget_pause(self.name)

    async def _require_running(self, refused: LibvirtFailed) -> None:
        """Looks at a guest that libvirt did not continue. It may run: libvirt refuses to continue a running guest.

        Raises QemuLate: libvirt was not there. Raises LibvirtFailed, which is `refused`: the guest is paused.
        """
        try:
            if await state.runs(self._monitor):
                return
            found = await state.status(self._monitor)
        except LibvirtFailed:
            found = ""  # libvirt is not there
        if found:
            raise refused
        await asyncio.sleep(_AGAIN_PAUSE)
        raise QemuLate(str(refused)) from refused


AUTOSTART: Final = (
    "libvirt would start it from the beginning in the next kernel: `virsh autostart --disable {0}`, and enable "
    "luod-libvirt@{0}.service"
)
UNDEFINED: Final = (
    "libvirt has no definition of {0} any more, and would forget it in the next kernel: `virsh define` it"
)


def was_paused(name: str) -> bool:
    """Returns whether an agent has paused the domain, in this boot, and has not continued it."""
    return os.path.exists(paths.paused(name))


def note_pause(name: str) -> None:
    """Notes that the agent has to continue the domain, for an agent that is started in its place."""
    paths.make_folder()
    with open(paths.paused(name), "wb"):
        pass


def forget_pause(name: str) -> None:
    """Notes that the domain is as its owner wants."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(paths.paused(name))


def refuse_autostart(name: str, facts: domain.Facts) -> None:
    """Raises QemuRefusal: libvirt would start the domain from the beginning in the next kernel."""
    if facts.autostart:
        raise QemuRefusal(
            f"libvirt starts {name} by itself with the host, from the beginning, also where the last kernel left it",
            hint=f"`virsh autostart --disable {name}`, and `systemctl enable luod-libvirt@{name}.service`",
        )
