"""linux/iommufd.h: ioctl numbers and structures of /dev/iommu.

Data only. All structures begin with `u32 size`, the length the caller
knows of; numbers are `_IO(';', nr)`, without size and direction.
"""

from __future__ import annotations

import struct

from luod.static import Final

DEVICE: Final = "/dev/iommu"

IOMMUFD_TYPE: Final = ord(";")
IOMMU_DESTROY: Final = 0x3B80
IOMMU_IOAS_ALLOC: Final = 0x3B81
IOMMU_IOAS_ALLOW_IOVAS: Final = 0x3B82
IOMMU_IOAS_COPY: Final = 0x3B83
IOMMU_IOAS_IOVA_RANGES: Final = 0x3B84
IOMMU_IOAS_MAP: Final = 0x3B85
IOMMU_IOAS_UNMAP: Final = 0x3B86
IOMMU_OPTION: Final = 0x3B87
IOMMU_VFIO_IOAS: Final = 0x3B88
IOMMU_HWPT_ALLOC: Final = 0x3B89
IOMMU_GET_HW_INFO: Final = 0x3B8A
IOMMU_HWPT_SET_DIRTY_TRACKING: Final = 0x3B8B
IOMMU_HWPT_GET_DIRTY_BITMAP: Final = 0x3B8C
IOMMU_HWPT_INVALIDATE: Final = 0x3B8D
IOMMU_FAULT_QUEUE_ALLOC: Final = 0x3B8E
IOMMU_IOAS_MAP_FILE: Final = 0x3B8F
IOMMU_VIOMMU_ALLOC: Final = 0x3B90
IOMMU_VDEVICE_ALLOC: Final = 0x3B91
IOMMU_IOAS_CHANGE_PROCESS: Final = 0x3B92
IOMMU_VEVENTQ_ALLOC: Final = 0x3B93
IOMMU_HW_QUEUE_ALLOC: Final = 0x3B94
IOMMU_IOAS_NOIOMMU_GET_PA: Final = 0x3B95

IOMMU_HWPT_LIVEUPDATE_MARK_PRESERVE: Final = 0x3B96
"""Of the posted series "iommu: Add live update state preservation", in no released kernel.

There it is the number after the last one, which is this one in Linux 7.3's header.
"""

IOMMU_IOAS_MAP_FIXED_IOVA: Final = 1 << 0
IOMMU_IOAS_MAP_WRITEABLE: Final = 1 << 1
IOMMU_IOAS_MAP_READABLE: Final = 1 << 2
IOMMU_OPTION_RLIMIT_MODE: Final = 0
IOMMU_OPTION_HUGE_PAGES: Final = 1
IOMMU_OPTION_OP_SET: Final = 0
IOMMU_OPTION_OP_GET: Final = 1
IOMMU_VFIO_IOAS_GET: Final = 0
IOMMU_VFIO_IOAS_SET: Final = 1
IOMMU_VFIO_IOAS_CLEAR: Final = 2
IOMMU_HWPT_FAULT_ID_VALID: Final = 1 << 2
IOMMU_HWPT_ALLOC_PASID: Final = 1 << 3
IOMMU_HWPT_DATA_NONE: Final = 0
IOMMU_HWPT_DIRTY_TRACKING_ENABLE: Final = 1 << 0
IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR: Final = 1 << 0
IOMMU_HW_INFO_TYPE_NONE: Final = 0
IOMMU_HW_INFO_FLAG_INPUT_TYPE: Final = 1 << 0

