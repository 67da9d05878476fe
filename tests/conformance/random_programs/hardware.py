"""The differences between machines with a device that are allowed, because a row of docs/divergences.md has them.

Each rule holds for one kind of question, and for what its row says: another errno is a difference.
"""

from __future__ import annotations

from typing import Any, Final

from luod.uapi import iommufd, vfio
from tests.conformance.random_programs.program import Answer, Question

WITHOUT_BYTES: Final = "test_device_access_without_bytes"
IOMMU: Final = "test_what_the_iommu_has_not"
MIGRATION: Final = "test_type1_has_no_dirty_tracking_and_no_change_of_addresses"
DEVICE: Final = "test_what_a_device_has_not"
ROWS: Final = (WITHOUT_BYTES, IOMMU, MIGRATION, DEVICE)
_MIGRATION_BYTES: Final = 32
"""Of the capability MIGRATION in a container's VFIO_IOMMU_GET_INFO."""


def allowed(question: Question, real: Answer, emulated: Answer) -> str | None:
    """Returns the row of docs/divergences.md that allows the answers to differ, or None."""
    if question["do"] == "region_write" and not question["data"] and emulated == {"ok": 0}:
        return WITHOUT_BYTES
    if question["do"] == "region_read" and not question["length"] and emulated == {"ok": [0, 0]}:
        return WITHOUT_BYTES
    if question["do"] != "structure" or not {"ok"} == set(real) == set(emulated):
        return None
    if _unmasks_by_eventfd(question):
        return DEVICE if (_result(real), _result(emulated)) == (0, "ENOTTY") else None
    if question["command"] == vfio.VFIO_IOMMU_DIRTY_PAGES and question["fd"].startswith("container"):
        return MIGRATION if _result(emulated) == "ENOTTY" else None
    if _result(real) != _result(emulated):
        return None
    if question["command"] == iommufd.IOMMU_GET_HW_INFO:
        return IOMMU
    if _result(real):
        return None
    if question["command"] == vfio.VFIO_IOMMU_GET_INFO and _without_argsz(real) == _without_argsz(emulated):
        sizes = _changed(real).get(0, 0), _changed(emulated).get(0, 0)
        return MIGRATION if sizes[0] == sizes[1] + _MIGRATION_BYTES else None
    return None


def _unmasks_by_eventfd(question: Question) -> bool:
    """Returns whether it asks to unmask INTx with an eventfd."""
    flags = vfio.VFIO_IRQ_SET_DATA_EVENTFD | vfio.VFIO_IRQ_SET_ACTION_UNMASK
    values = [flags, vfio.VFIO_PCI_INTX_IRQ_INDEX]
    return bool(question["command"] == vfio.VFIO_DEVICE_SET_IRQS and question["values"][:2] == values)


def _result(answer: Answer) -> int | str:
    """Returns what the ioctl returned, or the name of its errno."""
    said = answer["ok"]
    found: int | str = said["errno"] if "errno" in said else said["returned"]
    return found


def _changed(answer: Answer) -> dict[int, Any]:
    return dict(answer["ok"]["changed"])


def _without_argsz(answer: Answer) -> dict[int, Any]:
    return {index: value for index, value in _changed(answer).items() if index}
