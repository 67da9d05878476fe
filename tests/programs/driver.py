"""The question program of random programs: it plays one boot of one, some hundred questions a line.

Run inside a machine: `python3 -m tests.programs.driver COMMAND_LINE KERNEL [INITRD]`; the arguments are what `load`
loads. Standard library and luod.uapi only. It adds to `questions` what a program that nobody watches needs: nothing
blocks, no call can end the boot by accident, and where the machines are known to answer differently there is `probe`,
which puts back what its call changed, so that one difference is not the cause of the next.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import select
import signal
import socket
import stat
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from luod.linux import syscall
from luod.uapi import kexec as kexec_api
from luod.uapi import liveupdate as api
from tests.programs.argument import Mapping, fallocate, ioctl
from tests.programs.device_calls import DeviceCalls
from tests.programs.questions import PR_SET_CHILD_SUBREAPER, Process, Slot

PUNCH_HOLE: Final = 3
"""FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE"""
HIGH: Final = 900
_INT: Final = struct.Struct("=i")
SEALS_SIZE: Final = 0x2 | 0x4
SEALS_CONTENTS: Final = 0x8 | 0x10


class Driver(Process, DeviceCalls):
    """`boot`: the command line, the kernel's path and the initramfs's, or None."""

    def __init__(self, boot: tuple[str, str, str | None]) -> None:
        super().__init__()
        self._command_line, kernel, initrd = boot
        # Now, while this is root, and high up, so that other fds have the same numbers on every machine.
        self._kernel = _opened(kernel)
        self._initrd = None if initrd is None else _opened(initrd)

    def reply(self, question: dict[str, Any]) -> dict[str, Any]:
        try:
            return super().reply(question)
        except (struct.error, OverflowError, IndexError) as error:
            return {"wrong": f"{type(error).__name__}: {error}"}

    # -- what would block in `questions`, or not be the same twice -------------------------------------------------

    # Not socket.send_fds and recv_fds, which forget their flags.

    def do_send_fd(self, over: Slot, fd: Slot) -> None:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, _INT.pack(self.fd(fd)))
        with socket.socket(fileno=os.dup(self.fd(over))) as connection:
            connection.sendmsg([b"x"], [rights], socket.MSG_DONTWAIT)

    def do_receive_fd(self, over: Slot, slot: str) -> int:
        """Raises IndexError for a message without an fd, or if the other end is closed."""
        with socket.socket(fileno=os.dup(self.fd(over))) as connection:
            flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
            rights = connection.recvmsg(1, socket.CMSG_SPACE(_INT.size), flags)[1]
        return self.put(slot, _INT.unpack(rights[0][2])[0])

    def do_fork(self, kid: str) -> int:
        """Returns 0 and not the pid, which differs between machines."""
        super().do_fork(kid)
        return 0

    def do_leave(self) -> None:
        """Closes /dev/liveupdate in this process and its children."""
        for slot, number in list(self.slots.items()):
            with contextlib.suppress(OSError):
                if _kind(number) == "device":
                    self.do_close(slot)
        for kid in self.kids:
            with contextlib.suppress(OSError):
                self._relay(kid, {"do": "leave"})

    def do_end(self, kid: str, number: int = signal.SIGKILL) -> int:
        """Returns 0 and not the status: the child may have seen its channel closed before it was killed."""
        super().do_end(kid, number)
        return 0

    # -- memory ----------------------------------------------------------------------------------------------------

    def do_scrawl(self, fd: Slot, offset: int, data: str) -> int:
        """Writes as much of `data` as lies inside the file's size; how many bytes."""
        number = self.fd(fd)
        inside = max(0, os.fstat(number).st_size - offset)
        text = data.encode("latin-1")[:inside]
        return os.pwrite(number, text, offset) if text else 0

    def do_about(self, fd: Slot) -> dict[str, int]:
        """Returns what fstat, fcntl and lseek show of a memory file, to compare it across a kexec."""
        number = self.fd(fd)
        status = os.fstat(number)
        return {
            "mode": status.st_mode,
            "uid": status.st_uid,
            "gid": status.st_gid,
            "nlink": status.st_nlink,
            "size": status.st_size,
            "blocks": status.st_blocks,
            "seals": fcntl.fcntl(number, fcntl.F_GET_SEALS),
            "flags": fcntl.fcntl(number, fcntl.F_GETFL),
            "cloexec": fcntl.fcntl(number, fcntl.F_GETFD),
            "position": os.lseek(number, 0, os.SEEK_CUR),
        }

    # -- probes ----------------------------------------------------------------------------------------------------

    def do_probe(self, fd: Slot, what: str) -> dict[str, Any]:
        """Makes one call that changes nothing. Returns {"on": kind of file, "ok" or "errno": its result}."""
        number = self.fd(fd)
        on = _kind(number)
        try:
            probe: Callable[[int], object] = (_MEMORY if on == "memory" else _ANY)[what]
        except KeyError:
            return {"on": on, "ok": "not tried"}
        try:
            return {"on": on, "ok": probe(number)}
        except OSError as error:
            return {"on": on, "errno": errno.errorcode.get(error.errno or 0, str(error))}

    # -- the jump --------------------------------------------------------------------------------------------------

    def do_loaded(self) -> str:
        return Path("/sys/kernel/kexec_loaded").read_text(encoding="ascii")

    def do_load(
        self,
        kernel: Slot | None = None,
        initrd: Slot | None = None,
        flags: int = 0,
        longer: int = 0,
        ended: bool = True,
    ) -> None:
        """Calls kexec_file_load with this machine's kernel, or the given one; `longer` adds to the command line."""
        if initrd is not None:
            initrd_fd = self.fd(initrd)
        elif self._initrd is not None:
            initrd_fd = self._initrd
        else:
            initrd_fd, flags = -1, flags | kexec_api.KEXEC_FILE_NO_INITRAMFS
        kernel_fd = self._kernel if kernel is None else self.fd(kernel)
        text = (self._command_line + " x" * longer).encode() + (b"\0" if ended else b"")
        syscall("kexec_file_load", kernel_fd, initrd_fd, len(text), text, flags)

    def do_refused_reboot(self, command: int, magic1: int, magic2: int) -> str | None:
        """Calls reboot(2) where it cannot succeed, and returns "not tried" where it could.

        Of the second numbers 1 alone is wrong.
        """
        harmless = command in (kexec_api.LINUX_REBOOT_CMD_CAD_ON, kexec_api.LINUX_REBOOT_CMD_CAD_OFF)
        magic = magic1 == kexec_api.LINUX_REBOOT_MAGIC1 and magic2 != 1
        jumps = command == kexec_api.LINUX_REBOOT_CMD_KEXEC and self.do_loaded() != "0\n"
        ends = command not in (kexec_api.LINUX_REBOOT_CMD_KEXEC, 0x12345) and not harmless
        if os.geteuid() == 0 and magic and (jumps or ends):
            return "not tried"
        syscall("reboot", magic1, magic2, command, None)
        return None


