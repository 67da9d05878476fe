"""The two kinds of open files that LUO creates. An ioctl is the only operation of either (docs/kernel.md, 1 and 4).

`trap` does not look into them. It keeps each beside a placeholder, and passes it to `Kernel.ioctl` and
`Kernel.release`. It answers all other system calls on the device itself; those on a placeholder the host answers.
"""

from __future__ import annotations

from luod.emulator.model.session import IncomingSession, OutgoingSession


class DeviceFile:
    """One open of /dev/liveupdate. Compared by identity."""


class SessionFile:
    """The open file of a session. `name` is the session's."""

    def __init__(self, session: OutgoingSession | IncomingSession) -> None:
        self.session = session

    @property
    def name(self) -> bytes:
        """Returns 1 to 63 bytes without NUL."""
        return self.session.name
