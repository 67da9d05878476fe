"""Recognises a file that was given as an initial RAM disk and is not one, for error messages."""

from __future__ import annotations

import struct
from typing import Final

LOOKED_AT: Final = 2048

_BEGINNINGS: Final = {
    b"-rom1fs-": "a romfs image, an initial RAM disk of the old kind",
    b"hsqs": "a squashfs image, an initial RAM disk of the old kind",
    b"\x45\x3d\xcd\x28": "a cramfs image, an initial RAM disk of the old kind",
    b"070707": "a cpio archive of the old kind, not of newc",
    b"\xc7\x71": "a cpio archive of the old binary kind, not of newc",
    b"\x7fELF": "an ELF program or kernel",
    b"PK\x03\x04": "a zip archive",
    b"!<arch>": "a Debian package or a library",
    b"#!": "a script",
    b"%PDF": "a PDF document",
    b"\xd0\x0d\xfe\xed": "a device tree",
    b"QFI\xfb": "a qcow2 disk image",
}


def name(data: bytes) -> str:
    """Returns the kind of file that `data` begins, such as "a Linux kernel (bzImage)"; "" for an unknown one."""
    if data[0x202:0x206] == b"HdrS":
        return "a Linux kernel (bzImage)"
    for beginning, known in _BEGINNINGS.items():
        if data.startswith(beginning):
            return known
    if data.startswith(b"MZ"):
        return "an EFI program, such as a kernel or a unified kernel image"
    if data[257:262] == b"ustar":
        return "a tar archive"
    if data[0x200:0x204] == b"\x45\x3d\xcd\x28":
        return "a cramfs image, an initial RAM disk of the old kind"
    if len(data) >= 1024 + 58:
        if struct.unpack_from("<H", data, 1024 + 56)[0] == 0xEF53:
            return "an ext2, ext3 or ext4 image, an initial RAM disk of the old kind"
        if struct.unpack_from("<H", data, 1024 + 16)[0] in (0x137F, 0x138F):
            return "a minix image, an initial RAM disk of the old kind"
    start = data[:512].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page"
    if start and all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in data[:512]):
        return "a text file"
    return ""
