"""The profiles of the modelled kernel, and what each adds to Linux 7.3. Plain data."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Features:
    """The abilities of a kernel beside those of Linux 7.3."""

    unpreserve: bool = False
    """UNPRESERVE_FD."""
    all_retrieved: bool = False
    """FINISH is EBUSY with a file unretrieved."""
    freeze: bool = False
    """SESSION_FREEZE."""
    arguments: bool = False
    """PRESERVE_FD and RETRIEVE_FD take an argument for the handler."""
    tmpfs: bool = False
    """Files of a tmpfs can be preserved, and retrieved into files of a tmpfs. Needs `arguments`."""


class Profile(enum.Enum):
    """`DOCUMENT` is the kernel's document, `NEXT` what is posted (`uapi.liveupdate_next`). No kernel has either."""

    MAINLINE = "mainline"
    DOCUMENT = "document"
    NEXT = "next"

    @property
    def features(self) -> Features:
        return _FEATURES[self]


_FEATURES: Final = {
    Profile.MAINLINE: Features(),
    Profile.DOCUMENT: Features(unpreserve=True, all_retrieved=True),
    Profile.NEXT: Features(freeze=True, arguments=True, tmpfs=True),
}
