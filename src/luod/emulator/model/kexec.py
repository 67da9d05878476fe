"""kexec_file_load(2), kexec_load(2) and the checks of reboot(2): the loaded image, and whether a kexec is allowed.

The order of checks is that of kernel/kexec_file.c, kernel/kexec.c and kernel/reboot.c. The kexec itself is in
`kernel.py`.
"""

from __future__ import annotations

import errno
import itertools
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from luod.emulator.model import image
from luod.emulator.model.caller import CAP_SYS_BOOT, IMAGE_IN_MEMORY, Caller, KexecFiles, KexecSegment
from luod.emulator.model.image import ImageReader
from luod.emulator.model.ports import PAGE, Errno, Host
from luod.emulator.model.results import Ending
from luod.image import bzimage
from luod.uapi import kexec as uapi

KEXEC_SEGMENT_MAX: Final = 16
_ARCH_MASK: Final = 0xFFFF0000
_ARCHITECTURES: Final = (0, 62 << 16)  # KEXEC_ARCH_DEFAULT, KEXEC_ARCH_X86_64
# KEXEC_PRESERVE_CONTEXT needs CONFIG_KEXEC_JUMP, which the measured kernel does not have.
_LOAD_FLAGS: Final = uapi.KEXEC_ON_CRASH | 0x04 | 0x08
_MEMORY_LIMIT: Final = (1 << 52) - 1
"""KEXEC_DESTINATION_MEMORY_LIMIT of x86_64 with five levels of page tables, as measured; with four it is 2^46 - 1."""

_TEXT_MAX: Final = 255
"""Bytes of LINUX_REBOOT_CMD_RESTART2's text that are read. What follows is cut off."""
_MAGICS2: Final = (
    uapi.LINUX_REBOOT_MAGIC2,
    uapi.LINUX_REBOOT_MAGIC2A,
    uapi.LINUX_REBOOT_MAGIC2B,
    uapi.LINUX_REBOOT_MAGIC2C,
)
_ENDINGS: Final = {
    uapi.LINUX_REBOOT_CMD_HALT: Ending.HALT,
    uapi.LINUX_REBOOT_CMD_POWER_OFF: Ending.POWER_OFF,
    uapi.LINUX_REBOOT_CMD_RESTART: Ending.RESTART,
    uapi.LINUX_REBOOT_CMD_RESTART2: Ending.RESTART,
}


@dataclass(frozen=True)
class LoadedImage:
    """The image of the next kernel. `handover`: loaded by kexec_file_load, the only way that passes KHO data on."""

    formats: frozenset[str]
    command_line: str | None
    """None when kexec_load's segments do not contain one."""
    handover: bool


class Sysctls:
    """The settings of one boot that limit loads, by the names of their files in /proc/sys/kernel."""

    def __init__(self) -> None:
        self.values = {
            uapi.SYSCTL_LOAD_DISABLED: 0,
            uapi.SYSCTL_LOAD_LIMIT_PANIC: -1,
            uapi.SYSCTL_LOAD_LIMIT_REBOOT: -1,
        }

    def write(self, name: str, value: int) -> None:
        """Sets a value. Raises Errno(EINVAL): loading is not enabled again, and no limit is raised or removed."""
        now = self.values[name]
        lowered = value >= 0 and (now == -1 or value < now)
        if not (value == 1 if name == uapi.SYSCTL_LOAD_DISABLED else lowered):
            raise Errno(errno.EINVAL)
        self.values[name] = value

    def count(self, *, crash: bool) -> None:
        """Counts a load before anything else of it is checked, as kexec_load_permitted() does. Raises Errno(EPERM)."""
        name = uapi.SYSCTL_LOAD_LIMIT_PANIC if crash else uapi.SYSCTL_LOAD_LIMIT_REBOOT
        left = self.values[name]
        if self.values[uapi.SYSCTL_LOAD_DISABLED] or not left:
            raise Errno(errno.EPERM)
        if left != -1:
            self.values[name] = left - 1


