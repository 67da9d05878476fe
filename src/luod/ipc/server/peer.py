"""The peer of a unix socket: SO_PEERCRED, and a pidfd, since a bare pid may belong to another process by now.

There is no policy here: that is in `luod.daemon.policy`.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct

from luod.frozen import frozen
from luod.linux import SO_PEERGROUPS, SO_PEERPIDFD, Fd, pid_of
from luod.static import Final

_UCRED: Final = struct.Struct("=iII")
_OVERFLOW_UID: Final = 65534
_GROUPS_BYTES: Final = 1024
_MOST_GROUPS_BYTES: Final = 4 * 65536


@frozen
class Peer:
    """A peer as it was when it connected. Owns the pidfd; the accepter of the connection must close() it."""

    uid: int
    gid: int
    pid: int
    """Another process may have it by now, unless `pidfd` shows that this one lives."""
    pidfd: Fd | None
    """None when the process was gone before a pidfd could be opened, or belongs to another PID namespace."""
    groups: tuple[int, ...] = ()
    """Its supplementary groups."""

    @property
    def process(self) -> int | None:
        """Returns its pid in this process's /proc; None: the process has ended, or cannot be seen there."""
        try:
            return None if self.pidfd is None else pid_of(self.pidfd)
        except OSError:
            return None

    @property
    def root(self) -> bool:
        return self.uid == 0

    @property
    def anonymous(self) -> bool:
        """Returns whether the user has no uid in this user namespace: many different users look like this one."""
        return self.uid == overflow_uid()

    def close(self) -> None:
        if self.pidfd is not None:
            self.pidfd.close()


def peer_of(connection: socket.socket) -> Peer:
    """Returns the peer of a connected unix socket. Raises OSError."""
    pid, uid, gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    groups = _groups(connection)
    return Peer(uid, gid, pid, _pidfd(connection, pid), groups)


def _groups(connection: socket.socket) -> tuple[int, ...]:
    size = _GROUPS_BYTES
    while size <= _MOST_GROUPS_BYTES:
        try:
            data = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, size)
        except OSError as error:
            if error.errno != errno.ERANGE:
                return ()
            size *= 16
        else:
            return struct.unpack(f"={len(data) // 4}I", data)
    return ()


def _pidfd(connection: socket.socket, pid: int) -> Fd | None:
    try:
        return Fd(connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD))
    except OSError as error:
        if error.errno not in (errno.ENOPROTOOPT, errno.EINVAL):
            return None
    # Linux before 6.5. While the peer has not hung up, its pid is not reused.
    try:
        pidfd = Fd(os.pidfd_open(pid))
    except OSError:
        return None
    poll = select.poll()
    poll.register(connection, 0)
    if poll.poll(0):
        pidfd.close()
        return None
    return pidfd


def overflow_uid() -> int:
    """Returns the uid that stands for every user without one in this user namespace."""
    global _overflow_uid
    if _overflow_uid is None:
        try:
            with open("/proc/sys/kernel/overflowuid", "rb") as file:
                _overflow_uid = int(file.read())
        except OSError:
            _overflow_uid = _OVERFLOW_UID
    return _overflow_uid


_overflow_uid: int | None = None
