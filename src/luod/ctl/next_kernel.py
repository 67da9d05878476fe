"""Opens the next kernel's files and makes its command line, from the options of `load`, `check` and `update`.

luoctl opens the files, so that luod opens no path on behalf of a client. Only unified kernel images are parsed here:
kernel and initial RAM disk are extracted for kexec_file_load(2), which does not take such an image.
"""

from __future__ import annotations

import fcntl
import os
import stat
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

from luod.ctl.admin import NextKernel
from luod.ctl.next_line import next_line
from luod.errors import BadInput, ImageError
from luod.image.bzimage import has_header
from luod.image.uki import Part, Uki, describe
from luod.kexec import encode_command_line
from luod.linux import Fd, memfd
from luod.uapi.memfd import F_ADD_SEALS, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_WRITE

_RUNNING: Final = "/proc/cmdline"
_HEADER: Final = 0x206
"""The bytes of a file that identify a bzImage."""
_ALIGNMENT: Final = 4
"""In bytes. The kernel finds an uncompressed archive only at such addresses."""


@contextmanager
def given(arguments: Namespace) -> Iterator[NextKernel | None]:
    """Opens the files that the options name. Yields None without --kernel. Raises BadInput, ImageError, OSError.

    For a unified kernel image, --initrd replaces the initial RAM disk and the microcode. Its command line takes the
    place of the running kernel's: --append-cmdline adds to it, --cmdline replaces it, and --reuse-cmdline takes the
    running kernel's instead.
    """
    initrds: list[str] = arguments.initrd or []
    if arguments.kernel is None:
        if initrds or arguments.append_cmdline or arguments.cmdline is not None or arguments.reuse_cmdline:
            raise BadInput("--initrd and options for the command line need --kernel", hint="add --kernel FILE")
        yield None
        return
    with ExitStack() as stack:
        kernel = stack.enter_context(_open(arguments.kernel))
        unified = _unified(kernel)
        own_line = None if unified is None else unified.command_line
        command_line = next_line(
            _running_line() if own_line is None or arguments.reuse_cmdline else own_line,
            cmdline=arguments.cmdline,
            append=arguments.append_cmdline or (),
            reuse_cmdline=arguments.reuse_cmdline,
        )
        encode_command_line(command_line)  # a line that luod would refuse is an error of usage
        disks = [stack.enter_context(_open(path)) for path in initrds]
        parts = [(disk, _whole(path, disk)) for path, disk in zip(initrds, disks, strict=True)] if disks[1:] else []
        if unified is not None:
            if not disks:
                parts = [(kernel, part) for part in unified.initrds]
            kernel = stack.enter_context(_copied("kernel", [(kernel, unified.kernel)]))
        if parts:
            disks = [stack.enter_context(_copied("initrd", parts))]
        yield NextKernel(kernel, disks[0] if disks else None, command_line, unified is not None)


def _unified(kernel: Fd) -> Uki | None:
    """Returns the parts of a unified kernel image, None for another file. Raises ImageError, OSError."""
    number = kernel.fileno()
    try:
        beginning = os.pread(number, _HEADER, 0)
    except OSError:
        return None  # luod reports the error
    if has_header(beginning):
        return None  # a bzImage, which is an EFI program too
    return describe(lambda offset, length: os.pread(number, length, offset), os.fstat(number).st_size)


def _running_line() -> str:
    with open(_RUNNING, encoding="utf-8", errors="surrogateescape") as file:
        return file.read().strip()


def _open(path: str) -> Fd:
    """Opens `path`, which must be a regular file, for reading. Raises OSError, BadInput."""
    # O_NONBLOCK: the open of a named pipe would wait for a process at its other end.
    fd = Fd(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    if not stat.S_ISREG(os.fstat(fd.fileno()).st_mode):
        fd.close()
        raise BadInput(
            f"{path} is not a regular file", hint="give a file such as /boot/vmlinuz-7.3 or /boot/initrd.img-7.3"
        )
    return fd


def _whole(path: str, disk: Fd) -> Part:
    """Returns the whole file as a part. Raises BadInput if it is empty: no later check would notice."""
    size = os.fstat(disk.fileno()).st_size
    if not size:
        raise BadInput(f"{path} is empty", hint="give the files that the boot loader would load")
    return Part(0, size)


def _copied(name: str, parts: Sequence[tuple[Fd, Part]]) -> Fd:
    """Concatenates the parts in a sealed memfd, as boot loaders do: kexec_file_load(2) takes one file. Raises OSError.

    Each part begins at a multiple of 4 bytes. The end of the last is not padded: a bootconfig must be at the end.
    """
    whole = memfd(name, 0, executable=False)
    try:
        for source, part in parts:
            end = os.lseek(whole.fileno(), 0, os.SEEK_END)
            os.lseek(whole.fileno(), -end % _ALIGNMENT, os.SEEK_END)
            _copy(source, part, whole)
        fcntl.fcntl(whole.fileno(), F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)
        # kexec_file_load refuses a file that is open for writing.
        return Fd(os.open(f"/proc/self/fd/{whole.fileno()}", os.O_RDONLY | os.O_CLOEXEC))
    finally:
        whole.close()


def _copy(source: Fd, part: Part, target: Fd) -> None:
    offset, end = part.offset, part.offset + part.size
    while offset < end and (sent := os.sendfile(target.fileno(), source.fileno(), offset, min(end - offset, 1 << 30))):
        offset += sent
    if offset < end:
        raise ImageError("the file became shorter while it was read", hint="try again")
