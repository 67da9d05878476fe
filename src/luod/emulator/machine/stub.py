"""The kernel image that a machine can load: a bzImage that loaders accept, without a kernel. It cannot be booted.

Its header passes the checks of kexec-tools, kexec_file_load and the model. Its payload is a gzipped ELF file with the
version and the format strings of a 7.3 kernel. `machine.nodes` writes it to `LUOEMU_KERNEL`.
"""

from __future__ import annotations

import gzip
import struct
from typing import Final

RELEASE: Final = "7.3.4-luoemu"
FORMATS: Final = ("luo-v5", "kho-v4", "memfd-v2")
DEVICE_FORMATS: Final = ("vfio-pci-v1", "iommufd-v1", "pci-v2")
_SETUP_SECTORS: Final = 4
_SECTOR: Final = 512
_VERSION_OFFSET: Final = 0x400
"""The offset of the version string in the file. The header counts it from 0x200."""


def bzimage(release: str = RELEASE, formats: tuple[str, ...] = FORMATS, *, build_id: bytes = b"") -> bytes:
    """Returns the image, some KiB. `formats` are those of the kernel in it; without luo-* it has no live update.

    `build_id`: the kernel's, 20 bytes; it has none if this is empty.
    """
    version = f"{release} (luoemu@luoemu) #1 SMP PREEMPT_DYNAMIC".encode()
    payload = gzip.compress(_vmlinux(version, formats) + (build_id_note(build_id) if build_id else b""), mtime=0)
    setup = bytearray((_SETUP_SECTORS + 1) * _SECTOR)
    code = bytes(0x200) + payload  # the 64-bit entry point is 0x200 behind the start of the code
    code += bytes(-len(code) % 4096)

    def put(layout: str, offset: int, *values: int | bytes) -> None:
        struct.pack_into("<" + layout, setup, offset, *values)

    put("B", 0x1F1, _SETUP_SECTORS)
    put("I", 0x1F4, len(code) // 16)
    put("H", 0x1FE, 0xAA55)
    put("BB", 0x200, 0xEB, 0x6C)  # a jump over the header; its length gives the header's end
    put("4s", 0x202, b"HdrS")
    put("H", 0x206, 0x020F)
    put("H", 0x20E, _VERSION_OFFSET - 0x200)
    put("B", 0x211, 0x01)  # LOADED_HIGH
    put("I", 0x214, 0x100000)
    put("I", 0x22C, 0x7FFFFFFF)  # initrd_addr_max
    put("I", 0x230, 0x200000)  # kernel_alignment
    put("BB", 0x234, 1, 21)  # relocatable, min_alignment
    put("H", 0x236, 0x0003)  # 64 bit, can be loaded above 4 GiB
    put("I", 0x238, 2047)  # cmdline_size
    put("II", 0x248, 0x200, len(payload))
    put("Q", 0x258, 0x1000000)  # pref_address
    put("I", 0x260, 1 << 20)  # init_size
    put("II", 0x264, 0, 0)
    setup[_VERSION_OFFSET : _VERSION_OFFSET + len(version) + 1] = version + b"\0"
    return bytes(setup) + code


def build_id_note(build_id: bytes) -> bytes:
    """Returns the ELF note of a build id of 20 bytes, as in a kernel and in /sys/kernel/notes."""
    return struct.pack("<III", 4, len(build_id), 3) + b"GNU\0" + build_id


def _vmlinux(version: bytes, formats: tuple[str, ...]) -> bytes:
    """Returns an ELF file without segments, for programs that look for strings in vmlinux."""
    ident = b"\x7fELF" + bytes((2, 1, 1)) + bytes(9)
    header = ident + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0x1000000, 0, 0, 0, 64, 56, 0, 64, 0, 0)
    strings = [b"Linux version " + version, *(name.encode() for name in formats)]
    return header + b"\0".join([b"", *strings, b""])