DESTROY: Final = struct.Struct("=II")
"""`{u32 size; u32 id}`."""
IOAS_ALLOC: Final = struct.Struct("=III")
"""`{u32 size; u32 flags; u32 out_ioas_id}`."""
IOVA_RANGE: Final = struct.Struct("=QQ")
"""`{u64 start; u64 last}`, both included."""
IOAS_IOVA_RANGES: Final = struct.Struct("=IIIIQQ")
"""`{u32 size; u32 ioas_id; u32 num_iovas; u32 reserved; u64 allowed_iovas; u64 out_iova_alignment}`."""
IOAS_ALLOW_IOVAS: Final = struct.Struct("=IIIIQ")
"""`{u32 size; u32 ioas_id; u32 num_iovas; u32 reserved; u64 allowed_iovas}`."""
IOAS_MAP: Final = struct.Struct("=IIIIQQQ")
"""`{u32 size; u32 flags; u32 ioas_id; u32 reserved; u64 user_va; u64 length; u64 iova}`."""
IOAS_MAP_FILE: Final = struct.Struct("=IIIiQQQ")
"""`{u32 size; u32 flags; u32 ioas_id; s32 fd; u64 start; u64 length; u64 iova}`."""
IOAS_COPY: Final = struct.Struct("=IIIIQQQ")
"""`{u32 size; u32 flags; u32 dst_ioas_id; u32 src_ioas_id; u64 length; u64 dst_iova; u64 src_iova}`."""
IOAS_UNMAP: Final = struct.Struct("=IIQQ")
"""`{u32 size; u32 ioas_id; u64 iova; u64 length}`."""
OPTION: Final = struct.Struct("=IIHHIQ")
"""`{u32 size; u32 option_id; u16 op; u16 reserved; u32 object_id; u64 val64}`."""
VFIO_IOAS: Final = struct.Struct("=IIHH")
"""`{u32 size; u32 ioas_id; u16 op; u16 reserved}`."""
HWPT_ALLOC: Final = struct.Struct("=IIIIIIIIQII")
"""`{u32 size, flags, dev_id, pt_id, out_hwpt_id, reserved, data_type, data_len; u64 data_uptr; u32 fault_id, …}`.

The minimum ends with the first `reserved`, 24 bytes.
"""
HW_INFO: Final = struct.Struct("=IIIIQIB3sQ")
"""`{u32 size, flags, dev_id, data_len; u64 data_uptr; u32 type; u8 out_max_pasid_log2; u8[3]; u64 out_capabilities}`.

The minimum ends with the three reserved bytes, 32 bytes.
"""
IOAS_CHANGE_PROCESS: Final = struct.Struct("=II")
"""`{u32 size; u32 reserved}`."""
HWPT_SET_DIRTY_TRACKING: Final = struct.Struct("=IIII")
"""`{u32 size, flags, hwpt_id, reserved}`."""
HWPT_GET_DIRTY_BITMAP: Final = struct.Struct("=IIIIQQQQ")
"""`{u32 size, hwpt_id, flags, reserved; u64 iova, length, page_size, data}`."""
HWPT_INVALIDATE: Final = struct.Struct("=IIQIIII")
"""`{u32 size, hwpt_id; u64 data_uptr; u32 data_type, entry_len, entry_num, reserved}`."""
FAULT_ALLOC: Final = struct.Struct("=IIII")
"""`{u32 size, flags, out_fault_id, out_fault_fd}`."""
VIOMMU_ALLOC: Final = struct.Struct("=IIIIIIIIQ")
"""`{u32 size, flags, type, dev_id, hwpt_id, out_viommu_id, data_len, reserved; u64 data_uptr}`.

The minimum ends with `out_viommu_id`, 24 bytes.
"""
VDEVICE_ALLOC: Final = struct.Struct("=IIIIQ")
"""`{u32 size, viommu_id, dev_id, out_vdevice_id; u64 virt_id}`."""
VEVENTQ_ALLOC: Final = struct.Struct("=IIIIIIII")
"""`{u32 size, flags, viommu_id, type, veventq_depth, out_veventq_id, out_veventq_fd, reserved}`."""
HW_QUEUE_ALLOC: Final = struct.Struct("=IIIIIIQQ")
"""`{u32 size, flags, viommu_id, type, index, out_hw_queue_id; u64 nesting_parent_iova, length}`."""
IOAS_NOIOMMU_GET_PA: Final = struct.Struct("=IIIIQQQ")
"""`{u32 size, flags, ioas_id, reserved; u64 iova, length, out_phys}`."""
HWPT_LIVEUPDATE_MARK_PRESERVE: Final = struct.Struct("=IIQ")
"""`{u32 size; u32 hwpt_id; u64 hwpt_token}`."""
