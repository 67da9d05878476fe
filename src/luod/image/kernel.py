"""A kernel image: a bzImage, or an ELF vmlinux, which kexec_file_load(2) of x86_64 refuses.

`luod.image.other_kernels` names other files that contain a kernel.
"""

from __future__ import annotations

from luod.errors import ImageError
from luod.frozen import frozen
from luod.image import bzimage, other_kernels
from luod.image.contents import Contents, contents

_ELF = b"\x7fELF"


@frozen
class Kernel:
    """`image` is None for an ELF file."""

    image: bzimage.Image | None
    contents: Contents


def read(data: bytes) -> Kernel:
    """Returns all facts in an image. Raises ImageError. It unpacks and searches tens of MiB, which takes seconds."""
    if not data:
        raise ImageError("the file is empty")
    if data.startswith(_ELF):
        found = contents(data)
        if not found.release:
            raise other_kernels.refusal(data)
        return Kernel(None, found)
    if not bzimage.has_header(data):
        raise other_kernels.refusal(data)
    image = bzimage.describe(data)
    found = contents(bzimage.unpack(data, image))
    if not found.release:
        raise ImageError("the payload of this image is not a kernel: it has no Linux version")
    return Kernel(image, found)
