"""QEMU's process on the host: waits for its end, and ends it by pidfd, never by number.

`luod.testing.kernel.machine` owns the files that it writes to.
"""

from __future__ import annotations

import os
import signal
import subprocess

from luod.linux import Fd, has_ended


class Child:
    """Owns the process and its pidfd: `close` waits for the one and closes the other."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        """Takes ownership of `process`, which has no pipes."""
        self._process = process
        self.pid = process.pid
        self._pidfd = Fd(os.pidfd_open(process.pid))

    @property
    def returncode(self) -> int | None:
        """The exit status, None while it runs."""
        return self._process.poll()

    def ends_within(self, seconds: float) -> bool:
        """Waits up to `seconds` for its end."""
        return self._process.returncode is not None or has_ended(self._pidfd, within=seconds)

    def wait(self) -> int:
        """Waits for its end and returns the exit status, or minus the signal that killed it."""
        return self._process.wait()

    def kill(self) -> None:
        """SIGKILL, and waits for the end; nothing when it has been waited for."""
        if self._process.returncode is None:
            signal.pidfd_send_signal(self._pidfd.fileno(), signal.SIGKILL)
            self._process.wait()

    def close(self) -> None:
        """Ends it, if it has not, and lets go of the pidfd. A second call does nothing."""
        self.kill()
        self._pidfd.close()
