"""linux/vfio.h: ioctl numbers, flags and structures of VFIO's device, group and container files.

Data only: those parts that vfio-pci with type1 or iommufd answers. All structures begin with `u32 argsz`, the length
the caller knows of, which may end after the minimum named below; numbers are `_IO(';', 100 + nr)`, without a size.
"""

from __future__ import annotations

import struct

from luod.static import Final

CONTAINER: Final = "/dev/vfio/vfio"
GROUPS: Final = "/dev/vfio"
"""Below it a file for each iommu group, named by its number."""
DEVICES: Final = "/dev/vfio/devices"
"""Below it a file `vfioN` for each device that is bound to a VFIO driver."""

VFIO_TYPE: Final = ord(";")
VFIO_BASE: Final = 100
_FIRST: Final = VFIO_TYPE << 8 | VFIO_BASE

VFIO_API_VERSION: Final = 0
VFIO_TYPE1_IOMMU: Final = 1
VFIO_TYPE1v2_IOMMU: Final = 3
VFIO_DMA_CC_IOMMU: Final = 4
VFIO_NOIOMMU_IOMMU: Final = 8
VFIO_UNMAP_ALL: Final = 9
VFIO_UPDATE_VADDR: Final = 10

# The container.
VFIO_GET_API_VERSION: Final = _FIRST + 0
VFIO_CHECK_EXTENSION: Final = _FIRST + 1
VFIO_SET_IOMMU: Final = _FIRST + 2
VFIO_IOMMU_GET_INFO: Final = _FIRST + 12
VFIO_IOMMU_MAP_DMA: Final = _FIRST + 13
VFIO_IOMMU_UNMAP_DMA: Final = _FIRST + 14
VFIO_IOMMU_DIRTY_PAGES: Final = _FIRST + 17

VFIO_DMA_MAP_FLAG_READ: Final = 1 << 0
VFIO_DMA_MAP_FLAG_WRITE: Final = 1 << 1
VFIO_DMA_MAP_FLAG_VADDR: Final = 1 << 2
VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP: Final = 1 << 0
VFIO_DMA_UNMAP_FLAG_ALL: Final = 1 << 1
VFIO_DMA_UNMAP_FLAG_VADDR: Final = 1 << 2
VFIO_IOMMU_INFO_PGSIZES: Final = 1 << 0
VFIO_IOMMU_INFO_CAPS: Final = 1 << 1
VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE: Final = 1
VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL: Final = 3

IOMMU_TYPE1_INFO: Final = struct.Struct("=IIQII")
"""`{u32 argsz; u32 flags; u64 iova_pgsizes; u32 cap_offset; u32 pad}`, 24 bytes; the first 16 are the minimum."""
IOMMU_TYPE1_DMA_MAP: Final = struct.Struct("=IIQQQ")
"""`{u32 argsz; u32 flags; u64 vaddr; u64 iova; u64 size}`, 32 bytes."""
IOMMU_TYPE1_DMA_UNMAP: Final = struct.Struct("=IIQQ")
"""`{u32 argsz; u32 flags; u64 iova; u64 size}`, 24 bytes."""
INFO_CAP_HEADER: Final = struct.Struct("=HHI")
"""`{u16 id; u16 version; u32 next}`, 8 bytes; `next` is an offset from the start of the structure it follows."""

# The group.
VFIO_GROUP_GET_STATUS: Final = _FIRST + 3
VFIO_GROUP_SET_CONTAINER: Final = _FIRST + 4
VFIO_GROUP_UNSET_CONTAINER: Final = _FIRST + 5
VFIO_GROUP_GET_DEVICE_FD: Final = _FIRST + 6
"""Its argument is the device's name, its result an fd."""

VFIO_GROUP_FLAGS_VIABLE: Final = 1 << 0
VFIO_GROUP_FLAGS_CONTAINER_SET: Final = 1 << 1

GROUP_STATUS: Final = struct.Struct("=II")
"""`{u32 argsz; u32 flags}`, 8 bytes."""

# The device.
VFIO_DEVICE_GET_INFO: Final = _FIRST + 7
VFIO_DEVICE_GET_REGION_INFO: Final = _FIRST + 8
VFIO_DEVICE_GET_IRQ_INFO: Final = _FIRST + 9
VFIO_DEVICE_SET_IRQS: Final = _FIRST + 10
VFIO_DEVICE_RESET: Final = _FIRST + 11
VFIO_DEVICE_GET_PCI_HOT_RESET_INFO: Final = _FIRST + 12
VFIO_DEVICE_PCI_HOT_RESET: Final = _FIRST + 13
VFIO_DEVICE_FEATURE: Final = _FIRST + 17
VFIO_DEVICE_BIND_IOMMUFD: Final = _FIRST + 18
VFIO_DEVICE_ATTACH_IOMMUFD_PT: Final = _FIRST + 19
VFIO_DEVICE_DETACH_IOMMUFD_PT: Final = _FIRST + 20

VFIO_DEVICE_FLAGS_RESET: Final = 1 << 0
VFIO_DEVICE_FLAGS_PCI: Final = 1 << 1
VFIO_DEVICE_FLAGS_CAPS: Final = 1 << 7

VFIO_REGION_INFO_FLAG_READ: Final = 1 << 0
VFIO_REGION_INFO_FLAG_WRITE: Final = 1 << 1
VFIO_REGION_INFO_FLAG_MMAP: Final = 1 << 2
VFIO_REGION_INFO_FLAG_CAPS: Final = 1 << 3
VFIO_REGION_INFO_CAP_MSIX_MAPPABLE: Final = 3

