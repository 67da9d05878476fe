"""PCI addresses, and the description of the devices of a machine: data, and its textual form.

`device.py` implements a described device. Bridges and buses are in `board.py`.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

_ADDRESS: Final = re.compile(r"([0-9a-f]{4}):([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])", re.IGNORECASE)
_SIZE: Final = re.compile(r"([0-9]+)([KMGT]?)")
_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

DISPLAY_CLASS: Final = 0x030000
UNASSIGNED_CLASS: Final = 0xFF0000
INTEL: Final = 0x8086

REGISTER_BAR_MINIMUM: Final = 0x4000
"""In bytes: registers, memory, MSI-X table and its pending bits have a page each (`device.py`)."""
_BAR_MAXIMUM: Final = 256 << 20
_BARS: Final = 6
_MSIX_MAXIMUM: Final = 256
_MSI: Final = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True, order=True)
class Address:
    """The address of a function: `0000:01:00.0`."""

    domain: int
    bus: int
    slot: int
    function: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Returns the address in `text`. Raises ValueError with a message for the user."""
        found = _ADDRESS.fullmatch(text)
        if found is None or int(found[3], 16) > 0x1F:
            raise ValueError(f"{text!r} is no PCI address: write it as 0000:01:00.0")
        return cls(*(int(part, 16) for part in found.groups()))

    @property
    def devfn(self) -> int:
        return self.slot << 3 | self.function

    def __str__(self) -> str:
        return f"{self.domain:04x}:{self.bus:02x}:{self.slot:02x}.{self.function}"


class Reset(enum.Enum):
    """The result of a function level reset."""

    WORKS = "works"
    NONE = "none"
    """The device has none: ENOTTY."""
    FAILS_LATER = "fails-later"
    """It works when the device is enabled, and at any other time fails with ETIMEDOUT."""


@dataclass(frozen=True)
class DeviceDescription:
    """One device of a machine. Vendor and device are by default those reserved for experiments."""

    address: Address
    vendor: int = 0x1AF4
    device: int = 0x10F0
    class_code: int = UNASSIGNED_CLASS
    bars: tuple[int, ...] = (REGISTER_BAR_MINIMUM,)
    """In bytes, a power of two each. The first has the registers, the others are plain memory."""
    msix: int = 4
    """Vectors; 0: the device has no MSI-X."""
    msi: int = 0
    """Vectors, a power of two; 0: the device has no MSI."""
    group: int | None = None
    """Number of its iommu group; None: a group of its own."""
    vf_of: Address | None = None
    """The physical function of which it is a virtual function."""
    driver: str | None = None
    """A driver of the kernel that takes the device at every boot, such as `nvme`, or a variant driver of VFIO."""
    reset: Reset = Reset.WORKS
    acs_quirk: bool = False
    """Its isolation depends on a quirk of the kernel, which live update cannot carry."""

    def __post_init__(self) -> None:
        if not self.bars or len(self.bars) > _BARS:
            raise ValueError(f"{self.address}: a device has 1 to {_BARS} BARs")
        for size in self.bars:
            if size & (size - 1) or not 4096 <= size <= _BAR_MAXIMUM:
                raise ValueError(f"{self.address}: a BAR's size is a power of two, 4K to 256M, and not {size}")
        if self.bars[0] < REGISTER_BAR_MINIMUM:
            raise ValueError(f"{self.address}: the first BAR has the registers and cannot be smaller than 16K")
        if not 0 <= self.msix <= _MSIX_MAXIMUM:
            raise ValueError(f"{self.address}: a device has 0 to {_MSIX_MAXIMUM} MSI-X vectors, and not {self.msix}")
        if self.msi and self.msi not in _MSI:
            raise ValueError(f"{self.address}: a device has 0, 1, 2, 4, 8, 16 or 32 MSI vectors, and not {self.msi}")
        if self.vf_of == self.address:
            raise ValueError(f"{self.address} cannot be its own virtual function")

    @property
    def display(self) -> bool:
        return self.class_code >> 16 == DISPLAY_CLASS >> 16


Option = str | int | bool | Sequence[str | int]


def describe(address: str, options: Mapping[str, Option]) -> DeviceDescription:
    """Returns a device from its options in a file of devices. Raises ValueError, which names the wrong option.

    Sizes are numbers of bytes, or strings such as "16K" and "1M"; numbers may be strings such as "0x8086".
    """
    device = DeviceDescription(Address.parse(address))
    fields: dict[str, object] = {}
    for name, value in options.items():
        match name:
            case "vendor" | "device" | "msix" | "msi" | "group":
                fields[name] = _number(name, value)
            case "class":
                fields["class_code"] = _number(name, value)
            case "bars":
                fields["bars"] = _sizes(value)
            case "display":
                if _flag(name, value):
                    fields["class_code"] = DISPLAY_CLASS
            case "vf-of":
                fields["vf_of"] = Address.parse(str(value))
            case "driver":
                fields["driver"] = _word(name, value)
            case "reset":
                fields["reset"] = _reset(value)
            case "acs-quirk":
                fields["acs_quirk"] = _flag(name, value)
            case _:
                raise ValueError(f"{address}: a device has no {name!r}; luoemu run --help lists what it has")
    # Not dataclasses.replace, which is not typed: the fields were typed one by one above.
    return type(device)(**{"address": device.address, **fields})  # type: ignore[arg-type]


def parse_device(text: str) -> DeviceDescription:
    """Returns a device from its options on the command line. Raises ValueError.

    `0000:01:00.0,vendor=0x8086,bars=16K+1M,msix=8,group=7,display,vf-of=…,driver=nvme,reset=none`
    """
    address, *words = text.split(",")
    options: dict[str, Option] = {}
    for word in words:
        name, given, value = word.partition("=")
        if name in options:
            raise ValueError(f"{address}: {name!r} is given twice")
        options[name] = value.split("+") if name == "bars" else value if given else True
    return describe(address, options)


def _number(name: str, value: Option) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        try:
            return int(value, 0)
        except ValueError:
            pass
    raise ValueError(f"{name} is a number, such as 4 or 0x10f0, and not {value!r}")


def _word(name: str, value: Option) -> str:
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_.-]+", value):
        return value
    raise ValueError(f"{name} is a name, and not {value!r}")


def _flag(name: str, value: Option) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError(f"{name} is said or left out, and has no value")


def _reset(value: Option) -> Reset:
    try:
        return Reset(value)
    except ValueError:
        raise ValueError(f"reset is one of {', '.join(kind.value for kind in Reset)}, and not {value!r}") from None


def _sizes(value: Option) -> tuple[int, ...]:
    if isinstance(value, str | int):
        value = (value,)
    sizes = []
    for size in value:
        found = _SIZE.fullmatch(str(size))
        if found is None:
            raise ValueError(f"bars are sizes such as 16K or 1M, and not {size!r}")
        sizes.append(int(found[1]) * _UNITS[found[2]])
    return tuple(sizes)
