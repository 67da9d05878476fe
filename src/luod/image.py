"""Reads a kernel image: bytes in, facts out. No file is opened, nothing is run.

Tells what luod must know of the next kernel before it jumps: that kexec_file_load(2) will take it, and which formats
of live update it reads, since another one loses everything or panics (H20). Called by `luod.daemon`. Bytes may be
hostile: ImageError, and memory bounded by `PAYLOAD_MAX`.

Sources: Documentation/arch/x86/boot.rst for the header, arch/x86/kernel/kexec-bzimage64.c for what is accepted, the
decompressors under lib/ for the payload.
"""

from __future__ import annotations

import bz2
import importlib
import lzma
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from luod.errors import ImageError

PAYLOAD_MAX: Final = 512 * 1024 * 1024
"""Bytes an unpacked kernel may have: several times what any has."""

_SETUP_SECTS: Final = 0x1F1
_BOOT_FLAG: Final = 0x1FE
_HDRS: Final = 0x202
_HEADER_END: Final = 0x268
_SECTOR: Final = 512
_LOADED_HIGH: Final = 0x01
_XLF_KERNEL_64: Final = 0x01
_XLF_CAN_BE_LOADED_ABOVE_4G: Final = 0x02
_PROTOCOL_LEAST: Final = 0x020C
_VERSION_STRING_MAX: Final = 256

_COMPRESSIONS: Final = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\0": "xz",
    b"\x5d\0\0": "lzma",
    b"BZh": "bzip2",
    b"\x02\x21\x4c\x18": "lz4",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x89LZO": "lzo",
    b"\x7fELF": "none",
}
_FORMAT: Final = re.compile(rb"(?<![0-9A-Za-z_-])((?:luo|kho|memfd)-v[0-9]{1,5})(?=\0)")
_BANNER: Final = re.compile(rb"Linux version ([0-9][!-~]{0,127}) \(")
_CHUNK: Final = 1024 * 1024


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


@dataclass(frozen=True)
class Contents:
    """The facts in an unpacked kernel."""

    release: str
    """As `uname -r` will say; "" when it has no banner."""
    formats: tuple[str, ...]
    """The formats of live update it names, such as `luo-v5`, `kho-v3`, `memfd-v2`; sorted, each once."""


def describe(data: bytes) -> Image:
    """The header of the bzImage in `data`. ImageError says why kexec_file_load(2) of x86_64 would not take it."""
    if len(data) < _HEADER_END or data[_HDRS : _HDRS + 4] != b"HdrS":
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
    relocatable = bool(data[0x234])
    if not relocatable:
        raise ImageError("this kernel is not relocatable")
    # Zero setup sectors mean four, and the boot sector comes on top.
    setup = ((data[_SETUP_SECTS] or 4) + 1) * _SECTOR
    offset, length = struct.unpack_from("<II", data, 0x248)
    start = setup + offset
    if length == 0 or start + length > len(data):
        raise ImageError(f"the image is cut off: its payload is {length} bytes from {start} on, of {len(data)}")
    return Image(
        protocol=(protocol >> 8, protocol & 0xFF),
        relocatable=relocatable,
        version=_header_version(data),
        payload_offset=start,
        payload_length=length,
        compression=_compression(data[start : start + 8]),
    )


def unpack(data: bytes, image: Image) -> bytes:
    """The kernel proper, decompressed. ImageError: damaged, too large, or packed in a way that cannot be read here."""
    packed = data[image.payload_offset : image.payload_offset + image.payload_length]
    unpacker = _UNPACKERS.get(image.compression)
    if unpacker is None:
        raise ImageError(f"payloads in {image.compression} cannot be read", hint="build with gzip, xz, lz4 or zstd")
    try:
        return unpacker(packed)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise ImageError(f"the payload is no {image.compression}: {error}") from error


def contents(payload: bytes) -> Contents:
    """What an unpacked kernel says of itself: its release, and the formats of live update it knows."""
    banner = _BANNER.search(payload)
    formats = sorted({match.group(1).decode("ascii") for match in _FORMAT.finditer(payload)})
    return Contents(banner.group(1).decode("ascii") if banner else "", tuple(formats))


def _header_version(data: bytes) -> str:
    (pointer,) = struct.unpack_from("<H", data, 0x20E)
    if pointer == 0:
        return ""
    text = data[pointer + _SECTOR : pointer + _SECTOR + _VERSION_STRING_MAX].partition(b"\0")[0]
    return text.decode("ascii", "backslashreplace")


def _compression(start: bytes) -> str:
    for magic, name in _COMPRESSIONS.items():
        if start.startswith(magic):
            return name
    raise ImageError(f"the payload begins with {start.hex()}, which is no compression a kernel uses")


