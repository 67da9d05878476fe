"""The facts in an unpacked kernel or module: its release, its configuration, its formats.

Formats of live update are strings such as `luo-v5`, which a kernel compares with the carried data. Nothing else in an
image shows whether it takes that data over (docs/hazards.md, H20).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from luod.errors import ImageError
from luod.frozen import frozen
from luod.image import packed

FAMILIES: Final = (
    "luo",
    "kho",
    "memfd",
    "vfio-pci",
    "iommufd",
    "pci",
    "iommu-liveupdate",
    "kvm_vm_luo",
    "guest_memfd_luo",
    "kvm_vcpu_luo_x86",
)
"""Names of formats without their numbers: of the orchestrator, of kexec handover, of the kinds of files with a handler,
and of data that subsystems write beside such files (file-lifecycle-bound data, FLB).
"""

_STARTS: Final = "|".join(f"{family}{'_' if '_' in family else '-'}v" for family in FAMILIES)
_FORMAT: Final = re.compile(rb"(?<![0-9A-Za-z_-])((?:%s)[0-9]{1,5})(?=\0)" % _STARTS.encode())
_NEEDLES: Final = (b"-v", b"_luo_")
"""Each format has one of them. They are rare, and bytes.find is many times faster than the pattern."""
_LONGEST: Final = 32
_BANNER: Final = re.compile(rb"Linux version ([0-9][!-~]{0,127}) \([ -~]{1,512}")
_OPTION: Final = re.compile(rb"^(?:(CONFIG_\w+)=(.*)|# (CONFIG_\w+) is not set)$", re.MULTILINE)
_BUILD_ID: Final = re.compile(rb"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0(.{20})", re.DOTALL)
"""An ELF note NT_GNU_BUILD_ID of x86_64: the lengths of name and id, the type, the name, the id (a SHA-1)."""
_CONFIGURATION_MAX: Final = 4 * 1024 * 1024


@frozen
class Contents:
    """The facts in an unpacked kernel."""

    release: str
    """The text of `uname -r`; "" when the kernel has no banner."""
    formats: tuple[str, ...]
    """The formats of live update in it, such as `luo-v5`, `kho-v3`, `memfd-v2`; sorted, without duplicates."""
    banner: str = ""
    """The text of /proc/version, without the newline."""
    options: Mapping[str, str] | None = None
    """Its configuration, such as {"CONFIG_LIVEUPDATE": "y"}, "n" for options that are not set; None without
    CONFIG_IKCONFIG.
    """
    build_ids: tuple[str, ...] = ()
    """The GNU build ids in it, in hexadecimal: the kernel's own, and those of the images for processes (vDSO)."""


def contents(payload: bytes) -> Contents:
    """Returns the facts in an unpacked kernel."""
    banner = _banner(payload)
    text = banner.group().decode("ascii") if banner else ""
    release = banner.group(1).decode("ascii") if banner else ""
    return Contents(release, formats(payload), text, _options(payload), build_ids(payload))


def family_of(name: str) -> str:
    """Returns the family of a format: `vfio-pci` of `vfio-pci-v1`."""
    return re.sub(r"[-_]v[0-9]+$", "", name)


def formats(data: bytes) -> tuple[str, ...]:
    """Returns the formats of live update that are strings of their own in `data`; sorted, without duplicates."""
    return formats_in((data,))


def formats_in(pieces: Iterable[bytes]) -> tuple[str, ...]:
    """Returns the formats in data that comes in pieces."""
    found, before = set(), b""
    for piece in pieces:
        data = before + piece
        for needle in _NEEDLES:
            at = data.find(needle, max(len(before) - _LONGEST, 0))
            while at >= 0:
                for match in _FORMAT.finditer(data, max(at - _LONGEST, 0), at + 2 * _LONGEST):
                    found.add(match.group(1).decode("ascii"))
                at = data.find(needle, at + _LONGEST)
        before = data[-2 * _LONGEST :]
    return tuple(sorted(found))


def build_ids(data: bytes) -> tuple[str, ...]:
    """Returns the GNU build ids in `data`, such as a kernel or /sys/kernel/notes, in hexadecimal."""
    return tuple(dict.fromkeys(match.group(1).hex() for match in _BUILD_ID.finditer(data)))


def _banner(payload: bytes) -> re.Match[bytes] | None:
    at = payload.find(b"Linux version ")
    while at >= 0:
        match = _BANNER.match(payload, at)
        if match:
            return match
        at = payload.find(b"Linux version ", at + 1)
    return None


def _options(payload: bytes) -> dict[str, str] | None:
    """Returns the configuration that CONFIG_IKCONFIG stored: between two marks, packed with gzip.

    None if it is damaged.
    """
    start = payload.find(b"IKCFG_ST\x1f\x8b")
    if start < 0:
        return None
    try:
        text = packed.unpack(payload, "gzip", start + 8, most=_CONFIGURATION_MAX)
    except ImageError:
        return None
    found = {}
    for match in _OPTION.finditer(text):
        name, value, unset = match.groups()
        found[(name or unset).decode("ascii")] = "n" if unset else _value(value.decode("utf-8", "replace"))
    return found


def _value(text: str) -> str:
    """Returns an option's value. Strings are quoted, with backslashes before quotes and backslashes."""
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if len(text) > 1 and text[0] == text[-1] == '"' else text
