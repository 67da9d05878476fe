"""The state of a guest's devices: written by a paused QEMU into a memfd, and loaded from it by the next one.

The guest's RAM stays where it is: it is in shared memory with a name, which x-ignore-shared leaves out of the state.
Which form of address QEMU knows is asked of it beforehand (`capabilities`), never concluded from a version.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from typing import Any, Final

from luod.agents.qemu.qmp import Qmp
from luod.errors import QemuError, QmpFailed
from luod.linux import Fd, HasFileno, memfd

MOST_BYTES: Final = 64 << 20
"""What luod is asked to have free for the state. A guest with few devices has 300 KiB."""

_NAME: Final = "luod-state"
_PAUSES: Final = (0.001, 0.002, 0.004, 0.008)
_CAPABILITY: Final = {"capabilities": [{"capability": "x-ignore-shared", "state": True}]}
_ENDED: Final = ("failed", "cancelled")
_STOPPED: Final = "the guest's state was not written"


async def save(qmp: Qmp, *, file_uri: bool, within: float) -> Fd:
    """Returns a new memfd with the state of the paused guest; the caller owns it.

    Raises QemuError: QEMU cannot write it, or not in `within` seconds. The guest can be continued in any case.
    """
    file = memfd("qemu-state", 0)
    try:
        await qmp.execute("migrate-set-capabilities", _CAPABILITY)
        async with _lent(qmp, file, os.O_WRONLY, file_uri=file_uri) as uri:
            await qmp.execute("migrate", {"uri": uri})
            try:
                async with asyncio.timeout(within):
                    await _written(qmp)
            except TimeoutError:
                with contextlib.suppress(QmpFailed):
                    await qmp.execute("migrate_cancel")
                raise QemuError(f"{_STOPPED} within {within:.0f} s") from None
    except BaseException:
        file.close()
        raise
    return file


async def load(qmp: Qmp, file: Fd, *, file_uri: bool, within: float) -> None:
    """Loads the state from `file`, which the caller owns, into a QEMU that waits for it. The guest stays paused.

    Raises QemuError: it does not fit this QEMU, which is of no use afterwards; the file and the RAM are as they were.
    """
    os.lseek(file.fileno(), 0, os.SEEK_SET)
    await qmp.execute("migrate-set-capabilities", _CAPABILITY)
    async with _lent(qmp, file, os.O_RDONLY, file_uri=file_uri) as uri:
        await qmp.execute("migrate-incoming", {"uri": uri})
        try:
            async with asyncio.timeout(within):
                await _loaded(qmp)
        except TimeoutError:
            raise QemuError(f"the guest's state was not loaded within {within:.0f} s") from None


@contextlib.asynccontextmanager
async def _lent(qmp: Qmp, file: HasFileno, access: int, *, file_uri: bool) -> AsyncIterator[str]:
    """Gives QEMU the file for the block, and yields the address under which it has it."""
    if not file_uri:
        await qmp.execute_with(file, "getfd", {"fdname": _NAME})
        yield f"fd:{_NAME}"  # QEMU closes it when it has used it
        return
    # An fdset is opened with exactly the access that one of its files has.
    with Fd(os.open(f"/proc/self/fd/{file.fileno()}", access | os.O_CLOEXEC)) as opened:
        added = await qmp.execute_with(opened, "add-fd", {"opaque": _NAME})
    number = int(added["fdset-id"])
    yield f"file:/dev/fdset/{number}"
    with contextlib.suppress(QmpFailed):
        await qmp.execute("remove-fd", {"fdset-id": number})


async def _written(qmp: Qmp) -> None:
    for pause in _growing():
        found = await qmp.execute("query-migrate")
        if found.get("status") == "completed":
            return
        if found.get("status") in _ENDED:
            raise QemuError(f"{_STOPPED}: {_why(found)}", hint="QEMU's own output may say more")
        await asyncio.sleep(pause)


async def _loaded(qmp: Qmp) -> None:
    for pause in _growing():
        found = await qmp.execute("query-migrate")
        if found.get("status") in _ENDED:
            raise QemuError(f"the guest's state does not fit this QEMU: {_why(found)}")
        if (await qmp.execute("query-status"))["status"] != "inmigrate":
            return
        await asyncio.sleep(pause)


def _growing() -> Any:
    yield from _PAUSES
    while True:
        yield 0.01


def _why(found: dict[str, Any]) -> str:
    return str(found.get("error-desc") or found.get("status"))
