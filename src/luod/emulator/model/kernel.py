"""`Kernel`: one boot of the modelled machine, from the command line it was given to the jump into the next.

The only class `trap` and `machine` drive. It has no threads and never waits: a call gives a number, an `Errno`, or
`Blocked`. LUO itself is in `luo.py`, kexec and reboot in `kexec.py`.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

from luod.emulator.model.files import DeviceFile, Operation, SessionFile
from luod.emulator.model.ports import Caller, Host, KexecFiles, KexecSegment
from luod.emulator.model.results import Blocked, Ending, Jump

COMMAND_LINE = "liveupdate=on kho=on"
"""What a machine is booted with when nobody says otherwise."""


class Profile(enum.Enum):
    MAINLINE = "mainline"
    DOCUMENT = "document"


class Kernel:
    """One boot. `Kernel(host, profile=…)` is the first one; each next comes from `jump()`."""

    def __init__(
        self, host: Host, *, profile: Profile = Profile.MAINLINE, command_line: str = COMMAND_LINE
    ) -> None:
        raise NotImplementedError

    @property
    def boot(self) -> int:
        """1, 2, …"""
        raise NotImplementedError

    @property
    def command_line(self) -> str:
        """As /proc/cmdline shows it, without newline; undecodable bytes as surrogates (surrogateescape)."""
        raise NotImplementedError

    @property
    def has_device(self) -> bool:
        """Whether there is a node /dev/liveupdate."""
        raise NotImplementedError

    @property
    def kexec_loaded(self) -> bool:
        """/sys/kernel/kexec_loaded."""
        raise NotImplementedError

    def open_liveupdate(self) -> DeviceFile:
        """Errno(EBUSY) while it is open, Errno(EIO) when what was carried cannot be taken over (for good), Errno(ENODEV) without device."""
        raise NotImplementedError

    def ioctl(self, file: DeviceFile | SessionFile, command: int, argument: int, caller: Caller) -> int | Blocked:
        """0, or an Errno. Installs fds and writes memory through `caller` before it returns."""
        raise NotImplementedError

    def release(self, file: DeviceFile | SessionFile) -> None:
        """The last reference to the file is gone. Never fails; once, for each file that was opened or installed."""
        raise NotImplementedError

    def file_operation(self, file: DeviceFile | SessionFile, operation: Operation) -> int:
        raise NotImplementedError

    def kexec_file_load(self, files: KexecFiles, flags: int, caller: Caller) -> int:
        raise NotImplementedError

    def kexec_load(self, segments: Sequence[KexecSegment], flags: int, caller: Caller) -> int:
        """No segments: unload."""
        raise NotImplementedError

    def reboot(self, magic1: int, magic2: int, command: int, caller: Caller) -> int | Blocked | Jump | Ending:
        """After `Jump` every ioctl is `Blocked` and `release` changes nothing, so processes may die in any order."""
        raise NotImplementedError

    def jump(self) -> Kernel:
        """The next boot, once `reboot` said `Jump`. This kernel is gone afterwards. `Panic` if the next one stops while it boots."""
        raise NotImplementedError

    def close(self) -> None:
        """The machine is switched off: drop every reference to files of the host. May be called twice."""
        raise NotImplementedError
