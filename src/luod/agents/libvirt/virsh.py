"""Commands of libvirt, by its own program. libvirt's bindings would be a dependency; virsh is on each such host."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Final

from luod.agents.guests.deadline import QEMU_SECONDS, in_time
from luod.errors import LibvirtFailed, QemuRefusal
from luod.linux import HasFileno

_PROGRAM: Final = "virsh"
_URI: Final = "qemu:///system"


async def virsh(command: str, *words: str, files: Sequence[HasFileno] = (), within: float = QEMU_SECONDS) -> str:
    """Runs a command of virsh, which has the caller's `files` by their numbers. Returns what it prints.

    Raises LibvirtFailed: libvirt refuses, or cannot be reached. Raises QemuLate: it does not answer in `within`
    seconds. Raises QemuRefusal: virsh is not installed.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *(_PROGRAM, "--connect", _URI, "--quiet", command, *words),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=[file.fileno() for file in files],
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError:
        raise QemuRefusal(f"the program {_PROGRAM} is missing", hint="apt install libvirt-clients") from None
    try:
        async with in_time(within, f"libvirt did not do {command}"):
            printed, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        reason = " ".join(line.removeprefix("error: ") for line in said.decode(errors="replace").split("\n") if line)
        raise LibvirtFailed(command, reason or f"ended with status {process.returncode}")
    return printed.decode(errors="replace")
