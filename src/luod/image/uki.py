"""Unified kernel images (UKI): an EFI program with sections for a kernel, its initial RAM disk and command line.

kexec_file_load(2) does not accept such a file. It accepts the kernel in `.linux`, the concatenation of `.ucode` and
`.initrd` as the initial RAM disk, and `.cmdline`, as systemd-stub passes them at boot. Of several profiles the first is
read, which a boot without a choice uses. The module is pure: `read` returns the requested bytes, which may be hostile.
Sources: the UAPI group's UKI specification, and Microsoft's PE format.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Final

from luod.errors import ImageError
from luod.frozen import frozen

Read = Callable[[int, int], bytes]
"""Returns the bytes at an offset, of a given length; fewer at the end of the file."""

_DOS: Final = b"MZ"
_PE: Final = b"PE\0\0"
_PE_POINTER: Final = 0x3C
_COFF: Final = struct.Struct("<4sHHIIIHH")
_SECTION: Final = struct.Struct("<8sIIII16x")
_SECTIONS_MAX: Final = 256
"""EFI loaders accept 96."""
_TEXT_MAX: Final = 64 * 1024
_PROFILE: Final = ".profile"
_MACHINES: Final = {
    0x8664: "x86_64",
    0x014C: "i386",
    0xAA64: "arm64",
    0x01C2: "arm",
    0x5064: "riscv64",
    0x6264: "loongarch64",
}


@frozen
class Part:
    """A range of bytes in the file."""

    offset: int
    size: int


@frozen
class Program:
    """An EFI program (PE). `sections` by name, those of the first profile before those of all profiles."""

    machine: str
    sections: dict[str, Part]


@frozen
class Uki:
    """The parts of a UKI. `command_line` is None without one; `uname` is the release in it."""

    kernel: Part
    initrds: tuple[Part, ...]
    command_line: str | None
    uname: str


def of_bytes(data: bytes) -> Read:
    return lambda offset, length: data[offset : offset + length]


def program(read: Read, size: int) -> Program | None:
    """Returns the EFI program in a file of `size` bytes; None for another file.

    Raises ImageError: damaged or truncated.
    """
    if read(0, 2) != _DOS or len(pointer := read(_PE_POINTER, 4)) < 4:
        return None
    (at,) = struct.unpack("<I", pointer)
    header = read(at, _COFF.size)
    if len(header) < _COFF.size or not header.startswith(_PE):
        return None
    _magic, machine, count, _time, _symbols, _number, optional, _flags = _COFF.unpack(header)
    if count > _SECTIONS_MAX:
        raise ImageError(f"the EFI program is damaged: it has {count} sections")
    table = read(at + _COFF.size + optional, count * _SECTION.size)
    if len(table) < count * _SECTION.size:
        raise ImageError("the EFI program is cut off in the table of its sections")
    return Program(_MACHINES.get(machine, f"machine {machine:#x}"), _profile(_sections(table, size)))


def describe(read: Read, size: int) -> Uki | None:
    """Returns the parts of the UKI in a file of `size` bytes; None for another file. Raises the errors of `program`."""
    found = program(read, size)
    if found is None or ".linux" not in found.sections:
        return None
    parts = found.sections
    return Uki(
        kernel=parts[".linux"],
        initrds=tuple(parts[name] for name in (".ucode", ".initrd") if name in parts and parts[name].size),
        command_line=_command_line(read, parts[".cmdline"]) if ".cmdline" in parts else None,
        uname=_text(read, parts[".uname"]).strip() if ".uname" in parts else "",
    )


def _sections(table: bytes, size: int) -> Iterator[tuple[str, Part]]:
    for raw, virtual, _address, stored, offset in _SECTION.iter_unpack(table):
        name = raw.rstrip(b"\0").decode("ascii", "backslashreplace")
        # The stored size is rounded up to the alignment of the file. Some tools leave the true size 0.
        length = min(virtual, stored) if virtual else stored
        if length and offset + length > size:
            raise ImageError(f"the EFI program is cut off: its section {name} ends behind the {size} bytes of the file")
        yield name, Part(offset, length)


def _profile(sections: Iterator[tuple[str, Part]]) -> dict[str, Part]:
    """Returns the sections before the first `.profile`, overridden by those between it and the second."""
    base: dict[str, Part] = {}
    first: dict[str, Part] = {}
    profiles = 0
    for name, part in sections:
        profiles += name == _PROFILE
        if profiles < 2:
            # The first of a name counts, as in systemd-stub.
            (first if profiles else base).setdefault(name, part)
    return {**base, **first}


def _command_line(read: Read, part: Part) -> str:
    """Returns the line that systemd-stub passes to the kernel: without white space around it, on one line."""
    text = _text(read, part)
    return "".join(" " if ord(character) < 0x20 else character for character in text).strip()


def _text(read: Read, part: Part) -> str:
    if part.size > _TEXT_MAX:
        raise ImageError(f"a text in the unified kernel image has {part.size} bytes, more than {_TEXT_MAX}")
    try:
        return read(part.offset, part.size).partition(b"\0")[0].decode("utf-8")
    except UnicodeDecodeError:
        raise ImageError("a text in the unified kernel image is not UTF-8") from None
