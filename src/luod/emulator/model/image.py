"""What the modelled kexec looks at in a kernel image: x86's check of the header, and the formats the image speaks.

Bytes in, facts out; the reading is `luod.image`'s.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable

from luod.emulator.model.ports import Errno
from luod.errors import ImageError
from luod.image import bzimage, packed
from luod.image.contents import formats

ImageReader = Callable[[bytes], frozenset[str]]
"""From a kernel image to the format strings it carries, such as luo-v5, kho-v4, memfd-v2. Never raises."""


def check(image: bytes) -> int:
    """The longest command line the image takes, in bytes. Errno(ENOEXEC) when it is no bzImage that kexec can load.

    The checks of bzImage64_probe and bzImage64_load: protocol 2.12 or newer, 64 bit, can be loaded above 4 GiB.
    """
    try:
        bzimage.probe(image)
    except ImageError:
        raise Errno(errno.ENOEXEC) from None
    if len(image) < max(2 * bzimage.SECTOR, bzimage.setup_size(image)):
        raise Errno(errno.ENOEXEC)
    return bzimage.command_line_size(image)


def read_formats(image: bytes) -> frozenset[str]:
    """The format strings in the image itself, and in its payload where that can be unpacked."""
    found = set(formats(image))
    # A damaged kernel would not boot, and carries nothing.
    with contextlib.suppress(ImageError):
        if bzimage.has_header(image) and len(image) >= 2 * bzimage.SECTOR:
            start, length = bzimage.payload_place(image)
            kind = packed.compression(image[start : start + 8])
            found.update(formats(packed.unpack(image, kind, start, start + length)))
    return frozenset(found)
