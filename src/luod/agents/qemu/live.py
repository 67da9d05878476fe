"""What of a running guest its command line does not say: what was plugged in, removed or exchanged since it started.

A QEMU in the next kernel has what the command line says, and does not notice one device more than the saved guest had.
So a guest that differs from its command line is not carried: the launcher notes the hardware when it starts the guest,
and compares when an update prepares.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from luod.agents.qemu.command_line import RAM
from luod.agents.qemu.qmp import Qmp
from luod.errors import QmpFailed
from luod.frozen import frozen

_DEVICES: Final = ("/machine/peripheral", "/machine/peripheral-anon")


@frozen
class Hardware:
    """What a guest has, by QEMU's word. `devices` are as "nic (e1000e)", `disks` pairs of a drive and its image."""

    devices: tuple[str, ...]
    processors: int
    disks: tuple[tuple[str, str], ...]


async def hardware(qmp: Qmp) -> Hardware:
    """Returns what the guest has now. Raises QemuEnded: QEMU is gone."""
    devices = [entry for path in _DEVICES for entry in await qmp.execute("qom-list", {"path": path})]
    return Hardware(
        devices=tuple(
            sorted(f"{entry['name']} ({_child(entry['type'])})" for entry in devices if _child(entry["type"]))
        ),
        processors=await _processors(qmp),
        disks=tuple(sorted((_drive(entry), _image(entry)) for entry in await qmp.execute("query-block"))),
    )


async def vetoes(qmp: Qmp, since: Hardware | None = None) -> tuple[str, ...]:
    """Returns why the running guest cannot be carried: sentences that name what to remove; () if it can be.

    `since` is what the guest had when it was started; None does not compare. Raises QemuEnded: QEMU is gone.
    """
    found = [*await _memory(qmp), *await _blockers(qmp)]
    if since is not None:
        found += changes(since, await hardware(qmp))
    return tuple(dict.fromkeys(found))


def changes(before: Hardware, now: Hardware) -> tuple[str, ...]:
    """Returns how a guest differs from what it was started with, in sentences."""
    found = [
        f"the device {device} was plugged in: remove it (device_del)" for device in _more(now.devices, before.devices)
    ]
    found += [f"the device {device} was removed: plug it in again" for device in _more(before.devices, now.devices)]
    if now.processors != before.processors:
        found.append(f"it has {now.processors} processors, and was started with {before.processors}")
    drives = dict(before.disks)
    for drive, image in now.disks:
        if drive in drives and drives[drive] != image:
            found.append(
                f"the drive {drive} has {image or 'no image'}, and was started with {drives[drive] or 'none'}: "
                "QEMU would open that image in the next kernel"
            )
    return tuple(found)


async def _memory(qmp: Qmp) -> list[str]:
    found = []
    if await _answered(qmp, "query-balloon") is not None:
        found.append("it has a balloon, which punches holes into preserved memory: remove it (device_del)")
    for device in await _answered(qmp, "query-memory-devices") or ():
        name = device["data"].get("id") or "without an id"
        found.append(f"memory was plugged in, {device['type']} {name}: only the RAM of its start is preserved")
    for back_end in await _answered(qmp, "query-memdev") or ():
        if back_end.get("id") != RAM:
            name = back_end.get("id") or "without an id"
            found.append(f"it has another memory back end, {name}: remove it (object_del)")
    return found


async def _blockers(qmp: Qmp) -> list[str]:
    migration = await _answered(qmp, "query-migrate") or {}
    found = [f"QEMU cannot save it: {reason}" for reason in migration.get("blocked-reasons", ())]
    for job in await _answered(qmp, "query-block-jobs") or ():
        found.append(f"a job runs on its disk, {job['type']} {job['device']}: wait for it, or cancel it")
    return found


async def _answered(qmp: Qmp, command: str) -> Any:
    """Returns the answer, or None where this QEMU or machine type refuses the question."""
    try:
        return await qmp.execute(command)
    except QmpFailed:
        return None


async def _processors(qmp: Qmp) -> int:
    """Returns how many processors are plugged in; 0 where the machine type has none that can be plugged in."""
    return sum("qom-path" in entry for entry in await _answered(qmp, "query-hotpluggable-cpus") or ())


def _child(kind: str) -> str:
    return kind[len("child<") : -1] if kind.startswith("child<") else ""


def _drive(entry: dict[str, Any]) -> str:
    return str(entry.get("device") or entry.get("qdev") or "")


def _image(entry: dict[str, Any]) -> str:
    return str(entry.get("inserted", {}).get("image", {}).get("filename", ""))


def _more(there: Sequence[str], here: Sequence[str]) -> list[str]:
    return [each for each in there if each not in here]
