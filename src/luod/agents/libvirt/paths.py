"""What the agent has in /run about a domain. It ends with the kernel."""

from __future__ import annotations

import os
from typing import Final

FOLDER: Final = "/run/luod/libvirt"


def make_folder() -> None:
    """Makes the folder, which libvirt's QEMU can go through, whatever the umask is. Raises OSError."""
    os.makedirs(FOLDER, exist_ok=True)
    os.chmod(FOLDER, 0o755)


def ram(name: str) -> str:
    """Returns the path by which QEMU opens the RAM of the domain `name`. It is the same at each start."""
    return _path(name, "ram")


def paused(name: str) -> str:
    """Returns the path of the note that an agent has paused the domain."""
    return _path(name, "paused")


def lock(name: str) -> str:
    """Returns the path of the file that the agent of the domain has locked."""
    return _path(name, "lock")


def _path(name: str, what: str) -> str:
    return f"{FOLDER}/{name.replace('/', '%2F')}.{what}"
