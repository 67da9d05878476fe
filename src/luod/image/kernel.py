"""A kernel image: a bzImage, or an ELF vmlinux, which kexec_file_load(2) of x86_64 refuses.

Other files with a kernel in them are named as what they are by `luod.image.other_kernels`.
"""

from __future__ import annotations

from dataclasses import dataclass

from luod.errors import ImageError
from luod.image import bzimage, other_kernels
from luod.image.contents import Contents, contents

_ELF = b"\x7fELF"


@dataclass(frozen=True)
class Kernel:
    """`image` is None for an ELF file."""

    image: bzimage.Image | None
    contents: Contents


def read(data: bytes) -> Kernel:
    """Everything an image says. Takes its time: tens of MiB are unpacked and looked through. ImageError."""
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
        raise ImageError("what is packed in this image is no kernel: it says nowhere which Linux version it is")
    return Kernel(image, found)
