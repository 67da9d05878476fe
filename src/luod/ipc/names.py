"""Names on the wire: luod's interfaces, the sockets they are served on, and errors that belong to no interface."""

from typing import Final

SESSIONS: Final = "io.luod.Sessions"
UPDATES: Final = "io.luod.Updates"
ADMIN: Final = "io.luod.Admin"

SESSIONS_SOCKET: Final = "/run/luod/luod.sock"
ADMIN_SOCKET: Final = "/run/luod/admin.sock"

TOO_MANY_CONNECTIONS: Final = "io.luod.TooManyConnections"
"""The error of a connection that was not let in, whatever it asks. Nothing of it was done."""
FILES_NOT_RECEIVED: Final = "io.luod.FilesNotReceived"
"""The error of a message whose fds luod does not receive now. Nothing of it was done, and the connection ends."""
INTERNAL_ERROR: Final = "io.luod.InternalError"
"""The error of a call that failed in a way that luod did not foresee."""
