"""The memory limits of this process where it cannot read them: from files kept open, or from luod.

A session from luod has such an object, and uses it when /proc or the cgroup file system is missing, as in the chroot of
a VMM's jail. The files are opened with the session, so they can be read after chroot(2). They are of no use once the
process has moved to another cgroup, or in a child process. luod is asked then over a connection of its own, by the path
of its socket, if that exists in the jail. Both show the present state.
"""

from __future__ import annotations

from luod import memory
from luod.errors import LuodError, ProtocolError
from luod.ipc.client.connection import Connection
from luod.ipc.decode import decode
from luod.ipc.framing import encode_call
from luod.ipc.names import SESSIONS
from luod.ipc.types.sessions import Limit
from luod.memory import Room, Unknown
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from luod.memory import Answer

_SECONDS: Final = 5.0
"""The time limit of luod's answer in seconds: it reads a few small files."""


class Limits:
    """`luod.memory.Limits` of a session from the luod at `path`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._kept = memory.keep()

    def chargeable(self, enough: int) -> Answer:
        return self._asked("chargeable", None if self._kept is None else self._kept.chargeable(enough))

    def free(self, enough: int) -> Answer:
        return self._asked("free", None if self._kept is None else self._kept.free(enough))

    def close(self) -> None:
        self._kept = None  # closes the files, unless another session has them

    def _asked(self, member: str, answer: Answer) -> Answer:
        """Returns `answer`, or luod's if that is Unknown or no file was kept open."""
        if self._kept is not None and not isinstance(answer, Unknown):
            return answer
        try:
            with (
                Connection(self._path, timeout=_SECONDS) as connection,
                connection.ask(encode_call(f"{SESSIONS}.Room")) as reply,
            ):
                parameters = reply.parameters
        except LuodError as error:
            kept = f"{answer.why}; " if isinstance(answer, Unknown) else ""
            return Unknown(f"{kept}luod cannot be asked: {error.message}")
        room = _room(parameters.get(member))
        why = parameters.get("unknown")
        if why is not None or member not in parameters:
            return Unknown(f"luod: {why or 'it did not say'}"[:500], room)
        return room


def _room(given: object) -> Room | None:
    """Returns the limit in luod's answer. An answer that cannot be decoded leaves nothing."""
    if given is None:
        return None
    try:
        limit = decode(Limit, given)
    except ProtocolError:
        limit = None
    if limit is not None and limit.available >= 0:
        return Room(limit.available, limit.limit)
    return Room(0, "an answer of luod's that this library does not understand")
