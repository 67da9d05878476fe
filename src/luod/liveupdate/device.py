"""`/dev/liveupdate` itself: opening it, creating sessions, retrieving them.

The sessions are in `outgoing` and `incoming`. On a machine with luod, programs get sessions from luod.
"""

from __future__ import annotations

import errno
import os
import time

from luod.errors import KernelRefused, LiveUpdateBroken, LiveUpdateBusy, NoLiveUpdate
from luod.linux import Fd
from luod.liveupdate import calls
from luod.liveupdate.session import Owner, encode_name
from luod.static import TYPE_CHECKING, Final
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
    """`/dev/liveupdate`, open. A machine has one open file description of it at a time, so close it soon.

    Sessions do not need it once they exist: unretrieved ones stay in the kernel, open ones live by their own fds.
    """

    def __init__(self, path: str = uapi.DEVICE, *, patience: float = 0.0) -> None:
        """Opens `path`. While another process has it open, tries again for `patience` seconds.

        Raises NoLiveUpdate (ENOENT, ENODEV, ENXIO, EACCES, EPERM), LiveUpdateBusy (EBUSY), LiveUpdateBroken (EIO: this
        kernel has no handler for a carried file; it stays so until the next boot), KernelRefused (any other errno).
        """
        super().__init__(_open(path, patience))

    def create_session(self, name: str) -> OutgoingSession:
        """Returns a new outgoing session, which the caller owns: CREATE_SESSION.

        The session ends, with all files preserved in it, when its last fd in any process is closed. If it is open at
        reboot(LINUX_REBOOT_CMD_KEXEC), it is carried.

        Raises BadInput: the name is not 1 to 63 bytes without NUL. Raises SessionExists: EEXIST. Raises KernelRefused:
        any other errno.
        """
        from luod.liveupdate.outgoing import OutgoingSession  # imported late: luod's supervisor does not use it

        return OutgoingSession(self.create(name))

    def retrieve_session(self, name: str) -> IncomingSession:
        """Returns the session `name` of the previous kernel, which the caller owns: RETRIEVE_SESSION.

        From now on the session ends with its last fd, as if finished: files that were not retrieved from it are lost
        (docs/hazards.md, H6). So retrieve it late, and in a process that lasts. Sessions that no process retrieves wait
        in the kernel, but are not carried over a further kexec.

        Raises BadInput as `create_session`. Raises NoSuchSession: ENOENT. Raises SessionTaken: EINVAL. Raises
        KernelRefused: any other errno.
        """
        from luod.liveupdate.incoming import IncomingSession  # imported late, as above

        return IncomingSession(self.retrieve(name))

    def create(self, name: str) -> Fd:
        """Creates a session as `create_session`, and returns its bare fd, which the caller owns."""
        return self._session(calls.CREATE_SESSION, name)

    def retrieve(self, name: str) -> Fd:
        """Retrieves a session as `retrieve_session`, and returns its bare fd, which the caller owns."""
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
        # The kernel has nothing to wait for: inotify reports the other's close before the device is free.
        time.sleep(min(pause, left))
        pause = min(pause * 2, _BACKOFF_LAST)
