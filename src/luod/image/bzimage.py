"""The header of a bzImage: what it says of the kernel, and why kexec_file_load(2) would not take it.

Sources: Documentation/arch/x86/boot.rst for the header, arch/x86/kernel/kexec-bzimage64.c for what is accepted. The
emulated kernel makes its checks with the same parts.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from luod.errors import ImageError
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


@dataclass(frozen=True)
class Image:
    """The facts in a bzImage's header. Offsets and lengths are bytes of the file."""

    protocol: tuple[int, int]
    """Version of the boot protocol: major, minor."""
    relocatable: bool
    version: str
    """As the header tells it: release, builder, date; "" when it does not."""
    payload_offset: int
    payload_length: int
    compression: str
    """gzip, xz, lzma, bzip2, lz4, zstd, lzo, or none."""
    init_size: int
    """Bytes of memory in one piece that the kernel takes to unpack itself and to start in."""


def has_header(data: bytes) -> bool:
    """Whether `data` holds the header where a boot sector has it: also boot_params, in which loaders write over the
    boot flag.
    """
    return data[_HDRS : _HDRS + 4] == b"HdrS"


def setup_size(data: bytes) -> int:
    """Bytes in front of the protected-mode kernel. `data` has a header."""
    # Zero setup sectors mean four, and the boot sector comes on top.
    return ((data[_SETUP_SECTS] or 4) + 1) * SECTOR


def command_line_size(data: bytes) -> int:
    """Bytes that the kernel's command line may have. `data` has a header."""
    size: int = struct.unpack_from("<I", data, _CMDLINE_SIZE)[0]
    return size


def payload_place(data: bytes) -> tuple[int, int]:
    """Offset and length of the payload, as the header tells them. `data` has a header."""
    offset, length = struct.unpack_from("<II", data, _PAYLOAD)
    return setup_size(data) + offset, length


def probe(data: bytes) -> None:
    """ImageError says why kexec_file_load(2) of x86_64 would not take this."""
    if len(data) < _HEADER_END or not has_header(data):
        raise ImageError("this is no bzImage: it has no HdrS in its header")
    if data[_BOOT_FLAG : _BOOT_FLAG + 2] != b"\x55\xaa":
        raise ImageError("this is no bzImage: its boot flag is wrong")
    (protocol,) = struct.unpack_from("<H", data, 0x206)
    if protocol < _PROTOCOL_LEAST:
        raise ImageError(f"boot protocol {protocol >> 8}.{protocol & 0xFF} is older than 2.12")
    if not data[0x211] & _LOADED_HIGH:
        raise ImageError("this is a zImage, not a bzImage")
    (xloadflags,) = struct.unpack_from("<H", data, 0x236)
    if not xloadflags & _XLF_KERNEL_64:
        raise ImageError("this is no 64-bit kernel")
    if not xloadflags & _XLF_CAN_BE_LOADED_ABOVE_4G:
        raise ImageError("this kernel cannot be loaded above 4 GiB")


def describe(data: bytes) -> Image:
    """The header of the bzImage in `data`. ImageError as of `probe`, and for one that is cut off."""
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
    """The kernel proper, decompressed. ImageError: damaged, too large, or packed in a way that cannot be read here."""
    end = image.payload_offset + image.payload_length
    return packed.unpack(data, image.compression, image.payload_offset, end)


def _header_version(data: bytes) -> str:
    (pointer,) = struct.unpack_from("<H", data, 0x20E)
    if pointer == 0:
        return ""
    text = data[pointer + SECTOR : pointer + SECTOR + _VERSION_STRING_MAX].partition(b"\0")[0]
    return text.decode("ascii", "backslashreplace")