def _opened(path: str) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH)
    finally:
        os.close(fd)


def _kind(number: int) -> str:
    link = os.readlink(f"/proc/self/fd/{number}")
    if link == api.DEVICE:
        return "device"
    if link.startswith(("anon_inode:[luo_session]", "/memfd:[luo_session]")):
        return "session"
    # "/ (deleted)" is a retrieved one, "/run/#12 (deleted)" one of a tmpfs.
    regular = stat.S_ISREG(os.fstat(number).st_mode)
    return "memory" if regular and link.startswith(("/memfd:", "/ (deleted)", "/run/")) else "other"


def _map(number: int) -> None:
    Mapping(number, mmap.PAGESIZE, mmap.PROT_READ, mmap.MAP_SHARED).close()


def _reopen(number: int) -> None:
    os.close(os.open(f"/proc/self/fd/{number}", os.O_RDWR | os.O_CLOEXEC))


def _epoll(number: int) -> None:
    with select.epoll() as epoll:
        epoll.register(number, select.EPOLLIN)


def _poll(number: int) -> int:
    poll = select.poll()
    poll.register(number, select.POLLIN | select.POLLOUT)
    return sum(events for _, events in poll.poll(0))


def _ioctl(command: int) -> Callable[[int], int]:
    def call(number: int) -> int:
        with Mapping(
            -1, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        ) as zeros:
            return ioctl(number, command, zeros.address)

    return call


