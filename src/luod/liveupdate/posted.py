"""Calls that are posted and in no released kernel: FREEZE of a session, and RETRIEVE_FD into a file of a tmpfs.

They are made only where the machine declares them, as luoemu's profile `next` does. No number is tried for this:
numbers are reused between kernels, and another command would run (docs/hazards.md, H25). `luod.uapi.liveupdate_next`
has the numbers and their source. Sessions load this module when one of these calls is asked for.
"""

from __future__ import annotations

import errno

from luod.errors import PostedCallUnavailable, SessionFrozen, TargetRefused, WrongDirection
from luod.liveupdate import declared
from luod.liveupdate.calls import Call
from luod.static import Final
from luod.uapi import liveupdate as uapi
from luod.uapi import liveupdate_next as posted

_FREEZE: Final = Call(
    "LIVEUPDATE_SESSION_FREEZE",
    posted.LIVEUPDATE_SESSION_FREEZE,
    {
        errno.EBUSY: (SessionFrozen, "the session is frozen already"),
        errno.EINVAL: (WrongDirection, "this is an incoming session; outgoing ones are frozen"),
    },
)
_RETRIEVE_INTO: Final = Call(
    "LIVEUPDATE_SESSION_RETRIEVE_FD",
    uapi.LIVEUPDATE_SESSION_RETRIEVE_FD,
    {
        posted.ARGUMENT_NOT_TAKEN: (TargetRefused, "a file of this kind is not retrieved into another"),
        posted.TARGET_READ_ONLY: (TargetRefused, "the target is not open for writing"),
        posted.TARGET_UNFIT: (TargetRefused, "the target is not an empty file of a tmpfs, or the file is a memfd"),
        posted.TARGET_CLAIMED: (TargetRefused, "a session holds the target, preserved or filled by a retrieve"),
    },
)


def available() -> bool:
    """Returns whether this machine declares the calls: an emulated one with profile `next` does (`declared`)."""
    return declared.profile() == "next"


def freeze(session: int) -> None:
    """Freezes the outgoing session with this fd. Raises as `OutgoingSession.freeze`."""
    _need("LIVEUPDATE_SESSION_FREEZE")
    _FREEZE.make(session, bytearray(posted.SESSION_FREEZE.pack(posted.SESSION_FREEZE.size, 0)))


def retrieve_into(session: int, token: int, target: int) -> int:
    """Retrieves a file into `target`, and returns a new fd of the target. Raises as `IncomingSession.retrieve`."""
    import ctypes  # as late as possible: no released kernel needs it

    _need("RETRIEVE_FD into a file")
    content = posted.MEMFD_RETRIEVE_ARG.pack(posted.MEMFD_RETRIEVE_ARG.size, target)
    memory = ctypes.create_string_buffer(content, len(content))
    layout = posted.SESSION_RETRIEVE_FD
    argument = bytearray(layout.pack(layout.size, -1, token, ctypes.addressof(memory)))
    _RETRIEVE_INTO.make(session, argument)
    fd: int = layout.unpack(argument)[1]
    return fd


def _need(call: str) -> None:
    if not available():
        raise PostedCallUnavailable(f"this kernel has no {call}")
