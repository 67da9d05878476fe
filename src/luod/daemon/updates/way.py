"""Chooses the way in which an update starts the next kernel. Pure.

`direct`: luod calls reboot(2) itself, and a call that the kernel refuses returns. `systemd`: luod has systemd end this
kernel, which stops the units that are left, carries their fd stores, and cannot be stopped any more.
"""

from __future__ import annotations

from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection

    from luod.ipc.types.phases import Way

_DEVICES: Final = frozenset({"vfio", "vfio-pci", "iommufd"})


def choose(asked: Way | None, policy: Way, *, kinds: Collection[str], booted: bool) -> Way:
    """Returns the way of an update: the operator's, or else the policy's where that can work.

    `kinds` are those of the files in its sessions. A device makes a kexec more likely to fail, and only the way
    `direct` returns from that. `booted`: systemd runs this machine.
    """
    if asked is not None:
        return asked
    return "direct" if not booted or _DEVICES & set(kinds) else policy
