"""Fault queues of /dev/iommu: the object, and the file that IOMMU_FAULT_QUEUE_ALLOC gives.

It follows drivers/iommu/iommufd/eventq.c of Linux 7.3. The queue is always empty: this IOMMU reports no page faults to
programs, and no page table takes a queue. So a read returns nothing, and no response fits.
"""

from __future__ import annotations

import errno
from select import EPOLLOUT
from typing import Final

from luod.emulator.model.ports import Errno, Kind
from luod.emulator.model.vfio.files import ModelFile
from luod.emulator.model.vfio.ports import DeviceCaller

_FAULT: Final = 40
"""Bytes of a page fault, struct iommu_hwpt_pgfault."""
_RESPONSE: Final = 8
"""Bytes of a response, struct iommu_hwpt_page_response."""


class FaultQueue:
    """The object in a context. It is in use while its file is open."""

    def __init__(self) -> None:
        self.is_open = True


class FaultQueueFile(ModelFile):
    """The file of a queue. It keeps the context, whose file it references."""

    kind = Kind.OTHER
    link = b"anon_inode:[iommufd-pgfault]"
    events = EPOLLOUT

    def __init__(self, queue: FaultQueue, context: ModelFile) -> None:
        super().__init__()
        self._queue = queue
        self._context = context.reference()

    def _release(self) -> None:
        self._queue.is_open = False
        self._context.close()

    def ioctl(self, command: int, argument: int, caller: DeviceCaller) -> int:
        raise Errno(errno.ENOTTY)

    def pread(self, offset: int, length: int) -> bytes:
        """Raises Errno(ESPIPE) at an offset, or for a part of a fault."""
        if offset or length % _FAULT:
            raise Errno(errno.ESPIPE)
        return b""

    def pwrite(self, offset: int, data: bytes) -> int:
        """Raises Errno: ESPIPE at an offset, or for a part of a response; EINVAL: no fault waits for it."""
        if offset or len(data) % _RESPONSE:
            raise Errno(errno.ESPIPE)
        raise Errno(errno.EINVAL)
