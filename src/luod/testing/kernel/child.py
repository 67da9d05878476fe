"""QEMU's process on the host: waits for its end, and ends it by pidfd, never by number.

`luod.testing.kernel.machine` owns its log files.
"""

from __future__ import annotations

import os
import signal
import subprocess

from luod.linux import Fd, has_ended


class Child:
    """Owns the process and its pidfd: `close` waits for the process and closes the pidfd."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        """Takes ownership of `process`, which has no pipes."""
        self._process = process
        self.pid = process.pid
        self._pidfd = Fd(os.pidfd_open(process.pid))

    @property
    def returncode(self) -> int | None:
        """Returns the exit status, None while it runs."""
        return self._process.poll()

    def ends_within(self, seconds: float) -> bool:
        """Returns whether it ends within `seconds`. Waits for it."""
        return self._process.returncode is not None or has_ended(self._pidfd, within=seconds)

    def wait(self) -> int:
        """Waits for its end and returns the exit status, or minus the signal that killed it."""
        return self._process.wait()

    def kill(self) -> None:
        """Kills it with SIGKILL, and waits for the end. Does nothing once it was waited for."""
        if self._process.returncode is None:
            signal.pidfd_send_signal(self._pidfd.fileno(), signal.SIGKILL)
            self._process.wait()

    def close(self) -> None:
        """Ends it if it runs, and closes the pidfd. Idempotent."""
        self.kill()
        self._pidfd.close()