def _link(number: int) -> str:
    """Returns the target of an fd. The names of files of a tmpfs differ each time."""
    link = os.readlink(f"/proc/self/fd/{number}")
    return "/run/…" if link.startswith("/run/") else link


def _format(number: int) -> int:
    return stat.S_IFMT(os.fstat(number).st_mode)


_ANY: Final[dict[str, Callable[[int], object]]] = {
    "read": lambda number: len(os.read(number, 1)),
    "write": lambda number: os.write(number, b"x"),
    "fsync": os.fsync,
    "ftruncate": lambda number: os.ftruncate(number, 0),
    "grow": lambda number: os.ftruncate(number, 1),
    "lseek": lambda number: os.lseek(number, 0, os.SEEK_CUR),
    "map": _map,
    "poll": _poll,
    "epoll": _epoll,
    "reopen": _reopen,
    "format": _format,
    "link": _link,
    "getfl": lambda number: fcntl.fcntl(number, fcntl.F_GETFL),
    "getfd": lambda number: fcntl.fcntl(number, fcntl.F_GETFD),
    "TCGETS": _ioctl(0x5401),
    "FIONREAD": _ioctl(0x541B),
    "TIOCGWINSZ": _ioctl(0x5413),
    "0xbb00": _ioctl(0xBB00),
    "0xbb40": _ioctl(0xBB40),
    "0xbb43": _ioctl(0xBB43),
}
"""Calls on sessions and the device."""


def _size(number: int) -> int:
    return os.fstat(number).st_size


def _seals(number: int) -> int:
    return fcntl.fcntl(number, fcntl.F_GET_SEALS)


def _grow(number: int) -> str | None:
    size = _size(number)
    if _seals(number) & SEALS_SIZE == 0x2:  # could not be shrunk again
        return "not tried"
    os.ftruncate(number, size + 1)
    os.ftruncate(number, size)
    return None


def _shrink(number: int) -> str | None:
    size, seals = _size(number), _seals(number)
    if not size or (not seals & 0x2 and seals & (0x4 | SEALS_CONTENTS)):  # could not be filled again
        return "not tried"
    last = os.pread(number, 1, size - 1)
    os.ftruncate(number, size - 1)
    os.ftruncate(number, size)
    os.pwrite(number, last, size - 1)
    return None


def _extend(number: int) -> int | str:
    """Writes where only the first byte is inside, and returns the result.

    A preserved file without F_SEAL_GROW is not written: in the emulated machine it would grow, and could not be cut.
    """
    size, seals = _size(number), _seals(number)
    if not size or (not seals & 0x4 and seals & 0x2):
        return "not tried"
    if not seals & 0x4:
        _grow(number)
    last = os.pread(number, 1, size - 1)
    done = os.pwrite(number, bytes([last[0] ^ 0xFF]) * 2, size - 1)
    os.pwrite(number, last, size - 1)
    if _size(number) != size:
        os.ftruncate(number, size)
    return done


def _punch(number: int) -> str | None:
    page = os.pread(number, mmap.PAGESIZE, 0)
    fallocate(number, PUNCH_HOLE, 0, mmap.PAGESIZE)
    os.pwrite(number, page, 0)
    return None


def _allocate(number: int) -> str | None:
    size = _size(number)
    if _seals(number) & SEALS_SIZE == 0x2:
        return "not tried"
    fallocate(number, 0, 0, size + 1)
    os.ftruncate(number, size)
    return None


_MEMORY: Final[dict[str, Callable[[int], object]]] = {
    **{name: _ANY[name] for name in ("fsync", "map", "poll", "epoll", "reopen", "format", "link", "getfl", "getfd")},
    "same size": lambda number: os.ftruncate(number, _size(number)),
    "grow": _grow,
    "shrink": _shrink,
    "extend": _extend,
    "punch": _punch,
    "allocate": _allocate,
}
"""Calls on memory that may be preserved."""


def main() -> None:
    command_line, kernel, *initrd = sys.argv[1:]
    syscall("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    Driver((command_line, kernel, initrd[0] if initrd else None)).serve(sys.stdin, sys.stdout)


if __name__ == "__main__":
    main()
