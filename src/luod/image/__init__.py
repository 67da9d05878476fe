"""Reads kernel images and initial RAM disks: bytes in, facts out. It opens no file and runs no program.

Before a kexec, luod must know whether kexec_file_load(2) accepts an image, and which formats of live update its kernel
reads: a kernel with other formats loses everything or panics (docs/hazards.md, H20). The bytes may be hostile:
functions raise ImageError, and memory is bounded by `packed.PAYLOAD_MAX`.
"""

from luod.image.bzimage import Image, describe, unpack
from luod.image.contents import Contents, contents
from luod.image.kernel import Kernel, read

__all__ = ["Contents", "Image", "Kernel", "contents", "describe", "read", "unpack"]
