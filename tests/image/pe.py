"""Writes EFI programs (PE) for tests: a unified kernel image is one with the right sections."""

from __future__ import annotations

import struct

AMD64 = 0x8664
ARM64 = 0xAA64
_ALIGNMENT = 512


def program(
    *sections: tuple[str, bytes], machine: int = AMD64, count: int | None = None, virtual: bool = True
) -> bytes:
    """Returns an EFI program with these sections, in this order.

    `count` is their number in its header. Without `virtual` the header does not have their true size.
    """
    header = bytearray(b"MZ".ljust(0x80, b"\0"))
    struct.pack_into("<I", header, 0x3C, len(header))
    number = len(sections) if count is None else count
    header += struct.pack("<4sHHIIIHH", b"PE\0\0", machine, number, 0, 0, 0, 240, 0x206) + bytes(240)
    table, contents = b"", b""
    start = -(-(len(header) + 40 * len(sections)) // _ALIGNMENT) * _ALIGNMENT
    for place, (name, content) in enumerate(sections):
        stored = content + bytes(-len(content) % _ALIGNMENT)
        size = len(content) if virtual else 0
        at = start + len(contents)
        table += struct.pack("<8sIIII16x", name.encode(), size, 0x1000 * (place + 1), len(stored), at)
        contents += stored
    return (bytes(header) + table).ljust(start, b"\0") + contents
