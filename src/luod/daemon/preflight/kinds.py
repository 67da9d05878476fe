"""The kinds of files that participants declare, and the handler that the next kernel needs for each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

KINDS: Final[Mapping[str, str]] = {
    "memfd": "memfd",
    "vfio": "vfio-pci",
    "vfio-pci": "vfio-pci",
    "iommufd": "iommufd",
}


def known(kinds: Iterable[str]) -> tuple[str, ...]:
    """Returns those that luod knows, sorted, each once: no more may get from a participant into the registry."""
    return tuple(sorted(set(kinds) & set(KINDS)))
