"""The listener of a seccomp filter: receives the system calls that stopped, and answers each exactly once.

It is thin: one method for each ioctl. `trap.supervisor` decides the answers. The call of a killed thread needs no
answer: every method treats it as done, and `alive` returns False.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Sequence
from typing import NamedTuple

from luod.emulator.model.ports import Errno
from luod.linux import Fd
from luod.uapi import seccomp as uapi


class Notification(NamedTuple):
    """One stopped system call. `tid` is in the supervisor's PID namespace."""

    id: int
    tid: int
    number: int
    architecture: int
    arguments: Sequence[int]
    """All six, 64 bits each. Arguments that the call does not have are undefined."""


class Listener:
    """Owns the listener's fd.

    The arguments of its ioctls are bytearrays. For bytes, `fcntl.ioctl` first raises an exception and drops it, which
    takes longer than the call.
    """

    def __init__(self, fd: Fd) -> None:
        self._fd = fd
        try:
            # Switches the CPU directly to the other side: a tenth of the time on an idle host. Linux 6.6.
            fcntl.ioctl(fd.fileno(), uapi.SECCOMP_IOCTL_NOTIF_SET_FLAGS, uapi.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise

    def fileno(self) -> int:
        return self._fd.fileno()

    def close(self) -> None:
        """Closes the listener. Calls that are still stopped, and all later ones, fail with ENOSYS."""
        self._fd.close()

    def receive(self) -> Notification | None:
        """Returns the next call, or None when its thread was killed meanwhile.

        Blocks until there is one: poll(2) tells.
        """
        received = bytearray(uapi.NOTIF.size)  # the kernel refuses a buffer that is not zero
        try:
            fcntl.ioctl(self._fd.fileno(), uapi.SECCOMP_IOCTL_NOTIF_RECV, received)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        cookie, tid, _, number, architecture, _, *arguments = uapi.NOTIF.unpack(received)
        return Notification(cookie, tid, number, architecture, arguments)

    def alive(self, notification: Notification) -> bool:
        """Returns whether the thread is still stopped in this call.

        If so, earlier reads by its tid were of this thread.
        """
        cookie = bytearray(notification.id.to_bytes(8, "little"))
        try:
            fcntl.ioctl(self._fd.fileno(), uapi.SECCOMP_IOCTL_NOTIF_ID_VALID, cookie)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return False
            raise
        return True

    def _send(self, notification: Notification, value: int, error: int, flags: int) -> None:
        response = bytearray(uapi.NOTIF_RESP.pack(notification.id, value, error, flags))
        try:
            fcntl.ioctl(self._fd.fileno(), uapi.SECCOMP_IOCTL_NOTIF_SEND, response)
        except OSError as failed:
            if failed.errno != errno.ENOENT:
                raise

    def answer(self, notification: Notification, value: int) -> None:
        """Answers the call with `value`."""
        self._send(notification, value, 0, 0)

    def refuse(self, notification: Notification, code: int) -> None:
        """Answers the call with errno `code`."""
        self._send(notification, 0, -code, 0)

    def let_through(self, notification: Notification) -> None:
        """Lets the host's kernel answer the call. It reads the arguments again: no security can depend on them."""
        self._send(notification, 0, 0, uapi.SECCOMP_USER_NOTIF_FLAG_CONTINUE)

    def add_fd(self, notification: Notification, fd: int, *, cloexec: bool, send: bool = False) -> int:
        """Puts a duplicate of `fd` into the caller and returns its number there; it cannot be taken back.

        With `send` that number is the answer to the call. Raises Errno(EMFILE) when the caller has no free fd,
        Errno(ESRCH) when it is gone.
        """
        flags = uapi.SECCOMP_ADDFD_FLAG_SEND if send else 0
        request = uapi.NOTIF_ADDFD.pack(notification.id, flags, fd, 0, os.O_CLOEXEC if cloexec else 0)
        try:
            # Only with a writable buffer does fcntl return the call's result instead of the buffer.
            number: int = fcntl.ioctl(self._fd.fileno(), uapi.SECCOMP_IOCTL_NOTIF_ADDFD, bytearray(request))
            return number
        except OSError as error:
            code = error.errno or errno.EIO
            raise Errno(errno.ESRCH if code == errno.ENOENT else code) from None
