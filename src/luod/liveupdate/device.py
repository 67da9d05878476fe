"""`/dev/liveupdate` itself: opening it, creating sessions, retrieving them.

What is done with a session is in `outgoing` and `incoming`. On a machine with luod, sessions come from luod.
"""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING, Final

from luod.errors import KernelRefused, LiveUpdateBroken, LiveUpdateBusy, NoLiveUpdate
from luod.linux import Fd
from luod.liveupdate import calls
from luod.liveupdate.session import Owner, encode_name
from luod.uapi import liveupdate as uapi

if TYPE_CHECKING:
    from luod.liveupdate.incoming import IncomingSession
    from luod.liveupdate.outgoing import OutgoingSession

_BACKOFF_FIRST: Final = 0.001
_BACKOFF_LAST: Final = 0.05
_OPEN_REFUSALS: Final[dict[int, tuple[type[KernelRefused], str]]] = {
    errno.ENOENT: (NoLiveUpdate, "there is no such device; live update is off or not in this kernel"),
    errno.ENODEV: (NoLiveUpdate, "the device node has no driver; live update is off in this kernel"),
    errno.ENXIO: (NoLiveUpdate, "the device node has no driver; live update is off in this kernel"),
    errno.EACCES: (NoLiveUpdate, "the device is for root only"),
    errno.EPERM: (NoLiveUpdate, "the device is not for this process"),
    errno.EBUSY: (LiveUpdateBusy, "another process has the device open"),
    errno.EIO: (LiveUpdateBroken, "this kernel could not take over what was carried into it"),
}


class LiveUpdate(Owner):
    """`/dev/liveupdate`, open. One open file description exists on a machine at a time, so close it soon.

    Sessions do not need it once they are there: waiting ones stay in the kernel, open ones live by their own fds.
    """

    def __init__(self, path: str = uapi.DEVICE, *, patience: float = 0.0) -> None:
        """Opens `path`; with `patience`, in seconds, it is tried again for so long while another process has it open.

        NoLiveUpdate (ENOENT, ENODEV, ENXIO, EACCES, EPERM), LiveUpdateBusy (EBUSY), LiveUpdateBroken (EIO: this kernel
        has no handler for a file that was carried; it stays so until the next boot), KernelRefused.
        """
        super().__init__(_open(path, patience))

    def create_session(self, name: str) -> OutgoingSession:
        """A new outgoing session; the caller owns it. It ends, with all that is preserved in it, when the last fd of it
        is closed anywhere; open until `reboot(KEXEC)`, it is carried.

        BadInput: the name is not 1 to 63 bytes without NUL. SessionExists: EEXIST. KernelRefused: anything else.
        """
        from luod.liveupdate.outgoing import OutgoingSession  # late, for luod's keeper, which has no use for it

        return OutgoingSession(self.create(name))

    def retrieve_session(self, name: str) -> IncomingSession:
        """The session `name` of the kernel before; the caller owns it, and from here on it dies with its last fd, as
        if finished: whatever was not retrieved from it is lost (H6). So retrieve late, and in a process that lasts.

        Sessions that nobody retrieves wait in the kernel, but are not carried over a further kexec.
        BadInput as above. NoSuchSession: ENOENT. SessionTaken: EINVAL. KernelRefused: anything else.
        """
        from luod.liveupdate.incoming import IncomingSession  # late, as above

        return IncomingSession(self.retrieve(name))

    def create(self, name: str) -> Fd:
        """As `create_session`, the bare fd: for who hands it on and does nothing with it."""
        return self._session(calls.CREATE_SESSION, name)

    def retrieve(self, name: str) -> Fd:
        """As `retrieve_session`, the bare fd."""
        return self._session(calls.RETRIEVE_SESSION, name)

    def _session(self, call: calls.Call, name: str) -> Fd:
        argument = bytearray(uapi.CREATE_SESSION.pack(uapi.CREATE_SESSION.size, -1, encode_name(name)))
        call.make(self.fileno(), argument)
        return Fd(uapi.CREATE_SESSION.unpack(argument)[1])


def _open(path: str, patience: float) -> Fd:
    deadline = time.monotonic() + patience
    pause = _BACKOFF_FIRST
    while True:
        try:
            return Fd(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            code = error.errno or 0
            left = deadline - time.monotonic()
            if code != errno.EBUSY or left <= 0:
                kind, meaning = _OPEN_REFUSALS.get(code, (KernelRefused, ""))
                raise kind(code, f"open {path}", meaning) from None
        # The kernel offers nothing to wait for: inotify reports the other's close before the device is free.
        time.sleep(min(pause, left))
        pause = min(pause * 2, _BACKOFF_LAST)
