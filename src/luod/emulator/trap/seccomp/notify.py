"""The listener of a seccomp filter: receives the system calls that stopped, and answers each exactly once.

Thin: one method an ioctl. What to answer is decided in `trap.supervisor`. A call whose thread was killed has nobody to
answer; every method takes that as done (`alive` tells).
"""

from __future__ import annotations

import errno
import fcntl
import os
from dataclasses import dataclass
from typing import Final

from luod.emulator.model.ports import Errno
from luod.linux import Fd
from luod.uapi import seccomp as uapi

_EMPTY: Final = bytes(uapi.NOTIF.size)


@dataclass(frozen=True, slots=True)
class Notification:
    """One stopped system call. `tid` is in the supervisor's PID namespace."""

    id: int
    tid: int
    number: int
    architecture: int
    arguments: tuple[int, ...]
    """All six, 64 bits each; what the call does not have is rubbish."""


class Listener:
    """Owns the listener's fd."""

    def __init__(self, fd: Fd) -> None:
        self._fd = fd
        self._buffer = bytearray(_EMPTY)
        try:
            # Hands the CPU straight to the other side: a tenth of the time on an idle host. Linux 6.6.
            fcntl.ioctl(fd.fileno(), uapi.SECCOMP_IOCTL_NOTIF_SET_FLAGS, uapi.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise

    def fileno(self) -> int:
        return self._fd.fileno()

    def close(self) -> None:
        """Calls that are still stopped, and all later ones, get ENOSYS."""
        self._fd.close()

    def receive(self) -> Notification | None:
        """The next call, or None when its thread was killed meanwhile. Waits for one: ask epoll first."""
        self._buffer[:] = _EMPTY  # the kernel refuses a buffer that is not zero
        try:
            fcntl.ioctl(self._fd.fileno(), uapi.SECCOMP_IOCTL_NOTIF_RECV, self._buffer)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        values = uapi.NOTIF.unpack(self._buffer)
        return Notification(values[0], values[1], values[3], values[4], values[6:])

    def alive(self, notification: Notification) -> bool:
        """Whether the thread is still stopped in this call. If so, what was read by its tid before was its own."""
        try:
            fcntl.ioctl(self._fd.fileno(), uapi.SECCOMP_IOCTL_NOTIF_ID_VALID, notification.id.to_bytes(8, "little"))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return False
            raise
        return True

    def _send(self, notification: Notification, value: int, error: int, flags: int) -> None:
        try:
            fcntl.ioctl(
                self._fd.fileno(),
                uapi.SECCOMP_IOCTL_NOTIF_SEND,
                uapi.NOTIF_RESP.pack(notification.id, value, error, flags),
            )
        except OSError as failed:
            if failed.errno != errno.ENOENT:
                raise

    def answer(self, notification: Notification, value: int) -> None:
        """The call returns `value`."""
        self._send(notification, value, 0, 0)

    def refuse(self, notification: Notification, code: int) -> None:
        """The call fails with errno `code`."""
        self._send(notification, 0, -code, 0)

    def let_through(self, notification: Notification) -> None:
        """The host's kernel answers the call itself. It reads its arguments anew: no security can rest on this."""
        self._send(notification, 0, 0, uapi.SECCOMP_USER_NOTIF_FLAG_CONTINUE)

    def add_fd(self, notification: Notification, fd: int, *, cloexec: bool, send: bool = False) -> int:
        """Puts a duplicate of `fd` into the caller and returns its number there; it cannot be taken back.

        With `send` that number is the answer to the call. Errno(EMFILE) when the caller has no room,
        Errno(ESRCH) when it is gone.
        """
        flags = uapi.SECCOMP_ADDFD_FLAG_SEND if send else 0
        request = uapi.NOTIF_ADDFD.pack(notification.id, flags, fd, 0, os.O_CLOEXEC if cloexec else 0)
        try:
            # Only a buffer that can be written makes fcntl return the call's result instead of the buffer.
            number: int = fcntl.ioctl(self._fd.fileno(), uapi.SECCOMP_IOCTL_NOTIF_ADDFD, bytearray(request))
            return number
        except OSError as error:
            code = error.errno or errno.EIO
            raise Errno(errno.ESRCH if code == errno.ENOENT else code) from None
