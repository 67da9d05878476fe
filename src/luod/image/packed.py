"""The compressions of kernels, initial RAM disks and modules, unpacked piece by piece in bounded memory.

The standard library unpacks gzip, xz, lzma and bzip2. `lz4` and `zstandard` are imported on demand, since other users
and the emulated machine use this package with the standard library alone. The accepted data are those of the
decompressors under lib/ of the kernel.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Final

from luod.errors import ImageError, ImageUnreadable

PAYLOAD_MAX: Final = 512 * 1024 * 1024
"""The maximum size of an unpacked kernel in bytes: several times that of any real one."""

_MAGICS: Final = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\0": "xz",
    b"\x5d\0\0": "lzma",
    b"BZh": "bzip2",
    b"\x02\x21\x4c\x18": "lz4",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x89LZO": "lzo",
    b"\x7fELF": "none",
}
CPIO_MAGICS: Final = (b"070701", b"070702")
_CHUNK: Final = 64 * 1024
"""Bytes of a piece: what is in the processor's cache is searched several times as fast, and the C library keeps it."""
_INSTALL: Final = "to look inside, apt install python3-{}, or pip install 'luod[daemon]'"
_LZ4_MAGIC: Final = 0x184C2102
_LZ4_BLOCK_MAX: Final = 8 * 1024 * 1024
_LZ4_PACKED_MAX: Final = _LZ4_BLOCK_MAX + _LZ4_BLOCK_MAX // 255 + 16
_ZSTD_WINDOW_MAX: Final = 256 * 1024 * 1024
_DICTIONARY_MAX: Final = 256 * 1024 * 1024
"""The maximum memory for xz and lzma in bytes: kernels are packed with dictionaries of up to 128 MiB."""


class PackingError(ImageError):
    """The packed data are damaged or truncated."""


def compression(start: bytes) -> str:
    """Returns the compression of data that begins with `start`, of 6 bytes or more; "none" for an ELF file.

    Raises ImageError for an unknown one.
    """
    for magic, name in _MAGICS.items():
        if start.startswith(magic):
            return name
    raise ImageError(f"the payload begins with {start[:8].hex()}, which is not a compression that kernels use")


def unpack(data: bytes, compression: str, start: int = 0, end: int | None = None, most: int | None = None) -> bytes:
    """Returns the unpacked bytes of `data` from `start` to `end`.

    Raises ImageError: damaged, or more than `most` (PAYLOAD_MAX) bytes.
    """
    if compression == "none":
        return data[start:end]
    out = bytearray()
    most = PAYLOAD_MAX if most is None else most
    for piece in Stream(data, compression, start, end):
        out += piece
        if len(out) > most:
            raise ImageError(f"the payload unpacks to more than {most} bytes")
    return bytes(out)


