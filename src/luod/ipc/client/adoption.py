"""A program's call that has luod hold a session of its own, step by step and without I/O: Adopt.

The exchange is like those of `luod.ipc.client.sessions`. `luod.client` and `luod.aio` run and document it.
"""

from __future__ import annotations

import os

from luod.errors import BadInput
from luod.ipc.client.limits import Limits
from luod.ipc.client.sessions import INCOMING, Call, named
from luod.ipc.decode import decode
from luod.ipc.types.sessions import Adopted
from luod.linux import Fd
from luod.liveupdate import IncomingSession, OutgoingSession
from luod.static import TYPE_CHECKING

if TYPE_CHECKING:
    from luod.ipc.client.sessions import Exchange
    from luod.linux import HasFileno


def adopt(session: int | HasFileno, path: str) -> Exchange[tuple[str, OutgoingSession | IncomingSession]]:
    """Returns the session's name, and an object with a duplicate of its own. `path` as for `create`."""
    try:
        copy = Fd(os.dup(session if isinstance(session, int) else session.fileno()))
    except (OSError, ValueError, OverflowError) as error:
        raise BadInput(f"the session is not open: {error}") from error
    made: OutgoingSession | IncomingSession
    try:
        reply = yield Call("Adopt", {"session_fd": 0}, fds=(copy,))
        adopted = decode(Adopted, reply.parameters)
    except BaseException:
        copy.close()
        raise
    if adopted.direction == INCOMING:
        made = named(adopted.name, IncomingSession(copy, limits=Limits(path)))
    else:
        made = named(adopted.name, OutgoingSession(copy, manifest=False, limits=Limits(path)))
    return adopted.name, made
