"""What the modelled kexec looks at in a kernel image: x86's check of the header, and the formats the image speaks.

Bytes in, facts out. It opens what the standard library can open (plain and gzip payloads); a machine that knows more
formats gives `Kernel` a reader of its own.
"""

from __future__ import annotations

import contextlib
import errno
import re
import struct
import zlib
from collections.abc import Callable
from typing import Final

from luod.emulator.model.ports import Errno

ImageReader = Callable[[bytes], frozenset[str]]
"""From a kernel image to the format strings it carries, such as luo-v5, kho-v4, memfd-v2. Never raises."""

_SETUP_SECTS: Final = 0x1F1
_BOOT_FLAG: Final = 0x1FE
_HEADER: Final = 0x202
_VERSION: Final = 0x206
_LOADFLAGS: Final = 0x211
CMD_LINE_PTR: Final = 0x228
EXT_CMD_LINE_PTR: Final = 0x0C8
"""In boot_params only: the upper half of the command line's address."""
_XLOADFLAGS: Final = 0x236
_CMDLINE_SIZE: Final = 0x238
_PAYLOAD_OFFSET: Final = 0x248
_LOADED_HIGH: Final = 0x01
_XLF_KERNEL_64: Final = 0x01
_XLF_CAN_BE_LOADED_ABOVE_4G: Final = 0x02
_SECTOR: Final = 512

_FORMAT: Final = re.compile(rb"(?:luo|kho|memfd|pci|vfio-pci|iommufd)-v[0-9]{1,4}(?![0-9a-z_-])")


def is_setup(data: bytes) -> bool:
    """Whether `data` begins with the boot sector of a Linux kernel for x86."""
    return has_header(data) and data[_BOOT_FLAG : _BOOT_FLAG + 2] == b"\x55\xaa"


def has_header(data: bytes) -> bool:
    """Whether `data` holds the header where a boot sector has it: also boot_params, in which loaders write over the
    boot flag.
    """
    return data[_HEADER : _HEADER + 4] == b"HdrS"


def setup_size(image: bytes) -> int:
    """Bytes in front of the protected-mode kernel."""
    return ((image[_SETUP_SECTS] or 4) + 1) * _SECTOR


def check(image: bytes) -> int:
    """The longest command line the image takes, in bytes. Errno(ENOEXEC) when it is no bzImage that kexec can load.

    The checks of bzImage64_probe and bzImage64_load: protocol 2.12 or newer, 64 bit, can be loaded above 4 GiB.
    """
    if (
        len(image) < 2 * _SECTOR
        or not is_setup(image)
        or struct.unpack_from("<H", image, _VERSION)[0] < 0x020C
        or not image[_LOADFLAGS] & _LOADED_HIGH
        or not image[_XLOADFLAGS] & _XLF_KERNEL_64
        or not image[_XLOADFLAGS] & _XLF_CAN_BE_LOADED_ABOVE_4G
        or len(image) < setup_size(image)
    ):
        raise Errno(errno.ENOEXEC)
    size: int = struct.unpack_from("<I", image, _CMDLINE_SIZE)[0]
    return size


def read_formats(image: bytes) -> frozenset[str]:
    """The format strings in the image itself and in its payload if that is packed with gzip."""
    found = set(_FORMAT.findall(image))
    if has_header(image) and len(image) >= _PAYLOAD_OFFSET + 8:
        start, length = struct.unpack_from("<II", image, _PAYLOAD_OFFSET)
        start += setup_size(image)
        payload = image[start : start + length]
        if payload.startswith(b"\x1f\x8b"):
            # A damaged kernel would not boot, and carries nothing.
            with contextlib.suppress(zlib.error):
                found.update(_FORMAT.findall(zlib.decompressobj(wbits=31).decompress(payload)))
    return frozenset(name.decode("ascii") for name in found)
