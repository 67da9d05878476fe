"""What a file is that a client passed in, and how luod lets go of it.

luod holds such files for others, so it takes memory and devices only: an fd of a socket, a pipe or a session that luod
held would keep alive what its owner believes closed. All others are closed before they reach serve, by
`luod.ipc.server.receiver`; regular files of root's are not, since kernel images are passed so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from luod.ipc.server import receiver
from luod.linux import Fd

Discard = Callable[[Fd], None]
"""Takes an fd that may be the last of a client's file, and has it closed where nobody waits. Freeing a guest's memory
takes seconds, and closing a device may reset it."""


def kind_of(file: Fd) -> Literal["memory", "device"] | None:
    """Returns None for what is neither. Calls no method of the file that can block."""
    return receiver.kind_of(file.fileno())
