"""The formats that the running kernel writes for the next one, and its memory for the next image (scratch).

The formats of KHO and of the orchestrator are in debugfs. Those of the handlers are only in the kernel's image: they
are read from the one in /boot (or /lib/modules) whose banner is /proc/version. Without it luod assumes the formats of
known kernels with the same orchestrator. Paths are fixed; nothing here comes from a client.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import MappingProxyType

from luod import image
from luod.daemon.memory_grants import scratch_areas
from luod.errors import ImageError
from luod.frozen import frozen
from luod.image.contents import FAMILIES, build_ids, family_of, formats
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

IMAGE_MAX: Final = 1024 * 1024 * 1024
_DEBUGFS: Final = "sys/kernel/debug/kho/out"
_KNOWN: Final = ("luo-v5", "kho-v4", "memfd-v2", "vfio-pci-v1", "iommufd-v1", "pci-v2")
"""The formats of Linux 7.3, and for devices those of the posted series."""
_RELEASE: Final = re.compile(r"Linux version ([\w.+~-]+) ")


@frozen
class Running:
    """`formats`: by family ("luo", "kho", "memfd", …) those that this kernel writes; a missing family is not known.

    `assumed`: they could not be read. `scratch`: the bytes of each area; None if they could not be read.
    """

    formats: Mapping[str, frozenset[str]] = MappingProxyType({})
    assumed: bool = True
    scratch: tuple[int, ...] | None = None
    command_line: str = ""
    """The command line of the running kernel; "" if it cannot be read."""
    build_id: str = ""
    """The GNU build id of the running kernel; "" if it has none."""


def running(root: Path = Path("/")) -> Running:
    """Returns the facts of the running kernel. Unpacks an image, which takes seconds. `root`: has /proc and /sys."""
    found = _by_family(_from_debugfs(root / _DEBUGFS))
    in_image = _by_family(_from_image(root))
    known = _by_family(_KNOWN)
    assumed = not found and not in_image
    if "luo" in in_image:
        # debugfs shows the written formats; an image may be able to read more.
        found = in_image | found
    elif found.get("luo", known["luo"]) == known["luo"]:
        found = known | found
    return Running(found, assumed, _scratch(root), _command_line(root), _build_id(root))


def _by_family(names: Iterable[str]) -> dict[str, frozenset[str]]:
    names = list(names)
    found = {each: frozenset(name for name in names if family_of(name) == each) for each in FAMILIES}
    return {each: its for each, its in found.items() if its}


def _from_debugfs(directory: Path) -> list[str]:
    """Returns the formats in debugfs: `compatible` of KHO's device tree, and the start of the orchestrator's data."""
    found: list[str] = []
    for name in ("fdt", "sub_fdts/LUO"):
        try:
            found += formats((directory / name).read_bytes())
        except OSError:
            continue
    return found


def _from_image(root: Path) -> tuple[str, ...]:
    try:
        version = (root / "proc/version").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ()
    release = _RELEASE.match(version)
    if not release:
        return ()
    for path in (f"boot/vmlinuz-{release.group(1)}", f"lib/modules/{release.group(1)}/vmlinuz"):
        try:
            if (root / path).stat().st_size > IMAGE_MAX:
                continue
            found = image.read((root / path).read_bytes()).contents
        except (OSError, ImageError):
            continue
        if found.banner.strip() == version:
            return found.formats
    return ()


def _command_line(root: Path) -> str:
    try:
        return (root / "proc/cmdline").read_text(encoding="utf-8", errors="surrogateescape").strip()
    except OSError:
        return ""


def _build_id(root: Path) -> str:
    try:
        found = build_ids((root / "sys/kernel/notes").read_bytes())
    except OSError:
        return ""
    return found[0] if found else ""


def _scratch(root: Path) -> tuple[int, ...] | None:
    areas = scratch_areas(root)
    return None if areas is None else tuple(size for size in areas if size)
