"""The next kernel's files and command line, as the options of `load`, `check` and `update` name them.

luoctl opens the files, so that luod opens no path on behalf of a client. What is in them is not read here.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from luod.ctl.next_line import next_line
from luod.errors import BadInput
from luod.kexec import encode_command_line
from luod.linux import (
    F_ADD_SEALS,
    F_SEAL_GROW,
    F_SEAL_SEAL,
    F_SEAL_SHRINK,
    F_SEAL_WRITE,
    MFD_ALLOW_SEALING,
    MFD_CLOEXEC,
    MFD_NOEXEC_SEAL,
    Fd,
)

_RUNNING: Final = "/proc/cmdline"
_ALIGNMENT: Final = 4
"""Bytes. The kernel looks for an archive that is not compressed at such addresses only."""


@dataclass(frozen=True)
class NextKernel:
    """The fds are closed by the context that gave it out."""

    kernel: Fd
    initrd: Fd | None
    command_line: str


@contextmanager
def given(arguments: Namespace) -> Iterator[NextKernel | None]:
    """Opens what the options name; None without --kernel. BadInput, OSError."""
    initrds: list[str] = arguments.initrd or []
    if arguments.kernel is None:
        if initrds or arguments.append or arguments.cmdline is not None or arguments.reuse_cmdline:
            raise BadInput(
                "an initial RAM disk and a command line belong to a kernel", hint="give --kernel as well, or neither"
            )
        yield None
        return
    command_line = next_line(
        _running_line(),
        cmdline=arguments.cmdline,
        append=arguments.append or (),
        reuse_cmdline=arguments.reuse_cmdline,
    )
    encode_command_line(command_line)  # luod would refuse it, but that is an error of usage
    with ExitStack() as stack:
        kernel = stack.enter_context(_open(arguments.kernel))
        disks = [stack.enter_context(_open(path)) for path in initrds]
        if len(disks) > 1:
            disks = [stack.enter_context(_concatenated(initrds, disks))]
        yield NextKernel(kernel, disks[0] if disks else None, command_line)


def _running_line() -> str:
    with open(_RUNNING, encoding="utf-8", errors="surrogateescape") as file:
        return file.read().strip()


def _open(path: str) -> Fd:
    """Opens `path`, which must be a regular file, for reading. OSError, BadInput."""
    # O_NONBLOCK: the open of a named pipe would wait for a process at its other end.
    fd = Fd(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    if not stat.S_ISREG(os.fstat(fd.fileno()).st_mode):
        fd.close()
        raise BadInput(f"{path} is not a regular file", hint="give the file of a kernel image, such as /boot/vmlinuz")
    return fd


def _concatenated(paths: Sequence[str], disks: Sequence[Fd]) -> Fd:
    """Copies the files behind each other into a sealed memfd, as boot loaders do: kexec_file_load(2) takes one file.

    Each but the first begins at a multiple of 4 bytes. Behind the last nothing is added: a bootconfig must be at the
    end. BadInput for an empty file: that it is empty would be seen by nothing afterwards. OSError.
    """
    whole = _memfd("initrd")
    try:
        for path, disk in zip(paths, disks, strict=True):
            if not os.fstat(disk.fileno()).st_size:
                raise BadInput(f"{path} is empty", hint="give the files that the boot loader would load")
            end = os.lseek(whole.fileno(), 0, os.SEEK_END)
            os.lseek(whole.fileno(), -end % _ALIGNMENT, os.SEEK_END)
            _copy(disk, whole)
        fcntl.fcntl(whole.fileno(), F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)
        # kexec_file_load refuses a file that is open for writing.
        return Fd(os.open(f"/proc/self/fd/{whole.fileno()}", os.O_RDONLY | os.O_CLOEXEC))
    finally:
        whole.close()


def _memfd(name: str) -> Fd:
    try:
        return Fd(os.memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return Fd(os.memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING))  # Linux before 6.3


def _copy(source: Fd, target: Fd) -> None:
    offset = 0
    while sent := os.sendfile(target.fileno(), source.fileno(), offset, 1 << 30):
        offset += sent