VFIO_PCI_BAR0_REGION_INDEX: Final = 0
VFIO_PCI_BAR5_REGION_INDEX: Final = 5
VFIO_PCI_ROM_REGION_INDEX: Final = 6
VFIO_PCI_CONFIG_REGION_INDEX: Final = 7
VFIO_PCI_VGA_REGION_INDEX: Final = 8
VFIO_PCI_NUM_REGIONS: Final = 9
PCI_OFFSET_SHIFT: Final = 40
"""Region N of a vfio-pci file begins at N << 40. Not in the header: a program asks GET_REGION_INFO."""

VFIO_PCI_INTX_IRQ_INDEX: Final = 0
VFIO_PCI_MSI_IRQ_INDEX: Final = 1
VFIO_PCI_MSIX_IRQ_INDEX: Final = 2
VFIO_PCI_ERR_IRQ_INDEX: Final = 3
VFIO_PCI_REQ_IRQ_INDEX: Final = 4
VFIO_PCI_NUM_IRQS: Final = 5

VFIO_IRQ_INFO_EVENTFD: Final = 1 << 0
VFIO_IRQ_INFO_MASKABLE: Final = 1 << 1
VFIO_IRQ_INFO_AUTOMASKED: Final = 1 << 2
VFIO_IRQ_INFO_NORESIZE: Final = 1 << 3

VFIO_IRQ_SET_DATA_NONE: Final = 1 << 0
VFIO_IRQ_SET_DATA_BOOL: Final = 1 << 1
VFIO_IRQ_SET_DATA_EVENTFD: Final = 1 << 2
VFIO_IRQ_SET_ACTION_MASK: Final = 1 << 3
VFIO_IRQ_SET_ACTION_UNMASK: Final = 1 << 4
VFIO_IRQ_SET_ACTION_TRIGGER: Final = 1 << 5
VFIO_IRQ_SET_DATA_TYPE_MASK: Final = 0x07
VFIO_IRQ_SET_ACTION_TYPE_MASK: Final = 0x38

VFIO_PCI_HOT_RESET_FLAG_DEV_ID: Final = 1 << 0
VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED: Final = 1 << 1
VFIO_PCI_DEVID_OWNED: Final = 0
VFIO_PCI_DEVID_NOT_OWNED: Final = -1

VFIO_DEVICE_FEATURE_MASK: Final = 0xFFFF
VFIO_DEVICE_FEATURE_GET: Final = 1 << 16
VFIO_DEVICE_FEATURE_SET: Final = 1 << 17
VFIO_DEVICE_FEATURE_PROBE: Final = 1 << 18
VFIO_DEVICE_FEATURE_PCI_VF_TOKEN: Final = 0
VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY: Final = 3
VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP: Final = 4
VFIO_DEVICE_FEATURE_LOW_POWER_EXIT: Final = 5
VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2: Final = 12

VFIO_DEVICE_BIND_FLAG_TOKEN: Final = 1 << 0
VFIO_DEVICE_ATTACH_PASID: Final = 1 << 0
VFIO_DEVICE_DETACH_PASID: Final = 1 << 0

DEVICE_INFO: Final = struct.Struct("=IIIIII")
"""`{u32 argsz; u32 flags; u32 num_regions; u32 num_irqs; u32 cap_offset; u32 pad}`; the first 16 are the minimum."""
REGION_INFO: Final = struct.Struct("=IIIIQQ")
"""`{u32 argsz; u32 flags; u32 index; u32 cap_offset; u64 size; u64 offset}`, 32 bytes."""
IRQ_INFO: Final = struct.Struct("=IIII")
"""`{u32 argsz; u32 flags; u32 index; u32 count}`, 16 bytes."""
IRQ_SET: Final = struct.Struct("=IIIII")
"""`{u32 argsz; u32 flags; u32 index; u32 start; u32 count; u8 data[]}`, 20 bytes and the data."""
PCI_HOT_RESET_INFO: Final = struct.Struct("=III")
"""`{u32 argsz; u32 flags; u32 count; devices[]}`, 12 bytes and the devices."""
PCI_DEPENDENT_DEVICE: Final = struct.Struct("=iHBB")
"""`{u32 group_id or devid; u16 segment; u8 bus; u8 devfn}`, 8 bytes."""
PCI_HOT_RESET: Final = struct.Struct("=III")
"""`{u32 argsz; u32 flags; u32 count; s32 group_fds[]}`, 12 bytes and the fds."""
DEVICE_FEATURE: Final = struct.Struct("=II")
"""`{u32 argsz; u32 flags; u8 data[]}`, 8 bytes and the data."""
DEVICE_BIND_IOMMUFD: Final = struct.Struct("=IIiIQ")
"""`{u32 argsz; u32 flags; s32 iommufd; u32 out_devid; u64 token_uuid_ptr}`; the first 16 are the minimum."""
DEVICE_ATTACH_IOMMUFD_PT: Final = struct.Struct("=IIII")
"""`{u32 argsz; u32 flags; u32 pt_id; u32 pasid}`; the first 12 are the minimum."""
DEVICE_DETACH_IOMMUFD_PT: Final = struct.Struct("=III")
"""`{u32 argsz; u32 flags; u32 pasid}`; the first 8 are the minimum."""
