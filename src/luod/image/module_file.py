"""The file of a kernel module in an initial RAM disk: its name, its compression, and what is in it.

Which modules are loaded, and from where, is in `luod.image.kmod`.
"""

from __future__ import annotations

from typing import Final

from luod.errors import ImageError
from luod.image import packed
from luod.image.contents import formats
from luod.image.tree import Inode

SIZE_MAX: Final = 64 * 1024 * 1024
"""Bytes of a module, unpacked. A larger one counts as damaged."""
_SUFFIXES: Final = {"xz": "xz", "zst": "zstd", "gz": "gzip"}


def module_name(path: str) -> str | None:
    """Returns the name of the kernel module in a file of this name, with "_" for "-"; None for another file."""
    name, dot, suffix = path.rpartition("/")[2].rpartition(".")
    if suffix in _SUFFIXES and dot:
        name, dot, suffix = name.rpartition(".")
    return name.replace("-", "_") if suffix == "ko" and name else None


def look_into(inode: Inode) -> None:
    """Unpacks a packed module, if that was not done yet, and notes its formats or its damage."""
    if inode.packed:
        (packing, content), inode.packed = inode.packed, None
        try:
            inode.formats = formats(packed.unpack(content, packing, most=SIZE_MAX))
        except ImageError as error:
            inode.damage = error.message


def packing(path: str) -> str | None:
    """Returns the compression of the kernel module in a file of this name; None if it has none."""
    return _SUFFIXES.get(path.rpartition(".")[2])
