"""The program that receives clients' files from their connections for serve: `python -I -S receiver.py FD`.

It is disposable: closing a file that a client made (a FUSE file, a TCP socket that lingers) can block for as long as
the client wants, and a process in FUSE's flush cannot be killed. So serve gets only memory, devices and sessions, whose
close does not wait for another process. All other files are closed here. FD is a SOCK_SEQPACKET channel. The messages
on it, from serve:

    R, bytes, fds, root   with a connection: receive so many bytes and at most so many fds, and answer
    C                     with fds: hold them, until
    G                     close what is held

and to serve: `A`, the number of fds, a letter for each, the bytes, with the fds that serve accepts; or `T`, more
fds than allowed; or `E`, nothing received; and after each of these, and of `G`, `D`: the files are closed. It does not
end before serve closes the channel, since serve relies on its fds being held.

Standard library only, and little of it, because a participant may wait for the start. serve's side is
`luod.ipc.server.foreign_files`; the daemon imports `kind_of` and `is_session`.
"""

from __future__ import annotations

import _socket
import fcntl
import os
import stat
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

REQUEST = struct.Struct("=cIH?")
NOT_TAKEN = b"-"
MOST_FDS = 253
"""SCM_MAX_FD of the kernel."""

_SESSION = "[luo_session]"
"""A part of the link of every session, of a real kernel and of an emulated machine."""
_DEVICES = ("anon_inode:[vfio-device]", "anon_inode:[vfio-device-liveupdate]")
_SUBSYSTEMS = ("vfio", "vfio-dev", "mem")
_MISCELLANEOUS = ("vfio", "iommu")
_F_GET_SEALS = 1034
_O_PATH = 0o10000000
_AT_EMPTY_PATH = 0x1000
_AT_STATX_DONT_SYNC = 0x4000
_STATX_TYPE = 0x1
_STATX_BYTES = 256


def kind_of(number: int) -> Literal["memory", "device"] | None:
    """Returns the kind of the file behind fd `number`, or None.

    Memory is a memfd. Devices are files of VFIO and iommufd, and such as /dev/null, whose close does nothing; not every
    character device, since closing a terminal can block. It makes no call on the file that can block.
    """
    link = os.readlink(f"/proc/self/fd/{number}")
    if link.startswith("/memfd:") and _SESSION not in link:
        return "memory" if _has_seals(number) else None
    if link in _DEVICES or (link.startswith("/dev/") and _is_device_node(number)):
        return "device"
    return None


def is_session(number: int) -> bool:
    """Returns whether the file behind fd `number` looks like a session. It makes no call on the file that can block.

    On a real kernel no other file has such a link. On an emulated machine a memfd can have one, and its close does not
    block either: only GET_NAME shows what it is.
    """
    link = os.readlink(f"/proc/self/fd/{number}")
    if link.startswith(f"anon_inode:{_SESSION}"):
        return True
    return link.startswith(f"/memfd:{_SESSION}") and _has_seals(number)


def _has_seals(number: int) -> bool:
    """Returns whether the file is of the kernel's own tmpfs or hugetlbfs, and not of a FUSE server with such a name."""
    try:
        fcntl.fcntl(number, _F_GET_SEALS)
    except OSError:
        return False
    return True


def _is_device_node(number: int) -> bool:
    if fcntl.fcntl(number, fcntl.F_GETFL) & _O_PATH:
        return False
    mode, major, minor = _cached_status(number)
    if not stat.S_ISCHR(mode):
        return False
    place = f"/sys/dev/char/{major}:{minor}"
    try:
        subsystem, name = (os.path.basename(os.path.realpath(path)) for path in (f"{place}/subsystem", place))
    except OSError:
        return False
    return subsystem in _SUBSYSTEMS or (subsystem == "misc" and name in _MISCELLANEOUS)


def _cached_status(number: int) -> tuple[int, int, int]:
    """Returns the mode, and the numbers of the device, from the kernel's cache. Asks no file system's server.

    Raises OSError.
    """
    import ctypes

    status = ctypes.create_string_buffer(_STATX_BYTES)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.statx(number, b"", _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC, _STATX_TYPE, status):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return (*struct.unpack_from("=H", status, 28), *struct.unpack_from("=II", status, 128))


def _taken(number: int, root: bool) -> bytes:
    """Returns the letter of an fd: M, D or S is memory, a device or a session, F a regular file of root's, such as a
    kernel image.
    """
    try:
        kind = kind_of(number)
        if kind is not None:
            return kind[:1].upper().encode()
        if is_session(number):
            return b"S"
        return b"F" if root and stat.S_ISREG(os.fstat(number).st_mode) else NOT_TAKEN
    except OSError:
        return NOT_TAKEN


def _numbers(control: list[tuple[int, int, bytes]]) -> list[int]:
    found: list[int] = []
    for level, kind, data in control:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            found += struct.unpack(f"={len(data) // 4}i", data[: len(data) // 4 * 4])
    return found


def _receive(channel: _socket.socket, number: int, size: int, most: int, root: bool) -> None:
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, number)
    numbers: list[int] = []
    answer, passed = b"E", list[int]()
    try:
        data, control, got, _ = connection.recvmsg(
            size, _socket.CMSG_LEN(most * 4), _socket.MSG_CMSG_CLOEXEC | _socket.MSG_DONTWAIT
        )
    except OSError:
        pass
    else:
        numbers = _numbers(control)
        if got & _socket.MSG_CTRUNC:
            answer = b"T"
        else:
            letters = [_taken(number, root) for number in numbers]
            passed = [number for number, letter in zip(numbers, letters, strict=True) if letter != NOT_TAKEN]
            answer = b"A" + bytes([len(letters)]) + b"".join(letters) + data
    rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack(f"={len(passed)}i", *passed))] if passed else []
    channel.sendmsg([answer], rights)
    # The connection first: a later close may never return.
    connection.close()
    for number in numbers:
        os.close(number)
    channel.send(b"D")


def main() -> int:
    channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, int(sys.argv[1]))
    held: list[int] = []
    while True:
        message, control, _, _ = channel.recvmsg(
            REQUEST.size, _socket.CMSG_SPACE(MOST_FDS * 4), _socket.MSG_CMSG_CLOEXEC
        )
        numbers = _numbers(control)
        if message[:1] == b"R":
            _letter, size, most, root = REQUEST.unpack(message)
            _receive(channel, numbers[0], size, most, root)
        elif message[:1] == b"C":
            held += numbers
        elif message[:1] == b"G":
            for number in held:
                os.close(number)
            held.clear()
            channel.send(b"D")
        else:
            # serve closed the channel. Held files are closed with the process.
            return 0


if __name__ == "__main__":
    status = 1
    try:
        status = main()
    finally:
        os._exit(status)  # a process that ends closes its files without lingering; an interpreter that ends does not