class _Decompressor(Protocol):
    """What bz2, lzma and zstd have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def _stream(decompressor: _Decompressor, packed: bytes) -> bytes:
    """Unpacks up to the stream's end; four bytes with the length follow it, which are not looked at."""
    out = bytearray()
    data = packed
    while not decompressor.eof:
        piece = decompressor.decompress(data, _CHUNK)
        data = b""
        out += piece
        _bound(len(out))
        if not piece and decompressor.needs_input and not decompressor.eof:
            raise ImageError("the payload is cut off")
    return bytes(out)


def _gzip(packed: bytes) -> bytes:
    decompressor = zlib.decompressobj(wbits=31)
    out = bytearray()
    data = packed
    while not decompressor.eof:
        piece = decompressor.decompress(data, _CHUNK)
        data = decompressor.unconsumed_tail
        out += piece
        _bound(len(out))
        if not piece and not data and not decompressor.eof:
            raise ImageError("the payload is cut off")
    return bytes(out)


def _xz(packed: bytes) -> bytes:
    return _stream(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=PAYLOAD_MAX), packed)


def _lzma(packed: bytes) -> bytes:
    return _stream(lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=PAYLOAD_MAX), packed)


def _bzip2(packed: bytes) -> bytes:
    return _stream(bz2.BZ2Decompressor(), packed)


def _zstd(packed: bytes) -> bytes:
    try:
        module: Any = importlib.import_module("compression.zstd")  # Python 3.14
        return _stream(module.ZstdDecompressor(), packed)
    except ImportError:
        pass
    try:
        module = importlib.import_module("zstandard")
    except ImportError:
        raise ImageError("this kernel is packed with zstd", hint="install python3-zstandard to look inside") from None
    reader = module.ZstdDecompressor(max_window_size=PAYLOAD_MAX).stream_reader(packed)
    out = bytearray()
    try:
        while piece := reader.read(_CHUNK):
            out += piece
            _bound(len(out))
    except module.ZstdError as error:
        raise ImageError(f"the payload is no zstd: {error}") from error
    return bytes(out)


def _lz4(packed: bytes) -> bytes:
    """LZ4's legacy frames, as `lz4 -l` makes them: a magic, then blocks of up to 8 MiB, each with its length."""
    out = bytearray()
    at = 4
    # The payload's last four bytes are the unpacked length; a block's length and its first byte take five.
    while at + 4 < len(packed):
        (length,) = struct.unpack_from("<I", packed, at)
        at += 4
        if length == int.from_bytes(b"\x02\x21\x4c\x18", "little"):
            continue
        if length == 0 or at + length > len(packed):
            raise ImageError(f"the payload is no lz4: a block of {length} bytes at {at}")
        out += _lz4_block(packed[at : at + length])
        _bound(len(out))
        at += length
    return bytes(out)


_LZ4_BLOCK_MAX: Final = 8 * 1024 * 1024


def _lz4_block(block: bytes) -> bytes:
    """One block: literals, then a copy of what is `distance` bytes back, and again; literals end it."""
    out = bytearray()
    at, end = 0, len(block)
    try:
        while True:
            token = block[at]
            at += 1
            literals = token >> 4
            if literals == 15:
                literals, at = _lz4_more(block, literals, at)
            if at + literals > end:
                raise ImageError("the payload is no lz4: literals beyond their block")
            out += block[at : at + literals]
            at += literals
            if at == end:
                return bytes(out)
            distance = block[at] | block[at + 1] << 8
            at += 2
            length = token & 15
            if length == 15:
                length, at = _lz4_more(block, length, at)
            length += 4
            start = len(out) - distance
            if distance == 0 or start < 0 or len(out) + length > _LZ4_BLOCK_MAX:
                raise ImageError("the payload is no lz4: a copy from or to beyond its block")
            if distance >= length:
                out += out[start : start + length]
            else:
                # What is copied overlaps what it is copied to: the pattern repeats.
                out += (out[start:] * (length // distance + 1))[:length]
    except IndexError:
        raise ImageError("the payload is no lz4: a block ends too soon") from None


def _lz4_more(block: bytes, length: int, at: int) -> tuple[int, int]:
    while True:
        more = block[at]
        at += 1
        length += more
        if more != 255:
            return length, at


def _bound(length: int) -> None:
    if length > PAYLOAD_MAX:
        raise ImageError(f"the payload unpacks to more than {PAYLOAD_MAX} bytes")


_UNPACKERS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "none": bytes,
    "gzip": _gzip,
    "xz": _xz,
    "lzma": _lzma,
    "bzip2": _bzip2,
    "zstd": _zstd,
    "lz4": _lz4,
}
