"""The kind of a file from a client, and luod's way to close it.

luod holds such files for others, so it accepts memory and devices only: a socket or a pipe that luod held would stay
open after its owner closed it. A session is only accepted to be adopted (`luod.daemon.sessions.adoption`).
`luod.ipc.server.receiver` closes all others before they reach serve, except regular files of root, since kernel images
are passed so.
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


def is_session(file: Fd) -> bool:
    """Returns whether a file looks like a session; only the kernel's GET_NAME shows that it is one."""
    return receiver.is_session(file.fileno())
