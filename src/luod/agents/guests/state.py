"""The state of a guest's devices: written by a paused QEMU into a memfd, and loaded from it by the next one.

The guest's RAM stays where it is: it is in shared memory with a name, which x-ignore-shared leaves out of the state.
Which form of address QEMU knows is asked of it beforehand (`schema`), never concluded from a version.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

from luod.agents.guests.deadline import in_time
from luod.agents.guests.monitor import Monitor
from luod.errors import QemuEnded, QemuError, QmpFailed
from luod.frozen import frozen
from luod.linux import Fd, HasFileno, memfd

MOST_BYTES: Final = 64 << 20
"""What luod is asked to have free for the state. A guest with few devices has 300 KiB."""

_NAME: Final = "luod-state"
_PAUSES: Final = (0.001, 0.002, 0.004, 0.008)
_WITHOUT_RAM: Final = {"capabilities": [{"capability": "x-ignore-shared", "state": True}]}
_WITH_RAM: Final = {"capabilities": [{"capability": "x-ignore-shared", "state": False}]}
_LOADED_LATE: Final = {"capabilities": [{"capability": "late-block-activate", "state": True}]}
_AGAIN_SECONDS: Final = 30.0
_AGAIN_PAUSE: Final = 0.1
"""How long QEMU may still be writing after a failure, and the seconds between two questions."""
_CANCEL_SECONDS: Final = 10.0
"""How long QEMU may take to stop writing. A QEMU that takes longer stops before it does what it is told next."""
_STOPPED: Final = "the guest's state was not written"
_MORE: Final = "QEMU's own output may say more"


@frozen
class Migration:
    """How far QEMU is with writing or loading a guest. `why` is QEMU's reason for a failure. `over`: QEMU neither
    writes nor loads now.
    """

    completed: bool
    failed: bool
    over: bool
    why: str


async def migration(qmp: Monitor) -> Migration:
    """Returns what QEMU says about the guest that it writes or loads. Raises as `Monitor.asked`."""
    return await qmp.asked("query-migrate", _migration)


async def status(qmp: Monitor) -> str:
    """Returns QEMU's word for what the guest does, such as paused. Raises as `Monitor.asked`."""
    return await qmp.asked("query-status", lambda answer: str(answer["status"]))


async def runs(qmp: Monitor) -> bool:
    """Returns whether the guest runs. Raises as `Monitor.asked`."""
    return await qmp.asked("query-status", lambda answer: bool(answer["running"]))


def _migration(answer: dict[str, Any]) -> Migration:
    found = answer.get("status")
    failed = found in ("failed", "cancelled")
    over = failed or found in ("completed", "none", None)
    return Migration(found == "completed", failed, over, str(answer.get("error-desc") or found))


async def save(qmp: Monitor, *, file_uri: bool, within: float) -> Fd:
    """Returns a new memfd with the state of the paused guest; the caller owns it.

    Raises QemuError: QEMU cannot write it. Raises QemuLate: not in `within` seconds. The guest can be continued then.
    """
    file = memfd("qemu-state", 0)
    try:
        await qmp.execute("migrate-set-capabilities", _WITHOUT_RAM)
        async with _lent(qmp, file, os.O_WRONLY, file_uri=file_uri) as uri:
            try:
                await qmp.execute("migrate", {"uri": uri})
                async with in_time(within, _STOPPED):
                    await _written(qmp)
            except BaseException:
                await _stop_writing(qmp)
                raise
        await with_ram(qmp)
    except BaseException:
        file.close()
        raise
    return file


async def _stop_writing(qmp: Monitor) -> None:
    """Makes QEMU stop writing the state: at the end of that it would pause the guest, which may run again by then."""
    with contextlib.suppress(QemuError):
        async with in_time(_CANCEL_SECONDS, "QEMU did not stop writing"):
            with contextlib.suppress(QmpFailed):
                await qmp.execute("migrate_cancel")
            while not (await migration(qmp)).over:
                await asyncio.sleep(_AGAIN_PAUSE)


async def with_ram(qmp: Monitor) -> None:
    """Makes QEMU include the RAM whenever the guest's owner has it save the guest. Raises QemuError.

    A guest that is saved without its RAM is lost. `save` and `load` call this at their end; after they failed, the
    agent calls `with_ram_again`. QEMU refuses it while it is writing.
    """
    await qmp.execute("migrate-set-capabilities", _WITH_RAM)


async def with_ram_again(qmp: Monitor) -> None:
    """Does `with_ram` as soon as QEMU is no longer writing. Raises QemuEnded. Raises QemuLate: that took too long."""
    async with in_time(_AGAIN_SECONDS, "QEMU was not told to save the guest's memory"):
        while True:
            try:
                await with_ram(qmp)
                return
            except QemuEnded:
                raise
            except QemuError:
                await asyncio.sleep(_AGAIN_PAUSE)


async def load(qmp: Monitor, file: Fd, *, file_uri: bool, within: float, goes_on: bool) -> None:
    """Loads the state from `file`, which the caller owns, into a QEMU that waits for it. The guest stays paused.

    `goes_on`: it is continued next, and is not saved before it has run, at which QEMU 7.2 would end. Then `cont` takes
    the locks of its disks, and QEMU refuses it while another program has one. Otherwise QEMU prints such a failure
    only, and runs the guest without the lock.

    Raises QemuError: it does not fit this QEMU, which is of no use afterwards; the file and the RAM are as they were.
    """
    os.lseek(file.fileno(), 0, os.SEEK_SET)
    await qmp.execute("migrate-set-capabilities", _WITHOUT_RAM)
    if goes_on:
        await qmp.execute("migrate-set-capabilities", _LOADED_LATE)
    async with _lent(qmp, file, os.O_RDONLY, file_uri=file_uri) as uri:
        await qmp.execute("migrate-incoming", {"uri": uri})
        async with in_time(within, "the guest's state was not loaded"):
            await _loaded(qmp)
    await with_ram(qmp)


@contextlib.asynccontextmanager
async def _lent(qmp: Monitor, file: HasFileno, access: int, *, file_uri: bool) -> AsyncIterator[str]:
    """Gives QEMU the file for the block, and yields the address under which it has it."""
    if not file_uri:
        await qmp.execute_with(file, "getfd", {"fdname": _NAME}, read=lambda _nothing: None)
        yield f"fd:{_NAME}"  # QEMU closes it when it has used it
        return
    # An fdset is opened with exactly the access that one of its files has.
    with Fd(os.open(f"/proc/self/fd/{file.fileno()}", access | os.O_CLOEXEC)) as opened:
        number = await qmp.execute_with(
            opened, "add-fd", {"opaque": _NAME}, read=lambda answer: int(answer["fdset-id"])
        )
    yield f"file:/dev/fdset/{number}"
    with contextlib.suppress(QmpFailed):
        await qmp.execute("remove-fd", {"fdset-id": number})


async def _written(qmp: Monitor) -> None:
    for pause in _growing():
        found = await migration(qmp)
        if found.completed:
            return
        if found.failed:
            raise QemuError(f"{_STOPPED}: {found.why}", hint=_MORE)
        await asyncio.sleep(pause)


async def _loaded(qmp: Monitor) -> None:
    for pause in _growing():
        found = await migration(qmp)
        if found.failed:
            raise QemuError(f"the guest's state does not fit this QEMU: {found.why}", hint=_MORE)
        if await status(qmp) != "inmigrate":
            return
        await asyncio.sleep(pause)


def _growing() -> Iterator[float]:
    yield from _PAUSES
    while True:
        yield 0.01
