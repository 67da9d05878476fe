"""The agent's record of a guest in the manifests of its sessions, for the next kernel and for `luoctl show`.

The session NAME has the record; what each agent writes beside it is in `luod.agents.guests.pairing`. Pure.
"""

from collections.abc import Mapping
from typing import Any, Final

from luod.agents.guests import pairing
from luod.agents.qemu.capabilities import Capabilities
from luod.agents.qemu.command_line import Plan
from luod.decode import Decoder, Misfit, encode
from luod.errors import QemuRefusal
from luod.frozen import frozen

AGENT: Final = "qemu"
FORMAT: Final = 1


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
    members = encode(record)
    members["program"] = encode(record.program)
    members["capabilities"] = encode(record.capabilities)
    return {**pairing.header(AGENT, FORMAT), **members}


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


def read(name: str, said: Mapping[str, Any]) -> Record:
    """Returns the record of the session `name`. Raises QemuRefusal: it is not of this agent, or of a newer luod."""
    pairing.check_header(AGENT, FORMAT, name, said)
    try:
        return _DECODER(Record, {member: said[member] for member in _MEMBERS if member in said})
    except Misfit as misfit:
        raise QemuRefusal(
            f"the record of the session {name} is damaged at `{misfit.path}`",
            hint="the guest's memory and state are in the session; see docs/qemu.md",
        ) from None


_DECODER: Final = Decoder(strict=False)
_MEMBERS: Final = ("arguments", "machine", "ram_bytes", "disks", "qemu", "program", "capabilities")
