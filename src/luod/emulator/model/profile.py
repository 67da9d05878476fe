"""The profiles of the modelled kernel, and what each adds to Linux 7.3. Plain data."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final


class KvmRules(enum.Enum):
    """When the file of the VM must be in the session of its guest_memfd."""

    V4 = "v4"
    """At PRESERVE_FD of the guest_memfd: the VM first."""
    NEWEST = "newest"
    """At the freeze, in any order: the newest documentation. A session without the VM fails the kexec."""


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
    kvm: KvmRules | None = None
    """KVM's VM and guest_memfd files can be preserved, by these rules."""


class Profile(enum.Enum):
    """`DOCUMENT` is the kernel's document, `NEXT` what is posted (`uapi.liveupdate_next`). No kernel has either."""

    MAINLINE = "mainline"
    DOCUMENT = "document"
    NEXT = "next"

    @property
    def features(self) -> Features:
        return _FEATURES[self]


MAINLINE: Final = Features()
_FEATURES: Final = {
    Profile.MAINLINE: MAINLINE,
    Profile.DOCUMENT: Features(unpreserve=True, all_retrieved=True),
    Profile.NEXT: Features(freeze=True, arguments=True, tmpfs=True),
}
