"""Files of the state directory, replaced as a whole: the registry's, the timeline, the copy of the policy.

Files that luoctl writes for others to read are `luod.ctl.files`.
"""

from __future__ import annotations

import os
from pathlib import Path


def replace(path: Path, data: bytes) -> None:
    """Writes `data` in place of what is there, for luod alone to read.

    Who reads finds the old or the new, whole, also when luod is killed meanwhile; not so on a host that stops without
    warning, before both the file and its directory were synced. OSError: the old file is still there.
    """
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    with open(new, "xb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o600)) as file:
        file.write(data)
    new.rename(path)
