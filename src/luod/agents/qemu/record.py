"""What the agent writes down about a guest in its sessions' manifests, for the next kernel and for `luoctl show`.

The session NAME has the record; both sessions have the number of the update whose state they belong to. Pure.
"""

from collections.abc import Mapping
from typing import Any, Final

from luod.agents.qemu.capabilities import Capabilities
from luod.agents.qemu.command_line import Plan
from luod.decode import Decoder, Misfit, encode
from luod.errors import QemuRefusal
from luod.frozen import frozen

AGENT: Final = "qemu"
FORMAT: Final = 1

GENERATION: Final = "generation"
RUNNING: Final = "running"
SESSIONS_LOST: Final = "sessions_lost"
"""How often luod lost the session, and the agent created it again: for `luoctl show`."""
RAM: Final = "ram"
STATE: Final = "state"
RAM_TOKEN: Final = 2
"""Token 1 stays free: a QEMU in its own mode cpr-luo has its state there, and a reader can tell the two apart."""
STATE_TOKEN: Final = 3


@frozen
class Program:
    """The file of a QEMU, to see in the next kernel whether it is still the one that was asked what it can do."""

    path: str
    size: int
    changed: int
    """The time of its last change in nanoseconds."""


@frozen
class Record:
    """A guest, as it was started. `arguments` are as given, without the program; `machine` has its version."""

    arguments: tuple[str, ...]
    machine: str
    ram_bytes: int
    disks: tuple[str, ...]
    qemu: str
    """The version of the QEMU that runs it."""
    program: Program
    capabilities: Capabilities


def about(record: Record) -> dict[str, Any]:
    """Returns what the session NAME says about its guest, for `OutgoingSession.annotate`."""
    said = {"agent": AGENT, "format": FORMAT, "tokens": {RAM: RAM_TOKEN, STATE: STATE_TOKEN}}
    members = encode(record)
    members["program"] = encode(record.program)
    members["capabilities"] = encode(record.capabilities)
    return {**said, **members}


def about_state(generation: int | None, *, running: bool) -> dict[str, Any]:
    """Returns what the session NAME#GENERATION says. `running`: the guest ran until the update paused it."""
    return {"agent": AGENT, GENERATION: generation, RUNNING: running}


def check_generation(name: str, said: Mapping[str, Any], of_state: Mapping[str, Any], generation: int | None) -> None:
    """Raises QemuRefusal: the RAM and the state are not of the same update, whose number is `generation`."""
    found = (said.get(GENERATION), of_state.get(GENERATION), generation)
    if generation is None or found != (generation, generation, generation):
        raise QemuRefusal(
            f"the memory of {name} is of update {found[0]}, its device state of update {found[1]}",
            hint="the guest cannot be resumed: `luoctl discard` it, and start it from the beginning",
        )


def of_plan(plan: Plan, capabilities: Capabilities, program: Program) -> Record:
    """Returns the record of a guest that is started by `plan`."""
    return Record(
        arguments=plan.arguments,
        machine=plan.machine,
        ram_bytes=plan.ram_bytes,
        disks=tuple(disk.path for disk in plan.disks),
        qemu=capabilities.version,
        program=program,
        capabilities=capabilities,
    )


def is_ours(said: Mapping[str, Any]) -> bool:
    """Returns whether a session with this in its manifest is of the agent of QEMU."""
    return said.get("agent") == AGENT


def read(name: str, said: Mapping[str, Any]) -> Record:
    """Returns the record of the session `name`. Raises QemuRefusal: it is not of this agent, or of a newer luod."""
    if not is_ours(said):
        raise QemuRefusal(
            f"the session {name} is not of the agent of QEMU", hint="restore it with the program that created it"
        )
    if said.get("format") != FORMAT:
        raise QemuRefusal(
            f"the session {name} was written in format {said.get('format')!r} of the agent of QEMU",
            hint=f"this luod reads format {FORMAT}: restore it with the luod that wrote it",
        )
    try:
        return _DECODER(Record, {member: said[member] for member in _MEMBERS if member in said})
    except Misfit as misfit:
        raise QemuRefusal(
            f"the record of the session {name} is damaged at `{misfit.path}`",
            hint="the guest's memory and state are in the session; see docs/qemu.md",
        ) from None


_DECODER: Final = Decoder(strict=False)
_MEMBERS: Final = ("arguments", "machine", "ram_bytes", "disks", "qemu", "program", "capabilities")
