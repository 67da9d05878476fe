"""reboot(2) in a process of its own, since it may hang for as long as anybody is in a session's ioctl (H17).

`python3 -m luod.daemon.updates.reboot` is that process: it waits for one byte on its standard input, jumps, and writes
what went wrong to its standard output. At the end of its input it ends, so that it never outlives a serve that did not
mean it. `Jump` is serve's side. Not what is jumped into, nor whether: that is `luod.daemon.updates.update`.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys

from luod import kexec
from luod.errors import JumpRefused, KernelRefused
from luod.linux import Fd, has_ended

_GO = b"j"
_DYING_SECONDS = 5.0


class Jump:
    """The process, started and waiting. Owns it: `close` ends it unless it was told to go."""

    def __init__(self) -> None:
        # A session of its own: a ^C meant for luod must not reach it half-way.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "luod.daemon.updates.reboot"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self.pidfd = Fd(os.pidfd_open(self.pid))
        self.gone = False
        """Whether it was told to go."""

    def go(self) -> None:
        """No way back from here on. JumpRefused: the process is gone, and nothing happened."""
        assert self._process.stdin is not None
        try:
            os.write(self._process.stdin.fileno(), _GO)
        except BrokenPipeError as error:
            raise self.refusal() from error
        self.gone = True

    def refusal(self) -> KernelRefused:
        """Why there was no jump, once the process has ended."""
        assert self._process.stdout is not None
        said = self._process.stdout.read()
        try:
            words = json.loads(said)
            return KernelRefused(int(words["errno"]), str(words["call"]), str(words["meaning"]))
        except (ValueError, KeyError, TypeError):
            status = self._process.wait()
            return JumpRefused(0, "reboot(LINUX_REBOOT_CMD_KEXEC)", f"the process that calls it ended with {status}")

    async def close(self) -> None:
        """Ends the process, unless it was told to go: then it must have ended. One that does not die is let be: it
        ends at the end of its input, and never jumps.
        """
        if not self.gone:
            self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        if await ended(self.pidfd, _DYING_SECONDS):
            self._process.wait()
        self.pidfd.close()


async def ended(pidfd: Fd, seconds: float) -> bool:
    """Waits for the end of a process; False when `seconds` went by before."""
    loop = asyncio.get_running_loop()
    over = loop.create_future()

    def tell() -> None:
        if not over.done():
            over.set_result(None)

    loop.add_reader(pidfd, tell)
    try:
        await asyncio.wait_for(over, seconds)
    except TimeoutError:
        return has_ended(pidfd)
    finally:
        loop.remove_reader(pidfd)
    return True


def main() -> int:
    if os.read(0, 1) != _GO:
        return 0
    try:
        kexec.jump()
    except KernelRefused as error:
        words = {"errno": error.errno, "call": error.call, "meaning": error.meaning}
    try:
        os.write(1, json.dumps(words).encode())
    except OSError:
        # The serve that asked is gone; the one after it sees that this process ended.
        return 1
    return 1


if __name__ == "__main__":
    sys.exit(main())
