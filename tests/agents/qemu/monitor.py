"""A person at a guest's own monitor (`-monitor unix:PATH,server=on,wait=off`)."""

from __future__ import annotations

import socket
from pathlib import Path

_PROMPT = b"(qemu) "


def tell(monitor: Path, command: str) -> str:
    """Runs a command of the human monitor. Returns what QEMU printed."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(monitor))
        _read_to_prompt(connection)
        connection.sendall(command.encode() + b"\n")
        return _read_to_prompt(connection)


def _read_to_prompt(connection: socket.socket) -> str:
    read = b""
    while not read.endswith(_PROMPT):
        more = connection.recv(4096)
        if not more:
            break
        read += more
    return read.decode(errors="replace")
