"""Names on the wire: luod's interfaces, the sockets that serve them, and errors that belong to no interface."""

from __future__ import annotations

from luod.static import Final

SESSIONS: Final = "io.luod.Sessions"
UPDATES: Final = "io.luod.Updates"
ADMIN: Final = "io.luod.Admin"
QEMU: Final = "io.luod.Qemu"
"""The interface of a guest of QEMU, which its agent serves."""
SERVICE: Final = "org.varlink.service"
"""The interface of every Varlink service."""

SESSIONS_SOCKET: Final = "/run/luod/luod.sock"
ADMIN_SOCKET: Final = "/run/luod/admin.sock"

TOO_MANY_CONNECTIONS: Final = "io.luod.TooManyConnections"
"""The error of a refused connection, for any call. Nothing was done."""
FILES_NOT_RECEIVED: Final = "io.luod.FilesNotReceived"
"""The error of a message with fds that luod cannot receive now. Nothing was done, and the connection ends."""
INTERNAL_ERROR: Final = "io.luod.InternalError"
"""The error of a call that failed unexpectedly."""
