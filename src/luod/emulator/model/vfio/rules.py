"""The rules for preserving VFIO devices as data: two tables of one shape, v2 and v5 of the posted VFIO series.

v2 is the version of the kernel document, v5 the newest posting; docs/kernel.md, 12, compares them and names the
postings. `liveupdate.py` and `vfio_pci/pci_core.py` act on a table, and never ask which one it is.
"""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass
from typing import Final


class Trait(enum.Enum):
    """A property of a device file that a rule may refuse."""

    GROUP = "opened through its group"
    UNBOUND = "no file of the device is bound to an iommufd"
    VARIANT_DRIVER = "bound to another driver than vfio-pci itself"
    INTEL_DISPLAY = "an Intel display device"
    VIRTUAL_FUNCTION = "a virtual function"


class Obstacle(enum.Enum):
    """A state of a device that may fail the kexec."""

    INTERRUPTS = "Interrupts are still enabled."
    POWER_STATE = "Device not in D0 state."


class Finish(enum.Enum):
    """The condition for FINISH of a retrieved device."""

    ENABLED_ONCE = "it has been bound to an iommufd since"
    BOUND = "it is bound to an iommufd"


@dataclass(frozen=True)
class Rules:
    """One version of the series."""

    name: str
    unfit: tuple[Trait, ...]
    """Files that the handler does not accept: ENOENT, unless another handler does."""
    refused: tuple[tuple[Trait, int], ...]
    """Files that it accepts and then refuses, in the order of the checks."""
    reports_pci_errors: bool
    """Whether PRESERVE_FD fails with PCI's errnos (EBUSY, EINVAL)."""
    preserves_bridges: bool
    refuses_acs_quirks: bool
    obstacles: tuple[tuple[Obstacle, int], ...]
    """States that fail the freeze, and so reboot(2)."""
    failed_reset_fails: bool
    """Whether a reset that fails in the freeze makes reboot(2) fail."""
    dead_after_freeze: bool
    """Whether a frozen device answers EIO until its driver is bound again."""
    first_enable_resets: bool
    """Whether the first bind after the kexec resets the device again."""
    finish: Finish


V2: Final = Rules(
    name="v2",
    unfit=(Trait.GROUP, Trait.VARIANT_DRIVER),
    refused=((Trait.INTEL_DISPLAY, errno.EINVAL),),
    reports_pci_errors=False,
    preserves_bridges=False,
    refuses_acs_quirks=False,
    obstacles=((Obstacle.INTERRUPTS, errno.EINVAL),),
    failed_reset_fails=True,
    dead_after_freeze=False,
    first_enable_resets=False,
    finish=Finish.ENABLED_ONCE,
)
V5: Final = Rules(
    name="v5",
    unfit=(
        Trait.GROUP,
        Trait.UNBOUND,
        Trait.VARIANT_DRIVER,
        Trait.INTEL_DISPLAY,
        Trait.VIRTUAL_FUNCTION,
    ),
    refused=(),
    reports_pci_errors=True,
    preserves_bridges=True,
    refuses_acs_quirks=True,
    obstacles=((Obstacle.INTERRUPTS, errno.EINVAL), (Obstacle.POWER_STATE, errno.EINVAL)),
    failed_reset_fails=False,
    dead_after_freeze=True,
    first_enable_resets=True,
    finish=Finish.BOUND,
)
RULES: Final = {rules.name: rules for rules in (V2, V5)}
