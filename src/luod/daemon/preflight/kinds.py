"""The kinds of files that participants declare, and the next kernel's requirements for each: a handler, and formats."""

from __future__ import annotations

from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

KINDS: Final[Mapping[str, str]] = {
    "memfd": "memfd",
    "vfio": "vfio-pci",
    "vfio-pci": "vfio-pci",
    "iommufd": "iommufd",
    "kvm-vm": "kvm_vm_luo",
    "kvm-vcpu": "kvm_vcpu_luo_x86",
}

BESIDE: Final[Mapping[str, tuple[str, ...]]] = {
    "vfio-pci": ("pci", "iommu-liveupdate"),
    "iommufd": ("iommu-liveupdate",),
}
"""By handler, the formats that other parts of the kernel write beside its files (docs/hazards.md, H26)."""


def beside(kinds: Iterable[str]) -> tuple[str, ...]:
    """Returns the families of data that are written beside files of these kinds, sorted, without duplicates."""
    handlers = {KINDS[kind] for kind in kinds if kind in KINDS}
    return tuple(sorted({family for handler in handlers for family in BESIDE.get(handler, ())}))


def known(kinds: Iterable[str]) -> tuple[str, ...]:
    """Returns the kinds that luod knows, sorted, without duplicates: no others may get from a participant into the
    registry.
    """
    return tuple(sorted(set(kinds) & set(KINDS)))
