"""The header of a bzImage: its facts, and why kexec_file_load(2) refuses an image.

Sources: Documentation/arch/x86/boot.rst for the header, arch/x86/kernel/kexec-bzimage64.c for the checks. The emulated
kernel uses the same functions.
"""

from __future__ import annotations

import struct
from typing import Final

from luod.errors import ImageError
from luod.frozen import frozen
from luod.image import packed

SECTOR: Final = 512
CMD_LINE_PTR: Final = 0x228
EXT_CMD_LINE_PTR: Final = 0x0C8
"""In boot_params only: the upper half of the command line's address."""

_SETUP_SECTS: Final = 0x1F1
_BOOT_FLAG: Final = 0x1FE
_HDRS: Final = 0x202
_CMDLINE_SIZE: Final = 0x238
_PAYLOAD: Final = 0x248
_INIT_SIZE: Final = 0x260
_HEADER_END: Final = 0x268
_LOADED_HIGH: Final = 0x01
_XLF_KERNEL_64: Final = 0x01
_XLF_CAN_BE_LOADED_ABOVE_4G: Final = 0x02
_PROTOCOL_LEAST: Final = 0x020C
_VERSION_STRING_MAX: Final = 256


@frozen
class Image:
    """The facts in a bzImage's header. Offsets and lengths are bytes of the file."""

    protocol: tuple[int, int]
    """Version of the boot protocol: major, minor."""
    relocatable: bool
    version: str
    """Release, builder and date, from the header; "" if it has no version."""
    payload_offset: int
    payload_length: int
    compression: str
    """gzip, xz, lzma, bzip2, lz4, zstd, lzo, or none."""
    init_size: int
    """Bytes of contiguous memory that the kernel needs to unpack itself and to start."""


def has_header(data: bytes) -> bool:
    """Returns whether `data` has the header at the place of a boot sector.

    It has it in boot_params too, where loaders overwrite the boot flag.
    """
    return data[_HDRS : _HDRS + 4] == b"HdrS"


def setup_size(data: bytes) -> int:
    """Returns the number of bytes before the protected-mode kernel. `data` has a header."""
    # Zero setup sectors mean four. The boot sector is one more.
    return ((data[_SETUP_SECTS] or 4) + 1) * SECTOR


def command_line_size(data: bytes) -> int:
    """Returns the maximum length of the kernel's command line in bytes. `data` has a header."""
    size: int = struct.unpack_from("<I", data, _CMDLINE_SIZE)[0]
    return size


def payload_place(data: bytes) -> tuple[int, int]:
    """Returns offset and length of the payload in bytes, from the header. `data` has a header."""
    offset, length = struct.unpack_from("<II", data, _PAYLOAD)
    return setup_size(data) + offset, length


def probe(data: bytes) -> None:
    """Raises ImageError, which says why kexec_file_load(2) of x86_64 would refuse `data`."""
    if len(data) < _HEADER_END or not has_header(data):
        raise ImageError("not a bzImage: no HdrS in its header")
    if data[_BOOT_FLAG : _BOOT_FLAG + 2] != b"\x55\xaa":
        raise ImageError("not a bzImage: its boot flag is wrong")
    (protocol,) = struct.unpack_from("<H", data, 0x206)
    if protocol < _PROTOCOL_LEAST:
        raise ImageError(f"boot protocol {protocol >> 8}.{protocol & 0xFF} is older than 2.12")
    if not data[0x211] & _LOADED_HIGH:
        raise ImageError("this is a zImage, not a bzImage")
    (xloadflags,) = struct.unpack_from("<H", data, 0x236)
    if not xloadflags & _XLF_KERNEL_64:
        raise ImageError("not a 64-bit kernel")
    if not xloadflags & _XLF_CAN_BE_LOADED_ABOVE_4G:
        raise ImageError("this kernel cannot be loaded above 4 GiB")


def describe(data: bytes) -> Image:
    """Returns the header of the bzImage in `data`. Raises the errors of `probe`, and ImageError for truncated data."""
    probe(data)
    (protocol,) = struct.unpack_from("<H", data, 0x206)
    relocatable = bool(data[0x234])
    if not relocatable:
        raise ImageError("this kernel is not relocatable")
    start, length = payload_place(data)
    if length == 0 or start + length > len(data):
        raise ImageError(f"the image is cut off: its payload is {length} bytes from {start} on, of {len(data)}")
    return Image(
        protocol=(protocol >> 8, protocol & 0xFF),
        relocatable=relocatable,
        version=_header_version(data),
        payload_offset=start,
        payload_length=length,
        compression=packed.compression(data[start : start + 8]),
        init_size=struct.unpack_from("<I", data, _INIT_SIZE)[0],
    )


def unpack(data: bytes, image: Image) -> bytes:
    """Returns the kernel proper, decompressed.

    Raises ImageError: damaged, too large, or of an unsupported compression.
    """
    end = image.payload_offset + image.payload_length
    return packed.unpack(data, image.compression, image.payload_offset, end)


def _header_version(data: bytes) -> str:
    (pointer,) = struct.unpack_from("<H", data, 0x20E)
    if pointer == 0:
        return ""
    text = data[pointer + SECTOR : pointer + SECTOR + _VERSION_STRING_MAX].partition(b"\0")[0]
    return text.decode("ascii", "backslashreplace")
