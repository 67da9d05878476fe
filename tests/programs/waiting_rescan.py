"""Removes and rescans of PCI devices that wait for each other. Prints the answers as JSON.

Arguments: the PCI addresses of two devices that vfio-pci has.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tests.programs import raw_vfio
from tests.programs.waiting import Later, write_to

first, second = sys.argv[1:]
pci = Path("/sys/bus/pci")
driver = pci / "drivers/vfio-pci"


def remove(address: str) -> object:
    return write_to(pci / "devices" / address / "remove", "1")


def rescan() -> object:
    return write_to(pci / "rescan", "1")


def unbind(address: str) -> object:
    return write_to(driver / "unbind", address)


def there() -> list[bool]:
    return [(pci / "devices" / address).exists() for address in (first, second)]


def fresh() -> int:
    """Returns an open file of the first device. vfio-pci has both."""
    rescan()
    for address in (first, second):
        write_to(pci / "devices" / address / "driver_override", "vfio-pci")
        write_to(pci / "drivers_probe", address)
    return os.open(raw_vfio.path_of(first), os.O_RDWR)


def behind(*begin: object, then: object) -> list[object]:
    """Returns the answers to `begin`, calls that wait in turn, and to `then`, at first and in the end."""
    file = fresh()
    waiting = []
    for call in (*begin, then):
        assert callable(call)
        waiting.append(Later(call))
    before = there()
    os.close(file)
    for each in waiting:
        each.join()
    return [[[each.soon, each.result] for each in waiting], before, there()]


answers = {
    "a rescan behind a remove": behind(lambda: remove(first), then=rescan),
    "a remove behind a remove": behind(lambda: remove(first), then=lambda: remove(second)),
    "an unbind behind a remove": behind(lambda: remove(first), then=lambda: unbind(second)),
    "a rescan behind an unbind": behind(lambda: unbind(first), then=rescan),
    "a remove behind an unbind": behind(lambda: unbind(first), then=lambda: remove(second)),
    "a rescan behind both": behind(lambda: unbind(first), lambda: remove(first), then=rescan),
    "another remove behind both": behind(lambda: unbind(first), lambda: remove(first), then=lambda: remove(second)),
    "a remove behind a rescan": behind(lambda: remove(first), rescan, then=lambda: remove(second)),
}
print(json.dumps(answers))
