"""serve's side of the process that calls reboot(2), or has systemd do it.

It starts the process, releases it, and reads why there was no kexec.

The process is `luod.daemon.updates.reboot` or `luod.daemon.updates.systemd_kexec`. `luod.daemon.updates.stages` decides
when to release it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os

from luod.daemon.processes import gate
from luod.daemon.processes.child import DYING_SECONDS, Child, ended, readable
from luod.daemon.systemd import units
from luod.daemon.updates import reboot_report
from luod.errors import JumpRefused, KernelRefused
from luod.linux import Fd
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from luod.daemon.log import Log
    from luod.ipc.types.phases import Way

_CALL: Final = "reboot(LINUX_REBOOT_CMD_KEXEC)"
_AGAIN_SECONDS: Final = 0.5
"""Between two waits for its end, after one that failed."""


class RebootProcess:
    """The process, started and waiting. `close` ends it."""

    def __init__(self, way: Way) -> None:
        self._way = way
        module, arguments = "luod.daemon.updates.reboot", tuple[str, ...]()
        if way == "systemd":
            module, arguments = "luod.daemon.updates.systemd_kexec", (str(os.getppid()),)
        self._at_gate, theirs = map(Fd, os.pipe())
        try:
            self._child = Child(module, arguments, fds={gate.AT_GATE: theirs.fileno()})
        except OSError:
            self._at_gate.close()
            raise
        finally:
            theirs.close()
        self.pidfd = self._child.pidfd
        self._gone = False
        """Whether it was let go, or may have been."""
        self._over = False
        """Whether it was seen to have ended, and no kexec follows."""

    @property
    def under_way(self) -> bool:
        """Returns whether there may still be a kexec: it was let go, and was not seen to have ended. Nothing but its
        end shows that no kexec follows: a signal does not end a reboot(2) that is blocked (docs/hazards.md, H17).
        """
        return self._gone and not self._over

    async def at_gate(self) -> None:
        """Returns when the process waits at its gate, or has ended. Before that, a disk that hangs may delay it: it
        reads its modules.
        """
        await readable(self._at_gate)

    def go(self, loads: int | None) -> None:
        """Has reboot(2) called, irrevocably, unless the kernel's count of loads is another than `loads`.

        None: the count is unknown. Raises JumpRefused: the process has ended, and nothing happened.
        """
        self._gone = True
        if not self._child.go("" if loads is None else str(loads)):
            self._gone = False
            raise JumpRefused(0, _CALL, "the process that was to call it has ended")

    async def ended(self, seconds: float) -> bool:
        """Returns whether the process has ended, and no kexec follows. Waits up to `seconds` for its end."""
        if not self._over and await ended(self.pidfd, seconds):
            with contextlib.suppress(OSError):  # of wait(2): its status is for the message only
                await self._child.ended(0.0)
            self._over = await self._tells()
            if not self._over:
                await asyncio.sleep(_AGAIN_SECONDS)
        return self._over

    async def _tells(self) -> bool:
        """Returns whether the end of the process shows that no kexec follows. One that had systemd end this kernel may
        have been killed after systemd took the request: it has no report then.
        """
        if self._way == "direct" or reboot_report.read(self._child.report) is not None:
            return True
        return not await asyncio.to_thread(units.may_end_kernel)

    @property
    def called(self) -> bool:
        """Returns whether reboot(2) may have been called, once the process has ended."""
        said = reboot_report.read(self._child.report)
        return said is None or said.call == _CALL

    def refusal(self) -> KernelRefused:
        """Returns why there was no kexec, once the process has ended."""
        said = reboot_report.read(self._child.report)
        return said or JumpRefused(0, _CALL, f"the process that calls it ended with {self._child.status}")

    def kill(self) -> None:
        """Kills the process, if it has not ended. It must not be `under_way`.

        Killed at its gate it calls nothing, even if it ends later, such as one that a disk blocks.
        """
        self._child.kill()

    async def close(self) -> None:
        """Kills the process, waits for its end, and closes its pidfd and report."""
        self._child.kill()
        await self._child.ended(DYING_SECONDS)
        self._child.close()
        asyncio.get_running_loop().remove_reader(self._at_gate)
        self._at_gate.close()


async def until_ended(
    ended: Callable[[float], Awaitable[bool]], seconds: float, late: Callable[[], None], log: Log
) -> None:
    """Waits until the process that calls reboot(2) has ended. Runs `late` after each `seconds` of that.

    `ended` waits for up to so many seconds. An error of either is no end: it is logged, and the wait continues.
    """
    while True:
        try:
            if await ended(seconds):
                return
            late()
        except Exception as error:  # noqa: BLE001 - guests must not resume while reboot(2) may start the next kernel
            log.error("jump-not-awaited", error=repr(error))
            await asyncio.sleep(_AGAIN_SECONDS)
