"""The QEMU to run a guest with: what it can do, asked once for each file.

A QEMU takes a third of a second to start and to be asked, and in the next kernel the guest waits. So the answers are in
the guest's record, and are believed as long as the file of the program is the same.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

from luod.agents.qemu import capabilities, command_line
from luod.agents.qemu.capabilities import Capabilities
from luod.agents.qemu.record import Program, Record
from luod.errors import QemuRefusal


def file_of(program: str) -> Program:
    """Returns the file of a program, which is looked for in PATH. Raises QemuRefusal if it is missing."""
    path = shutil.which(program)
    if path is None:
        raise QemuRefusal(f"there is no program {program!r} that may be run", hint="give the path of a QEMU")
    status = os.stat(path)
    return Program(os.path.abspath(path), status.st_size, status.st_mtime_ns)


async def asked(program: str, arguments: Sequence[str]) -> tuple[Program, Capabilities]:
    """Returns the file of `program`, and what it can do for a guest of `arguments`. Raises as `capabilities.probe`."""
    file = file_of(program)
    return file, await capabilities.probe(file.path, command_line.drivers(arguments))


async def for_record(record: Record, program: str | None) -> tuple[Program, Capabilities]:
    """Returns the QEMU for a guest that has run before: `program`, or None for the one that ran it.

    Raises QemuRefusal: another version of QEMU may have another machine under the name of the guest's.
    """
    if program is None and file_of(record.program.path) == record.program:
        return record.program, record.capabilities
    file, capabilities = await asked(program or record.program.path, record.arguments)
    if capabilities.version != record.qemu and not command_line.has_version(record.machine):
        raise QemuRefusal(
            f"the machine type {record.machine} may be another one in QEMU {capabilities.version}",
            hint=f"use QEMU {record.qemu}; a guest on a machine type with a version, such as q35, can change QEMU",
        )
    return file, capabilities
