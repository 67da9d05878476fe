"""Files of the state directory, replaced as a whole: the registry's, the timeline, the copy of the policy.

`luod.ctl.files` has the files that luoctl writes for others.
"""

from __future__ import annotations

import contextlib
import os


def replace(path: str, data: bytes) -> None:
    """Replaces the file's contents by `data`, for luod alone to read.

    A reader finds the old or the new contents completely, even if luod is killed meanwhile. This does not hold on a
    host that crashes before both the file and its directory were synced. Raises OSError: the old file is still there.
    """
    new = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)
    with open(new, "xb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o600)) as file:
        file.write(data)
    os.rename(new, path)