class Kexec:
    """The image slot of one boot."""

    def __init__(self, host: Host, read_formats: ImageReader) -> None:
        self._host = host
        self._read_formats = read_formats
        self.image: LoadedImage | None = None
        self.jumping = False
        self.sysctls = Sysctls()

    def file_load(self, files: KexecFiles, flags: int, caller: Caller) -> None:
        """Loads an image. A load that fails keeps the previous image.

        Raises Errno: EPERM, EINVAL flags, EBUSY, ENOEXEC, EINVAL command line; EADDRNOTAVAIL for a crash kernel, since
        no memory is reserved for it.
        """
        crash = bool(flags & uapi.KEXEC_FILE_ON_CRASH)
        self._permit(caller, crash=crash)
        if flags & ~uapi.KEXEC_FILE_FLAGS:
            raise Errno(errno.EINVAL)
        self._lock()
        if flags & uapi.KEXEC_FILE_UNLOAD:
            if not crash:
                self.image = None
            return
        kernel = files.kernel(image.check)
        if not kernel:
            raise Errno(errno.EINVAL)
        longest = image.check(kernel, len(kernel))
        if not flags & uapi.KEXEC_FILE_NO_INITRAMFS and not files.initrd():
            raise Errno(errno.EINVAL)
        command_line = files.command_line()
        if command_line and command_line[-1]:
            raise Errno(errno.EINVAL)
        if len(command_line) > min(longest, uapi.COMMAND_LINE_SIZE):
            raise Errno(errno.EINVAL)
        if crash:
            raise Errno(errno.EADDRNOTAVAIL)
        self.image = LoadedImage(self._read_formats(kernel), _text(command_line), handover=True)

    def load(self, segments: Sequence[KexecSegment], flags: int, caller: Caller, *, narrow: bool = False) -> None:
        """Loads segments; no segments: unloads. `narrow`: the caller is a 32-bit program.

        Raises Errno: EPERM, EINVAL flags, count, architecture, EFAULT, EBUSY, those of `_check`, ENOMEM.
        """
        crash = bool(flags & uapi.KEXEC_ON_CRASH)
        self._permit(caller, crash=crash)
        architecture = flags & _ARCH_MASK
        if flags & ~_ARCH_MASK & ~_LOAD_FLAGS:
            raise Errno(errno.EINVAL)
        # A 32-bit program must name the architecture: its own is not the kernel's.
        if len(segments) > KEXEC_SEGMENT_MAX or architecture not in _ARCHITECTURES or (narrow and not architecture):
            raise Errno(errno.EINVAL)
        segments = list(segments)
        self._lock()
        if not segments:
            if not crash:
                self.image = None
            return
        if crash:
            raise Errno(errno.EADDRNOTAVAIL)
        ordered = sorted(segments, key=lambda segment: (segment.address, segment.length))
        self._check(ordered)
        self.image = self._from_segments([(segment.address, segment.read()) for segment in ordered])

    def _check(self, ordered: Sequence[KexecSegment]) -> None:
        """Checks segments in the order of their addresses, as sanity_check_segment_list() of kernel/kexec_core.c does.

        Raises Errno: EADDRNOTAVAIL not on pages, beyond all memory; EINVAL overlap, a buffer larger than its place,
        more than half of the memory; ENOMEM for more than luoemu reads.
        """
        for segment in ordered:
            if segment.address % PAGE or segment.length % PAGE or segment.address + segment.length >= _MEMORY_LIMIT:
                raise Errno(errno.EADDRNOTAVAIL)
        for lower, upper in itertools.pairwise(ordered):
            if lower.address + lower.length > upper.address:
                raise Errno(errno.EINVAL)
        if any(segment.buffer_length > segment.length for segment in ordered):
            raise Errno(errno.EINVAL)
        if sum(segment.length for segment in ordered) // PAGE > self._host.memory() // PAGE // 2:
            raise Errno(errno.EINVAL)
        if sum(segment.buffer_length for segment in ordered) > IMAGE_IN_MEMORY:
            raise Errno(errno.ENOMEM)

    def _permit(self, caller: Caller, *, crash: bool) -> None:
        """Raises Errno(EPERM)."""
        if not caller.capable(CAP_SYS_BOOT):
            raise Errno(errno.EPERM)
        self.sysctls.count(crash=crash)

    def _lock(self) -> None:
        """Raises Errno(EBUSY) during a kexec, which holds the kexec lock. No call waits for that lock."""
        if self.jumping:
            raise Errno(errno.EBUSY)

    def _from_segments(self, buffers: list[tuple[int, bytes]]) -> LoadedImage:
        """Returns the image in kexec_load's segments.

        kexec-tools puts boot_params, with the image's header, into one segment, and the kernel proper into another.
        """
        setup = next(((address, data) for address, data in buffers if bzimage.has_header(data)), None)
        if setup is None:
            formats = frozenset[str]().union(*(self._read_formats(data) for _, data in buffers))
            return LoadedImage(formats, None, handover=False)
        header = setup[1]
        front = header[: bzimage.setup_size(header)].ljust(bzimage.setup_size(header), b"\0")
        formats = frozenset[str]().union(*(self._read_formats(front + data) for _, data in buffers))
        low, high = (struct.unpack_from("<I", front, at)[0] for at in (bzimage.CMD_LINE_PTR, bzimage.EXT_CMD_LINE_PTR))
        pointer: int = low | high << 32
        command_line = None
        for address, data in buffers:
            if address <= pointer < address + len(data):
                offset = pointer - address
                command_line = _text(data[offset : offset + uapi.COMMAND_LINE_SIZE])
        return LoadedImage(formats, command_line, handover=False)


def permit_reboot(magic1: int, magic2: int, caller: Caller) -> None:
    """Raises Errno: EPERM, EINVAL magic numbers. reboot(2) checks these before it waits for another one."""
    if not caller.capable(CAP_SYS_BOOT):
        raise Errno(errno.EPERM)
    if magic1 & 0xFFFFFFFF != uapi.LINUX_REBOOT_MAGIC1 or magic2 & 0xFFFFFFFF not in _MAGICS2:
        raise Errno(errno.EINVAL)


def reboot_command(command: int, argument: int, caller: Caller) -> Ending | int:
    """Returns the command of a permitted reboot(2), or the ending it asks for.

    Raises Errno: EINVAL command, EFAULT for text of LINUX_REBOOT_CMD_RESTART2 that cannot be read.
    """
    command &= 0xFFFFFFFF
    if command == uapi.LINUX_REBOOT_CMD_RESTART2:
        _read_text(argument, caller)
    ending = _ENDINGS.get(command)
    if ending is not None:
        return ending
    if command in (uapi.LINUX_REBOOT_CMD_KEXEC, uapi.LINUX_REBOOT_CMD_CAD_ON, uapi.LINUX_REBOOT_CMD_CAD_OFF):
        return command
    raise Errno(errno.EINVAL)


def _read_text(address: int, caller: Caller) -> None:
    """Reads the text for the firmware, up to its NUL, as strncpy_from_user() does. Raises Errno(EFAULT)."""
    end = address + _TEXT_MAX
    while address < end:
        length = min(end - address, PAGE - address % PAGE)
        if b"\0" in caller.read(address, length):
            return
        address += length


def _text(command_line: bytes) -> str:
    """Returns the command line up to the first NUL, as the next kernel sees it."""
    return command_line.partition(b"\0")[0].decode("utf-8", "surrogateescape")
