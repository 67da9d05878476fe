"""What a file is that a client passed in, told without calling any method of it that could wait or do something.

luod holds such files for others, so it takes memory and devices only: an fd of a socket, a pipe or a session that luod
held would keep alive what its owner believes closed. Called by `luod.daemon.manifests` and `luod.daemon.held`.
"""

from __future__ import annotations

import fcntl
import os
import stat
from typing import Final, Literal

from luod.linux import F_GET_SEALS, Fd
from luod.uapi.liveupdate import DEVICE

SESSION: Final = "[luo_session]"
"""In the link of every session, a real kernel's or an emulated machine's."""


def kind_of(file: Fd) -> Literal["memory", "device"] | None:
    """None: it is neither, or it is /dev/liveupdate, which nobody may hold open for long."""
    link = os.readlink(f"/proc/self/fd/{file.fileno()}")
    if SESSION in link:
        return None
    if link.startswith("/memfd:"):
        try:
            fcntl.fcntl(file.fileno(), F_GET_SEALS)
        except OSError:
            return None
        return "memory"
    if link.startswith("anon_inode:") and "vfio-device" in link:
        return "device"
    found = os.fstat(file.fileno())
    if not stat.S_ISCHR(found.st_mode) or link == DEVICE:
        return None
    try:
        kernels = os.stat(DEVICE)
    except OSError:
        return "device"
    same = (found.st_dev, found.st_ino) == (kernels.st_dev, kernels.st_ino)
    return None if same or found.st_rdev == kernels.st_rdev else "device"
