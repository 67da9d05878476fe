"""Reads kernel images and initial RAM disks: bytes in, facts out. No file is opened, nothing is run.

Tells what luod must know of the next kernel before it jumps: that kexec_file_load(2) will take it, and which formats of
live update it reads, since another one loses everything or panics (H20). Bytes may be hostile: ImageError, and memory
bounded by `packed.PAYLOAD_MAX`.
"""

from luod.image.bzimage import Image, describe, unpack
from luod.image.contents import Contents, contents
from luod.image.kernel import Kernel, read

__all__ = ["Contents", "Image", "Kernel", "contents", "describe", "read", "unpack"]
