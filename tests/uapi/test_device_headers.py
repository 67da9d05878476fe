"""luod.uapi.vfio and luod.uapi.iommufd against the kernel's own headers, by means of the C compiler.

They describe only a part of both headers, so the test looks up each of their constants and fields.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from types import ModuleType

import pytest

from luod.uapi import iommufd, vfio
from tests.uapi.test_headers import ask_compiler, constants_of, header

STRUCTURES: dict[str, tuple[ModuleType, str, str]] = {
    # Our module, our name, the fields in order except an array of no size at the end.
    "vfio_iommu_type1_info": (vfio, "IOMMU_TYPE1_INFO", "argsz flags iova_pgsizes cap_offset pad"),
    "vfio_iommu_type1_dma_map": (vfio, "IOMMU_TYPE1_DMA_MAP", "argsz flags vaddr iova size"),
    "vfio_iommu_type1_dma_unmap": (vfio, "IOMMU_TYPE1_DMA_UNMAP", "argsz flags iova size"),
    "vfio_info_cap_header": (vfio, "INFO_CAP_HEADER", "id version next"),
    "vfio_group_status": (vfio, "GROUP_STATUS", "argsz flags"),
    "vfio_device_info": (vfio, "DEVICE_INFO", "argsz flags num_regions num_irqs cap_offset pad"),
    "vfio_region_info": (vfio, "REGION_INFO", "argsz flags index cap_offset size offset"),
    "vfio_irq_info": (vfio, "IRQ_INFO", "argsz flags index count"),
    "vfio_irq_set": (vfio, "IRQ_SET", "argsz flags index start count"),
    "vfio_pci_hot_reset_info": (vfio, "PCI_HOT_RESET_INFO", "argsz flags count"),
    "vfio_pci_dependent_device": (vfio, "PCI_DEPENDENT_DEVICE", "group_id segment bus devfn"),
    "vfio_pci_hot_reset": (vfio, "PCI_HOT_RESET", "argsz flags count"),
    "vfio_device_feature": (vfio, "DEVICE_FEATURE", "argsz flags"),
    "vfio_device_bind_iommufd": (vfio, "DEVICE_BIND_IOMMUFD", "argsz flags iommufd out_devid token_uuid_ptr"),
    "vfio_device_attach_iommufd_pt": (vfio, "DEVICE_ATTACH_IOMMUFD_PT", "argsz flags pt_id pasid"),
    "vfio_device_detach_iommufd_pt": (vfio, "DEVICE_DETACH_IOMMUFD_PT", "argsz flags pasid"),
    "iommu_destroy": (iommufd, "DESTROY", "size id"),
    "iommu_ioas_alloc": (iommufd, "IOAS_ALLOC", "size flags out_ioas_id"),
    "iommu_iova_range": (iommufd, "IOVA_RANGE", "start last"),
    "iommu_ioas_iova_ranges": (
        iommufd,
        "IOAS_IOVA_RANGES",
        "size ioas_id num_iovas __reserved allowed_iovas out_iova_alignment",
    ),
    "iommu_ioas_allow_iovas": (iommufd, "IOAS_ALLOW_IOVAS", "size ioas_id num_iovas __reserved allowed_iovas"),
    "iommu_ioas_map": (iommufd, "IOAS_MAP", "size flags ioas_id __reserved user_va length iova"),
    "iommu_ioas_map_file": (iommufd, "IOAS_MAP_FILE", "size flags ioas_id fd start length iova"),
    "iommu_ioas_copy": (iommufd, "IOAS_COPY", "size flags dst_ioas_id src_ioas_id length dst_iova src_iova"),
    "iommu_ioas_unmap": (iommufd, "IOAS_UNMAP", "size ioas_id iova length"),
    "iommu_option": (iommufd, "OPTION", "size option_id op __reserved object_id val64"),
    "iommu_vfio_ioas": (iommufd, "VFIO_IOAS", "size ioas_id op __reserved"),
    "iommu_hwpt_alloc": (
        iommufd,
        "HWPT_ALLOC",
        "size flags dev_id pt_id out_hwpt_id __reserved data_type data_len data_uptr fault_id __reserved2",
    ),
    "iommu_hwpt_set_dirty_tracking": (iommufd, "HWPT_SET_DIRTY_TRACKING", "size flags hwpt_id __reserved"),
    "iommu_hwpt_get_dirty_bitmap": (
        iommufd,
        "HWPT_GET_DIRTY_BITMAP",
        "size hwpt_id flags __reserved iova length page_size data",
    ),
    "iommu_hwpt_invalidate": (
        iommufd,
        "HWPT_INVALIDATE",
        "size hwpt_id data_uptr data_type entry_len entry_num __reserved",
    ),
    "iommu_fault_alloc": (iommufd, "FAULT_ALLOC", "size flags out_fault_id out_fault_fd"),
    "iommu_viommu_alloc": (
        iommufd,
        "VIOMMU_ALLOC",
        "size flags type dev_id hwpt_id out_viommu_id data_len __reserved data_uptr",
    ),
    "iommu_vdevice_alloc": (iommufd, "VDEVICE_ALLOC", "size viommu_id dev_id out_vdevice_id virt_id"),
    "iommu_veventq_alloc": (
        iommufd,
        "VEVENTQ_ALLOC",
        "size flags viommu_id type veventq_depth out_veventq_id out_veventq_fd __reserved",
    ),
    "iommu_hw_queue_alloc": (
        iommufd,
        "HW_QUEUE_ALLOC",
        "size flags viommu_id type index out_hw_queue_id nesting_parent_iova length",
    ),
    "iommu_hw_info": (
        iommufd,
        "HW_INFO",
        "size flags dev_id data_len data_uptr out_data_type out_max_pasid_log2 __reserved out_capabilities",
    ),
    "iommu_ioas_change_process": (iommufd, "IOAS_CHANGE_PROCESS", "size __reserved"),
    "iommu_ioas_noiommu_get_pa": (
        iommufd,
        "IOAS_NOIOMMU_GET_PA",
        "size flags ioas_id __reserved iova length out_phys",
    ),
}
GROWN = {
    "vfio_device_info",
    "vfio_iommu_type1_info",
    "vfio_device_bind_iommufd",
    "vfio_device_attach_iommufd_pt",
    "vfio_device_detach_iommufd_pt",
    "iommu_hwpt_alloc",
    "iommu_hw_info",
}
"""Structures that had fewer fields, or did not exist, in headers before Linux 7."""
POSTED = {"IOMMU_HWPT_LIVEUPDATE_MARK_PRESERVE"}
"""In no released header."""
FILES = {"linux/vfio.h": (vfio, "VFIO_", "token_uuid_ptr"), "linux/iommufd.h": (iommufd, "IOMMU", "NOIOMMU_GET_PA")}
"""The module, the prefix of its constants, and a word that only new enough headers have."""


@pytest.mark.parametrize("file", sorted(FILES))
def test_every_constant_of_ours_has_the_headers_value(tmp_path: Path, file: str) -> None:
    module, prefix, newest = FILES[file]
    text = header(file)
    ours = {name: value for name, value in constants_of(module, prefix).items() if name not in POSTED}
    there = {name: value for name, value in ours.items() if re.search(rf"\b{name}\b", text)}
    if newest in text:
        assert set(ours) == set(there)
    assert there
    answers = ask_compiler(tmp_path, file, sorted(there))
    assert {name: value & 0xFFFFFFFF for name, value in answers.items()} == {
        name: value & 0xFFFFFFFF for name, value in there.items()
    }


@pytest.mark.parametrize("file", sorted(FILES))
def test_every_structure_of_ours_has_the_headers_fields(tmp_path: Path, file: str) -> None:
    module, _, newest = FILES[file]
    text = header(file)
    expected: dict[str, int] = {}
    for name, (owner, ours, names) in STRUCTURES.items():
        if owner is not module or (newest not in text and (name in GROWN or f"struct {name} {{" not in text)):
            continue
        layout: struct.Struct = getattr(module, ours)
        offset = 0
        for field, code in zip(names.split(), _codes(layout.format), strict=True):
            expected[f"offsetof(struct {name}, {field})"] = offset
            expected[f"sizeof(((struct {name} *)0)->{field})"] = struct.calcsize("=" + code)
            offset += struct.calcsize("=" + code)
        expected[f"sizeof(struct {name})"] = layout.size
    assert expected
    assert ask_compiler(tmp_path, file, list(expected)) == expected


def _codes(layout: str) -> list[str]:
    """Returns the codes of a layout: `=II3sQ` is I, I, 3s, Q."""
    codes, count = [], ""
    for character in layout.removeprefix("="):
        if character.isdigit():
            count += character
        else:
            codes.append(count + character)
            count = ""
    return codes


def test_structures_that_are_ours_alone_are_none_of_the_headers() -> None:
    described = {(module, ours) for module, ours, _ in STRUCTURES.values()}
    for module in (vfio, iommufd):
        for name, value in vars(module).items():
            if isinstance(value, struct.Struct):
                assert (module, name) in described or f"IOMMU_{name}" in POSTED, name
