"""The modelled kexec's view of a kernel image: x86's check of the header, and the formats that the image speaks.

Bytes in, facts out. `luod.image` does the reading.
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
"""Returns the format strings in a kernel image, such as luo-v5, kho-v4, memfd-v2. Never raises."""


def check(front: bytes, size: int) -> int:
    """Returns the length of the longest command line that an image accepts, in bytes.

    `front` has the image's first bytes, `size` is in bytes.

    Raises Errno(ENOEXEC) when the image is not a bzImage that kexec can load. The checks are those of bzImage64_probe
    and bzImage64_load (arch/x86/kernel/kexec-bzimage64.c): protocol 2.12 or newer, 64 bit, loadable above 4 GiB.
    """
    try:
        bzimage.probe(front)
    except ImageError:
        raise Errno(errno.ENOEXEC) from None
    if size < max(2 * bzimage.SECTOR, bzimage.setup_size(front)):
        raise Errno(errno.ENOEXEC)
    return bzimage.command_line_size(front)


def read_formats(image: bytes) -> frozenset[str]:
    """Returns the format strings in the image itself, and in its payload if that can be unpacked."""
    found = set(formats(image))
    # A damaged kernel would not boot, so it speaks no format.
    with contextlib.suppress(ImageError):
        if bzimage.has_header(image) and len(image) >= 2 * bzimage.SECTOR:
            start, length = bzimage.payload_place(image)
            kind = packed.compression(image[start : start + 8])
            found.update(formats(packed.unpack(image, kind, start, start + length)))
    return frozenset(found)
