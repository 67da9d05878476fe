"""The properties of an IOMMU in VFIO's container ioctls: the extensions, and the answer to VFIO_IOMMU_GET_INFO.

A container's own IOMMU (`legacy.type1`) and an iommufd in its place (`compatible.py`) answer in the same form.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final

from luod.emulator.model.vfio import argsz
from luod.emulator.model.vfio.ports import DeviceCaller
from luod.uapi import vfio as uapi

EXTENSIONS: Final = (uapi.VFIO_TYPE1_IOMMU, uapi.VFIO_TYPE1v2_IOMMU, uapi.VFIO_UNMAP_ALL)

PAGE_SIZES: Final = 0x40201000
"""4 KiB, 2 MiB, 1 GiB: those of a page table."""
_INFO_MINIMUM: Final = 16
_RANGE: Final = struct.Struct("=QQ")
_COUNT: Final = struct.Struct("=II")
_WORD: Final = struct.Struct("=I")


def get_info(
    find_ranges: Callable[[], Sequence[tuple[int, int]]],
    available: int,
    argument: int,
    caller: DeviceCaller,
    page_sizes: Callable[[], int] = lambda: PAGE_SIZES,
    *,
    always_sized: bool = False,
) -> int:
    """Answers VFIO_IOMMU_GET_INFO: the usable ranges, the page sizes as bits, and the number of further mappings.

    `always_sized`: argsz becomes the size of the answer, also where the caller has room for more.

    Raises Errno: EFAULT, EINVAL, and after these what `find_ranges` raises.
    """
    layout = uapi.IOMMU_TYPE1_INFO
    size = argsz.read(caller, argument, layout, _INFO_MINIMUM)[0]
    ranges = find_ranges()
    content = argsz.chain(
        [
            (uapi.VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, 1, _WORD.pack(available)),
            (
                uapi.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE,
                1,
                _COUNT.pack(len(ranges), 0) + b"".join(_RANGE.pack(*each) for each in ranges),
            ),
        ],
        layout.size,
    )
    flags = uapi.VFIO_IOMMU_INFO_PGSIZES | uapi.VFIO_IOMMU_INFO_CAPS
    known, whole, offset = size, layout.size + len(content), 0
    if known >= whole:
        caller.write(argument + layout.size, content)
        offset = layout.size
    if known < whole or always_sized:
        size = whole
    argsz.write(caller, argument, layout, (size, flags, page_sizes(), offset, 0), known)
    return 0
