"""Replaces the QEMU of a running guest by another QEMU on the same kernel.

The guest's RAM stays in its memfd, which both QEMUs have; the state of its devices goes through a second one, as in an
update. The guest is paused meanwhile. Three ways, the best first:

* *transfer*: QEMU's own cpr-transfer, where both have it.
* *beside*: the new QEMU starts first, while the guest runs, and then loads the state.
* *in turn*: the old QEMU ends before the new one starts, since both need something that can be open only once, such as
  a port or a tap (`exclusive`).

A failure leaves the guest with the old QEMU: in turn it is started again, in the same way as in the next kernel. Once
the new one was told to run the guest, there is no way back: it may have changed the memory, which the old state does
not fit then (docs/hazards.md, H12).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from luod.agents.guests import state
from luod.agents.guests.deadline import QEMU_SECONDS, in_time
from luod.agents.qemu import process
from luod.agents.qemu.capabilities import Capabilities
from luod.agents.qemu.command_line import Plan
from luod.agents.qemu.exclusive import exclusive
from luod.agents.qemu.process import Qemu
from luod.agents.qemu.qmp import Qmp
from luod.errors import GuestEnded, LuodError, QemuEnded, QemuError, QemuLate, QmpFailed
from luod.frozen import frozen
from luod.linux import Fd

_PAUSE: Final = 0.002


@frozen
class Side:
    """A QEMU to run the guest: what it is started by, and what it can do."""

    plan: Plan
    capabilities: Capabilities


@frozen
class Outcome:
    """How the QEMU was replaced: transfer, beside or in turn. `failure` is None if the new one runs the guest."""

    way: str
    failure: LuodError | None


async def replaced(qemu: Qemu, before: Side, after: Side, ram: Fd, folder: str) -> Outcome:
    """Replaces `qemu`, which runs the guest on `ram` and was started by `before`, by a QEMU of `after`.

    After a failure the guest goes on with a QEMU of `before`. `ram` belongs to the caller. `folder` is made for the
    sockets of a transfer, and removed. Raises QemuEnded, also as GuestEnded: no QEMU runs the guest any more. Raises
    another QemuError: the guest stays paused in the old one, which does not continue it.
    """
    once = exclusive(after.plan.arguments)
    async with qemu.exchange():
        running = await state.runs(qemu.qmp)
        if once:
            return await _in_turn(qemu, before, after, ram, running)
        if before.capabilities.cpr_transfer and after.capabilities.cpr_transfer and running:
            return await _attempted(qemu, "transfer", running, lambda: _transferred(qemu, after, ram, folder))
        return await _attempted(qemu, "beside", running, lambda: _beside(qemu, before, after, ram, running))


async def _attempted(qemu: Qemu, way: str, running: bool, attempt: Callable[[], Awaitable[Qemu]]) -> Outcome:
    """Becomes the QEMU of the attempt, or continues the guest in the old one. Raises GuestEnded: both have ended."""
    try:
        new = await attempt()
    except GuestEnded:
        await _killed(qemu)
        raise
    except Exception as error:  # noqa: BLE001 - no error of the agent's ends its guest
        if running and not await state.runs(qemu.qmp):
            await _continued_again(qemu, error)
        return Outcome(way, _failure(error))
    await _killed(qemu)
    qemu.become(new)
    return Outcome(way, None)


async def _beside(old: Qemu, before: Side, after: Side, ram: Fd, running: bool) -> Qemu:
    new = await process.started(after.plan, ram, incoming=True)
    try:
        await new.meet(within=QEMU_SECONDS)
        if running:
            await old.qmp.execute("stop")
        with await state.save(old.qmp, file_uri=before.capabilities.file_uri, within=QEMU_SECONDS) as written:
            file_uri = after.capabilities.file_uri
            await state.load(new.qmp, written, file_uri=file_uri, within=QEMU_SECONDS, goes_on=running)
        await _continued(new, running)
    except BaseException:
        await _killed(new)
        raise
    return new


async def _in_turn(qemu: Qemu, before: Side, after: Side, ram: Fd, running: bool) -> Outcome:
    try:
        if running:
            await qemu.qmp.execute("stop")
        written = await state.save(qemu.qmp, file_uri=before.capabilities.file_uri, within=QEMU_SECONDS)
    except Exception as error:  # noqa: BLE001 - no error of the agent's ends its guest
        if running:
            await _continued_again(qemu, error)
        return Outcome("in turn", _failure(error))
    with written:
        # Without its own way to end: it would remove the sockets and the files that the new QEMU makes.
        await _killed(qemu)
        try:
            qemu.become(await _running(after, ram, written, running))
        except GuestEnded:
            raise
        except Exception as error:  # noqa: BLE001 - no error of the agent's ends its guest
            try:
                qemu.become(await _loaded(before, ram, written, running))
            except Exception as again:
                raise GuestEnded(
                    f"the guest has ended: no QEMU loads its state: {_failure(error)}; the old one: {_failure(again)}"
                ) from again
            if running:  # a disk may be locked, by which both fail: the guest waits in this QEMU then
                await _continued_again(qemu, error)
            return Outcome("in turn", _failure(error))
        return Outcome("in turn", None)


async def _running(side: Side, ram: Fd, written: Fd, running: bool) -> Qemu:
    """Returns a QEMU that has loaded the state. The guest runs if `running`."""
    qemu = await _loaded(side, ram, written, running)
    try:
        await _continued(qemu, running)
    except BaseException:
        await _killed(qemu)
        raise
    return qemu


async def _loaded(side: Side, ram: Fd, written: Fd, running: bool) -> Qemu:
    """Returns a QEMU that has loaded the state. The guest is paused; it goes on next if `running`."""
    qemu = await process.started(side.plan, ram, incoming=True)
    try:
        await qemu.meet(within=QEMU_SECONDS)
        file_uri = side.capabilities.file_uri
        await state.load(qemu.qmp, written, file_uri=file_uri, within=QEMU_SECONDS, goes_on=running)
    except BaseException:
        await _killed(qemu)
        raise
    return qemu


async def _transferred(old: Qemu, after: Side, ram: Fd, folder: str) -> Qemu:
    """Returns a QEMU that has taken the running guest over. `old` has its mode back, whatever happens."""
    with _made(folder):
        channels = [_channel("main", f"{folder}/main"), _channel("cpr", f"{folder}/cpr")]
        new = await process.started(after.plan, ram, incoming=True, channels=channels)
        try:
            await _listening(new, f"{folder}/cpr")
            # The new QEMU cannot be told of a capability before the guest comes. In this mode no RAM is sent anyway.
            await state.with_ram(old.qmp)
            await old.qmp.execute("migrate-set-parameters", {"mode": "cpr-transfer"})
            await old.qmp.execute("migrate", {"channels": channels})
            await new.meet(within=QEMU_SECONDS)
            await _completed(old.qmp)
            await _arrived(new.qmp)
            await new.qmp.execute("migrate-set-parameters", {"mode": "normal"})
            await _continued(new, running=True)
        except BaseException:
            await _killed(new)
            with contextlib.suppress(QmpFailed):
                await old.qmp.execute("migrate-set-parameters", {"mode": "normal"})
            raise
        return new


@contextlib.contextmanager
def _made(folder: str) -> Iterator[None]:
    """Makes the folder, for this user only, and removes it after the block. One that was left is replaced.

    Raises OSError: it cannot be made.
    """
    shutil.rmtree(folder, ignore_errors=True)
    os.mkdir(folder, 0o700)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _channel(kind: str, path: str) -> dict[str, object]:
    return {"channel-type": kind, "addr": {"transport": "socket", "type": "unix", "path": path}}


async def _listening(qemu: Qemu, path: str) -> None:
    """Waits until QEMU listens at `path`. It opens everything else, its monitor too, when it was connected to there."""
    async with in_time(QEMU_SECONDS, "the new QEMU did not listen for the guest"):
        while not os.path.exists(path):
            if qemu.ended:
                raise QemuEnded("the new QEMU ended before it listened")
            await asyncio.sleep(_PAUSE)


async def _completed(qmp: Qmp) -> None:
    async with in_time(QEMU_SECONDS, "the guest was not transferred"):
        while not (found := await state.migration(qmp)).completed:
            if found.failed:
                raise QemuError(f"the guest was not transferred: {found.why}", hint="see what QEMU printed")
            await asyncio.sleep(_PAUSE)


async def _arrived(qmp: Qmp) -> None:
    """Waits until the guest was loaded. It is paused."""
    async with in_time(QEMU_SECONDS, "the new QEMU did not load the guest"):
        while await state.status(qmp) == "inmigrate":
            await asyncio.sleep(_PAUSE)


async def _continued(new: Qemu, running: bool) -> None:
    """Continues the guest, if it was `running`. Raises QmpFailed: it did not run. Raises GuestEnded: it may have.

    A QEMU that does not answer may run it, so no other may have it: it is asked until it answers or ends.
    """
    while running:
        try:
            await new.qmp.execute("cont")
            return
        except QemuLate:
            continue
        except QemuEnded as error:
            raise GuestEnded(f"the guest has ended with the new QEMU, as it began to run: {error}") from error


async def _continued_again(old: Qemu, failure: Exception) -> None:
    """Continues the guest in the old QEMU. Raises QemuError: it stays paused."""
    try:
        await old.qmp.execute("cont")
    except QmpFailed as error:
        raise QemuError(
            f"the guest stays paused in the old QEMU: {error}; the new one failed: {_failure(failure)}",
            hint="continue it at a monitor of its own (cont)",
        ) from error


async def _killed(qemu: Qemu) -> None:
    qemu.signal(signal.SIGKILL)
    await qemu.end()


def _failure(error: Exception) -> LuodError:
    return error if isinstance(error, LuodError) else QemuError(str(error) or type(error).__name__)
