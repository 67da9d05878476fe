"""How a running guest differs from its command line: what was plugged in, removed or exchanged since it started.

A QEMU in the next kernel has what the command line says, and does not notice one device more than the saved guest had.
So a guest that differs from its command line is not carried: the agent that wrote it notes the hardware when it starts
the guest, and compares when an update prepares. libvirt describes what it plugged in, so its agent does not compare.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from luod.agents.guests.monitor import Monitor
from luod.errors import QmpFailed
from luod.frozen import frozen

T = TypeVar("T")

OWN: Final = "luod-"
"""How the names of luod's own objects in QEMU begin."""
RAM_ID: Final = f"{OWN}ram"
"""The id of the guest's RAM in QEMU."""
_NAMELESS: Final = "without an id"
_NOT_SAVED_IN: Final = {
    # It has released the disks with the state.
    "postmigrate": "its state was saved while its owner had paused it, as for an update that was cancelled, and QEMU "
    "saves it again after it has run: continue it, and pause it again",
    "suspended": "it sleeps (ACPI S3), and would be paused in the next kernel, where nothing wakes it: wake it "
    "(`system_wakeup`, or `virsh dompmwakeup`)",
}
"""Why a guest is not carried in one of QEMU's run states."""
_DEVICES: Final = ("/machine/peripheral", "/machine/peripheral-anon")


@frozen
class Hardware:
    """What a guest has, by QEMU's word. `devices` are as "nic (e1000e)", `disks` pairs of a drive and its image."""

    devices: tuple[str, ...]
    processors: int
    disks: tuple[tuple[str, str], ...]


async def hardware(qmp: Monitor) -> Hardware:
    """Returns what the guest has now. Raises QemuEnded: QEMU is gone."""
    devices = [each for path in _DEVICES for each in await qmp.asked("qom-list", _devices, {"path": path})]
    return Hardware(
        devices=tuple(sorted(devices)),
        processors=await _answered(qmp, "query-hotpluggable-cpus", _processors) or 0,
        disks=await qmp.asked("query-block", _disks),
    )


async def vetoes(
    qmp: Monitor, since: Hardware | None = None, *, unused: Callable[[str], bool] = lambda _name: False
) -> tuple[str, ...]:
    """Returns why the running guest cannot be carried: sentences that name what to remove; () if it can be.

    `since` is what the guest had when it was started; None does not compare. `unused` says of the name of a memory
    back end whether the guest does not have it. Raises QemuEnded: QEMU is gone.
    """
    found = [*await _state(qmp), *await _memory(qmp, unused), *await _blockers(qmp)]
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


async def _state(qmp: Monitor) -> list[str]:
    found = await qmp.asked("query-status", lambda answer: str(answer["status"]))
    return [_NOT_SAVED_IN[found]] if found in _NOT_SAVED_IN else []


async def _memory(qmp: Monitor, unused: Callable[[str], bool]) -> list[str]:
    found = []
    if await _answered(qmp, "query-balloon", lambda _size: True):
        found.append("it has a balloon, which punches holes into preserved memory: remove it (device_del)")
    for device in await _answered(qmp, "query-memory-devices", _plugged_in) or ():
        found.append(f"memory was plugged in, {device}: only the RAM of its start is preserved")
    for back_end in await _answered(qmp, "query-memdev", _back_ends) or ():
        if unused(back_end):
            continue
        found.append(f"it has another memory back end, {back_end}: remove it (object_del)")
    return found


async def _blockers(qmp: Monitor) -> list[str]:
    found = [f"QEMU cannot save it: {reason}" for reason in await _answered(qmp, "query-migrate", _reasons) or ()]
    for job in await _answered(qmp, "query-block-jobs", _jobs) or ():
        found.append(f"a job runs on its disk, {job}: wait for it, or cancel it")
    return found


async def _answered(qmp: Monitor, command: str, read: Callable[[Any], T]) -> T | None:
    """Returns the answer, or None where this QEMU or machine type refuses the question."""
    try:
        return await qmp.asked(command, read)
    except QmpFailed:
        return None


def _devices(answer: Sequence[Mapping[str, str]]) -> list[str]:
    return [f"{entry['name']} ({_child(entry['type'])})" for entry in answer if _child(entry["type"])]


def _disks(answer: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((_drive(entry), _image(entry)) for entry in answer))


def _processors(answer: Sequence[Mapping[str, Any]]) -> int:
    """Returns how many processors are plugged in."""
    return sum("qom-path" in entry for entry in answer)


def _plugged_in(answer: Sequence[Mapping[str, Any]]) -> list[str]:
    return [f"{device['type']} {device['data'].get('id') or _NAMELESS}" for device in answer]


def _back_ends(answer: Sequence[Mapping[str, Any]]) -> list[str]:
    return [str(back_end.get("id") or _NAMELESS) for back_end in answer if back_end.get("id") != RAM_ID]


def _reasons(answer: Mapping[str, Any]) -> list[str]:
    return [str(reason) for reason in answer.get("blocked-reasons", ())]


def _jobs(answer: Sequence[Mapping[str, Any]]) -> list[str]:
    return [f"{job['type']} {job['device']}" for job in answer]


def _child(kind: str) -> str:
    return kind[len("child<") : -1] if kind.startswith("child<") else ""


def _drive(entry: Mapping[str, Any]) -> str:
    return str(entry.get("device") or entry.get("qdev") or "")


def _image(entry: Mapping[str, Any]) -> str:
    return str(entry.get("inserted", {}).get("image", {}).get("filename", ""))


def _more(there: Sequence[str], here: Sequence[str]) -> list[str]:
    return [each for each in there if each not in here]
