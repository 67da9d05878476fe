"""The ioctls of `/dev/liveupdate` and of sessions, and the meaning of each errno of each of them, as text and as a
type.

Only the other modules of `luod.liveupdate` use this. The errnos were measured on Linux 7.3, except those of
UNPRESERVE_FD and EBUSY of FINISH, which follow the kernel document.
"""

from __future__ import annotations

import errno
import fcntl

from luod.errors import (
    FileAlreadyPreserved,
    FileNotPreservable,
    FinishRefused,
    KernelRefused,
    NoSuchSession,
    NoSuchToken,
    RetrieveFailed,
    SessionExists,
    SessionTaken,
    TokenInUse,
    WrongDirection,
)
from luod.static import Final, NoReturn
from luod.uapi import liveupdate as uapi

_INTERRUPTIONS_MAX: Final = 100


class Call:
    """One ioctl: its name in the header, its number, and the meaning of each errno from it."""

    def __init__(self, name: str, number: int, meanings: dict[int, tuple[type[KernelRefused], str]]) -> None:
        self.name, self.number, self._meanings = name, number, meanings

    def make(self, fd: int, argument: bytearray) -> None:
        """Makes the ioctl on `fd`. Raises the subclass of KernelRefused for its errno.

        `argument` is private and writable. With memory that the kernel cannot write to, RETRIEVE_SESSION, FINISH and
        PRESERVE_FD take effect and then fail, and the first loses the session.
        """
        for attempt in range(_INTERRUPTIONS_MAX + 1):
            try:
                fcntl.ioctl(fd, self.number, argument)
                return
            except OSError as error:
                # Under luoemu a signal may arrive before the machine received the call, so it is repeated. The number
                # of attempts is limited: a real kernel repeats the errno of a failed RETRIEVE_FD.
                if error.errno != errno.EINTR or attempt == _INTERRUPTIONS_MAX:
                    self._refuse(error)

    def _refuse(self, error: OSError) -> NoReturn:
        code = error.errno or 0
        kind, meaning = self._meanings.get(code) or _ANYWHERE.get(code) or (self._otherwise, "")
        raise kind(code, self.name, meaning) from None

    @property
    def _otherwise(self) -> type[KernelRefused]:
        return RetrieveFailed if self.number == uapi.LIVEUPDATE_SESSION_RETRIEVE_FD else KernelRefused


_ANYWHERE: Final[dict[int, tuple[type[KernelRefused], str]]] = {
    errno.EMFILE: (KernelRefused, "this process has no free file descriptor; nothing was changed"),
    errno.ENFILE: (KernelRefused, "the system has no free file; nothing was changed"),
    errno.EBADF: (KernelRefused, "an fd is not open, or was opened with O_PATH"),
    errno.ENOTTY: (KernelRefused, "the fd is not /dev/liveupdate, or not a session"),
}
CREATE_SESSION: Final = Call(
    "LIVEUPDATE_IOCTL_CREATE_SESSION",
    uapi.LIVEUPDATE_IOCTL_CREATE_SESSION,
    {errno.EEXIST: (SessionExists, "an outgoing session of this name is open")},
)
RETRIEVE_SESSION: Final = Call(
    "LIVEUPDATE_IOCTL_RETRIEVE_SESSION",
    uapi.LIVEUPDATE_IOCTL_RETRIEVE_SESSION,
    {
        errno.ENOENT: (NoSuchSession, "no incoming session of this name is waiting"),
        errno.EINVAL: (SessionTaken, "the session is already retrieved and still open"),
    },
)
PRESERVE_FD: Final = Call(
    "LIVEUPDATE_SESSION_PRESERVE_FD",
    uapi.LIVEUPDATE_SESSION_PRESERVE_FD,
    {
        errno.EEXIST: (TokenInUse, "the token is in use in this session"),
        errno.EBUSY: (FileAlreadyPreserved, "the file is preserved already, or retrieved and its session not finished"),
        errno.ENOENT: (FileNotPreservable, "this kind of file cannot be preserved"),
        errno.EFBIG: (FileNotPreservable, "the file is too large to be preserved"),
        errno.EOPNOTSUPP: (FileNotPreservable, "the file has a property that this kernel cannot preserve"),
        errno.EINVAL: (WrongDirection, "this is an incoming session; files are preserved in outgoing ones"),
        errno.ENOMEM: (KernelRefused, "there is not enough memory to preserve the file"),
    },
)
UNPRESERVE_FD: Final = Call(
    "LIVEUPDATE_SESSION_UNPRESERVE_FD",
    uapi.LIVEUPDATE_SESSION_UNPRESERVE_FD,
    {
        errno.ENOENT: (NoSuchToken, "no file is preserved under this token"),
        errno.EINVAL: (WrongDirection, "this is an incoming session; files are unpreserved in outgoing ones"),
    },
)
RETRIEVE_FD: Final = Call(
    "LIVEUPDATE_SESSION_RETRIEVE_FD",
    uapi.LIVEUPDATE_SESSION_RETRIEVE_FD,
    {
        errno.ENODEV: (RetrieveFailed, "no VFIO driver had the device at the first RETRIEVE_FD, which is final"),
        errno.ENOENT: (NoSuchToken, "the session holds no file under this token, or is finished"),
        errno.EINVAL: (WrongDirection, "this is an outgoing session; files are retrieved from incoming ones"),
    },
)
FINISH: Final = Call(
    "LIVEUPDATE_SESSION_FINISH",
    uapi.LIVEUPDATE_SESSION_FINISH,
    {
        errno.EBUSY: (FinishRefused, "a file is not retrieved or not completely restored"),
        errno.EINVAL: (WrongDirection, "this is an outgoing session; incoming ones are finished"),
    },
)
GET_NAME: Final = Call("LIVEUPDATE_SESSION_GET_NAME", uapi.LIVEUPDATE_SESSION_GET_NAME, {})
