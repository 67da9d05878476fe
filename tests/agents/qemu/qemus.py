"""The QEMUs of the tests: the machine's, and a newer one where LUOD_NEWER_QEMU has its path (`scripts/fetch-qemu`)."""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from luod.agents.qemu.capabilities import Capabilities, probe
from luod.agents.qemu.command_line import Plan
from luod.agents.qemu.qmp import Qmp
from luod.linux import Fd
from luod.testing import require_tool

WHICH: Final = ("installed", *(("newer",) if "LUOD_NEWER_QEMU" in os.environ else ()))
"""Parameters of a test that runs on each QEMU."""


def path(which: str) -> str:
    """Returns the path of one of WHICH."""
    return (
        os.environ["LUOD_NEWER_QEMU"]
        if which == "newer"
        else require_tool("qemu-system-x86_64", package="qemu-system-x86")
    )


@functools.cache
def capabilities(which: str) -> Capabilities:
    """Returns what one of WHICH can do."""
    return asyncio.run(probe(path(which)))


@contextmanager
def started(plan: Plan, ram: Fd, *, incoming: bool = False) -> Iterator[socket.socket]:
    """Starts the QEMU of a plan, and ends it. Yields the socket of its monitor."""
    ours, theirs = socket.socketpair()
    words = plan.launch(ram.fileno(), theirs.fileno(), incoming=incoming)
    files = (ram.fileno(), theirs.fileno())
    with subprocess.Popen(words, pass_fds=files, stdin=subprocess.DEVNULL) as process:
        theirs.close()
        try:
            yield ours
        finally:
            process.kill()
            ours.close()


async def asked(monitor: socket.socket, command: str) -> object:
    """Returns the answer of a QEMU to a command without arguments."""
    async with await Qmp.connected(monitor) as qmp:
        return await qmp.execute(command)
