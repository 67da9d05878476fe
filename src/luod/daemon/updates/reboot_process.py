"""serve's side of the process that calls reboot(2), or has systemd do it.

It starts the process, releases it, and reads why there was no kexec.

The process is `luod.daemon.updates.reboot` or `luod.daemon.updates.systemd_kexec`. `luod.daemon.updates.update` decides
when to release it.
"""

from __future__ import annotations

import os

from luod.daemon.processes.child import DYING_SECONDS, Child
from luod.daemon.updates import reboot_report
from luod.errors import JumpRefused, KernelRefused
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from luod.ipc.types.phases import Way

_CALL: Final = "reboot(LINUX_REBOOT_CMD_KEXEC)"


class RebootProcess:
    """The process, started and waiting. `close` ends it unless it was released."""

    def __init__(self, way: Way) -> None:
        if way == "direct":
            self._child = Child("luod.daemon.updates.reboot")
        else:
            self._child = Child("luod.daemon.updates.systemd_kexec", (str(os.getppid()),))
        self.pidfd = self._child.pidfd
        self.gone = False
        """Whether it was let go."""

    def go(self) -> None:
        """Has reboot(2) called, irrevocably. Raises JumpRefused: the process has ended, and nothing happened."""
        if not self._child.go():
            raise JumpRefused(0, _CALL, "the process that was to call it has ended")
        self.gone = True

    async def ended(self, seconds: float) -> bool:
        """Returns whether the process has ended: then there was no kexec. Waits up to `seconds` for it."""
        return await self._child.ended(seconds)

    def refusal(self) -> KernelRefused:
        """Returns why there was no kexec, once the process has ended."""
        said = reboot_report.read(self._child.report)
        return said or JumpRefused(0, _CALL, f"the process that calls it ended with {self._child.status}")

    async def close(self) -> None:
        """Ends the process, if it has not ended. One that cannot be killed is still at its gate."""
        self._child.kill()
        await self._child.ended(DYING_SECONDS)
        self._child.close()
