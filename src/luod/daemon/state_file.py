"""Files of the state directory, replaced as a whole: the registry's, the timeline, the copy of the policy.

Used by `luod.daemon.registry`, `.chronicle` and `.policy.current`. What others are to read, `luod.ctl.reports` writes.
"""

from __future__ import annotations

import os
from pathlib import Path

from luod.linux import Fd


def replace(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Writes `data` in place of what is there, for luod alone to read.

    Who reads finds the old or the new, whole, also when luod is killed meanwhile. That holds for a host that stops
    without warning, too, only where `durable` is asked for, and waited for: then the new one is on the disk when this
    returns. Two calls for one path may not overlap, unless one is durable and the other is not. OSError: the old file
    is still there.
    """
    # Each its own: a durable one is written by a thread, and the loop may write another meanwhile.
    new = path.with_suffix(".durable" if durable else ".new")
    with open(new, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    new.rename(path)
    if durable:
        with Fd(os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as directory:
            os.fsync(directory.fileno())
