"""The kind of a file from a client, and luod's way to close it.

luod holds such files for others, so it accepts memory and devices only: a socket, a pipe or a session that luod held
would stay open after its owner closed it. `luod.ipc.server.receiver` closes all others before they reach serve, except
regular files of root, since kernel images are passed so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from luod.ipc.server import receiver
from luod.linux import Fd

Discard = Callable[[Fd], None]
"""Takes an fd that may be the last of a client's file, and has another process close it.

Freeing a guest's memory takes seconds, and closing a device may reset it.
"""


def kind_of(file: Fd) -> Literal["memory", "device"] | None:
    """Returns the kind of a file, or None for other kinds. It makes no call on the file that can block."""
    return receiver.kind_of(file.fileno())
