"""Initial RAM disks for tests: cpio archives of the newc format, and their compressions."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from collections.abc import Callable, Mapping
from typing import Final

import lz4.block
import zstandard

RELEASE: Final = "7.3.4"
MODULES: Final = f"usr/lib/modules/{RELEASE}"
PATH: Final = f"{MODULES}/kernel/drivers/vfio/pci/vfio-pci.ko"
MODULE: Final = b"\x7fELF of a module\0vfio-pci-v1\0license=GPL\0"
FILE, DIRECTORY, LINK = 0o100644, 0o040755, 0o120777


def entry(
    name: str,
    content: bytes = b"",
    *,
    mode: int = FILE,
    inode: int = 1,
    links: int = 1,
    padding: int = 0,
    checksum: int | None = None,
) -> bytes:
    """Returns one entry. `padding`: zeros after the name that count as part of it. `checksum`: of the content, for
    070702.
    """
    encoded = name.encode() + b"\0" + bytes(padding)
    fields = (inode, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(encoded), checksum or 0)
    head = (b"070701" if checksum is None else b"070702") + b"".join(b"%08X" % field for field in fields) + encoded
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)


END: Final = entry("TRAILER!!!")


def link(name: str, target: str) -> bytes:
    """Returns a symbolic link."""
    return entry(name, target.encode(), mode=LINK)


def directories(*names: str) -> bytes:
    """Returns these directories and their parents."""
    parts = {name.rstrip("/")[:at] for name in names for at in range(len(name) + 1) if name[at : at + 1] in ("/", "")}
    return b"".join(entry(name, mode=DIRECTORY) for name in sorted(parts) if name)


def cpio(files: Mapping[str, bytes]) -> bytes:
    """Returns an archive as `cpio -H newc` writes it, with the directories of its files.

    A name with / at its end is a directory's.
    """
    inside = [name.rpartition("/")[0] for name in files if "/" in name]
    plain = b"".join(entry(name, content) for name, content in files.items() if not name.endswith("/"))
    out = directories(*inside) + plain + END
    return out + bytes(-len(out) % 512)


def lz4_legacy(data: bytes) -> bytes:
    """Packs as `lz4 -l` does."""
    block: bytes = lz4.block.compress(data, store_size=False)
    return b"\x02\x21\x4c\x18" + struct.pack("<I", len(block)) + block


PACKERS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "not": bytes,
    "gzip": gzip.compress,
    "xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32),
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "bzip2": bz2.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "lz4": lz4_legacy,
}


def with_boot_config(disk: bytes, text: str, *, checksum: int | None = None, behind: bytes = b"") -> bytes:
    """Appends a configuration as `bootconfig -a` does."""
    disk += bytes(-len(disk) % 4)
    data = text.encode() + b"\0"
    data += bytes(-len(data) % 4)
    footer = struct.pack("<II", len(data), sum(data) if checksum is None else checksum) + b"#BOOTCONFIG\n"
    return disk + data + footer + behind