class Stream:
    """One packed stream inside `data`: iterate, once, over its pieces, each of 8 MiB at most.

    Afterwards `end` is the end of the stream. The iteration raises ImageError: damaged, truncated, or of an unsupported
    compression.
    """

    def __init__(self, data: bytes, compression: str, start: int = 0, end: int | None = None) -> None:
        self._data = data
        self._compression = compression
        self._limit = len(data) if end is None else min(end, len(data))
        self.end = start

    def __iter__(self) -> Iterator[bytes]:
        unpacker = _UNPACKERS.get(self._compression)
        if unpacker is None:
            hint = "build with gzip, xz, lz4 or zstd"
            raise ImageUnreadable(f"what is packed with {self._compression} cannot be read", hint=hint)
        try:
            yield from unpacker(self)
        except (OSError, EOFError, ValueError, MemoryError, zlib.error, lzma.LZMAError) as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, why: str) -> PackingError:
        return PackingError(f"the payload is not valid {self._compression}: {why}")

    def raw(self) -> Iterator[bytes]:
        """Yields the remaining bytes in pieces, and advances `end`."""
        while self.end < self._limit:
            piece = self._data[self.end : min(self.end + _CHUNK, self._limit)]
            self.end += len(piece)
            yield piece

    def _packed(self) -> Iterator[bytes]:
        yield from self.raw()
        raise PackingError("the payload is cut off")

    def _by(self, decompressor: bz2.BZ2Decompressor | lzma.LZMADecompressor) -> Iterator[bytes]:
        for packed in self._packed():
            piece = decompressor.decompress(packed, _CHUNK)
            yield piece
            while not decompressor.eof and not decompressor.needs_input:
                yield decompressor.decompress(b"", _CHUNK)
            if decompressor.eof:
                self.end -= len(decompressor.unused_data)
                return

    def xz(self) -> Iterator[bytes]:
        return self._by(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_DICTIONARY_MAX))

    def lzma(self) -> Iterator[bytes]:
        return self._by(lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_DICTIONARY_MAX))

    def bzip2(self) -> Iterator[bytes]:
        return self._by(bz2.BZ2Decompressor())

    def gzip(self) -> Iterator[bytes]:
        decompressor = zlib.decompressobj(wbits=31)
        for packed in self._packed():
            while packed and not decompressor.eof:
                yield decompressor.decompress(packed, _CHUNK)
                packed = decompressor.unconsumed_tail
            while not decompressor.eof and (rest := decompressor.decompress(b"", _CHUNK)):
                yield rest
            if decompressor.eof:
                self.end -= len(decompressor.unused_data)
                return

    def zstd(self) -> Iterator[bytes]:
        try:
            import zstandard
        except ImportError:
            raise ImageUnreadable("this is packed with zstd", hint=_INSTALL.format("zstandard")) from None
        start, self.end = self.end, self._end_of_zstd()
        decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_MAX)
        try:
            # Not fed by hand: that would unpack all input, and 128 KiB can be packed in 4 bytes.
            with decompressor.stream_reader(memoryview(self._data)[start : self.end], read_size=_CHUNK) as reader:
                while piece := reader.read(_CHUNK):
                    yield piece
        except zstandard.ZstdError as error:
            raise self._damaged(str(error)) from error

    def _end_of_zstd(self) -> int:
        """Returns the end of the frame at `end`: RFC 8878, 3.1.1. Its blocks have their lengths."""
        at = self.end + 4
        descriptor = self._byte(at)
        single, size = descriptor & 0x20, descriptor >> 6
        at += 1 + (0 if single else 1) + (0, 1, 2, 4)[descriptor & 3] + ((1 if single else 0), 2, 4, 8)[size]
        last = False
        while not last:
            header = self._byte(at) | self._byte(at + 1) << 8 | self._byte(at + 2) << 16
            last = bool(header & 1)
            repeated = header >> 1 & 3 == 1
            at += 3 + (1 if repeated else header >> 3)
        at += 4 if descriptor & 4 else 0
        if at > self._limit:
            raise PackingError("the payload is cut off")
        return at

    def _byte(self, at: int) -> int:
        if at >= self._limit:
            raise PackingError("the payload is cut off")
        return self._data[at]

    def lz4(self) -> Iterator[bytes]:
        """Yields the pieces of LZ4's legacy frames, as `lz4 -l` makes them.

        A frame is a magic, then blocks of up to 8 MiB, each with its length. It has no end of its own. A kernel's is
        followed by its unpacked length, so the frame ends there.
        """
        try:
            from lz4 import block
        except ImportError:
            raise ImageUnreadable("this is packed with lz4", hint=_INSTALL.format("lz4")) from None
        # The first magic was checked already, and there may be several in a row.
        self.end += 4
        while self.end + 4 < self._limit:
            (length,) = struct.unpack_from("<I", self._data, self.end)
            if length == _LZ4_MAGIC:
                self.end += 4
                continue
            if length == 0 or length > _LZ4_PACKED_MAX:
                # Bytes that a boot loader or a kernel's build appends.
                return
            start = self.end + 4
            if start + length > self._limit:
                raise self._damaged(f"a block of {length} bytes at {start}")
            try:
                yield block.decompress(self._data[start : start + length], uncompressed_size=_LZ4_BLOCK_MAX)
            except block.LZ4BlockError as error:
                raise self._damaged(str(error)) from error
            self.end = start + length


_UNPACKERS: Final[dict[str, Callable[[Stream], Iterator[bytes]]]] = {
    "gzip": Stream.gzip,
    "xz": Stream.xz,
    "lzma": Stream.lzma,
    "bzip2": Stream.bzip2,
    "zstd": Stream.zstd,
    "lz4": Stream.lz4,
}
