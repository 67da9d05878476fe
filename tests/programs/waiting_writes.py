"""Writes to sysfs while an unbind or a removal of a VFIO device waits for its files. Prints the answers as JSON.

Arguments: the device's PCI address, and the number of its iommu group.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from pathlib import Path

from luod.uapi import vfio
from tests.programs import raw_vfio
from tests.programs.waiting import Later, attempt, can_open, write, write_to

OVERRIDE = "vfio-pci"
IDS = "ffff 1234"

address, group = sys.argv[1:]
device = Path("/sys/bus/pci/devices", address)
driver = Path("/sys/bus/pci/drivers/vfio-pci")


def fresh() -> tuple[int, Path]:
    """Returns an open file of the device, which vfio-pci has, and its path."""
    write_to(Path("/sys/bus/pci/rescan"), "1")
    write_to(device / "driver_override", OVERRIDE)
    write_to(Path("/sys/bus/pci/drivers_probe"), address)
    (name,) = os.listdir(device / "vfio-dev")
    path = Path("/dev/vfio/devices", name)
    return os.open(path, os.O_RDWR), path


def ask(begin: tuple[Path, str], request: tuple[Path, str]) -> list[object]:
    """Returns the answers to `begin`, which waits, and to `request` in two ways: opened after it, and before."""
    file, path = fresh()
    before = os.open(request[0], os.O_WRONLY)
    writes = [
        Later(lambda: write_to(*begin)),
        Later(lambda: write_to(*request)),
        Later(lambda: write(before, request[1])),
    ]
    there = [each.exists() for each in (device, request[0], device / "driver")]
    nodes = [can_open(path), can_open(f"/dev/vfio/{group}")]
    os.close(file)
    for each in writes:
        each.join()
    return [[[each.soon, each.result] for each in writes], there, nodes, device.exists()]


def use_while_it_waits() -> list[object]:
    """Returns what the user of a bound device gets while its unbind waits."""
    file, _ = fresh()
    context = raw_vfio.open_iommufd()
    raw_vfio.bind(file, context)
    waiting = Later(lambda: write_to(*unbind))
    reset = vfio.PCI_HOT_RESET
    got = [
        attempt(lambda: fcntl.ioctl(file, vfio.VFIO_DEVICE_RESET)),
        attempt(lambda: fcntl.ioctl(file, vfio.VFIO_DEVICE_PCI_HOT_RESET, reset.pack(reset.size, 0, 0))),
        attempt(lambda: raw_vfio.get_info(file)[2]),
        can_open(f"/dev/vfio/{group}"),
    ]
    os.close(file)
    waiting.join()
    os.close(context)
    return [waiting.soon, waiting.result, *got]


def use_a_group_while_it_waits() -> list[object]:
    """Returns what the group of a device gives while the unbind of the device waits."""
    file, _ = fresh()
    waiting = Later(lambda: write_to(*unbind))
    opened, container = raw_vfio.open_type1(int(group))
    got = attempt(lambda: raw_vfio.device_of(opened, address))
    os.close(file)
    waiting.join()
    os.close(container)
    after = attempt(lambda: raw_vfio.device_of(opened, address))
    os.close(opened)
    return [waiting.soon, waiting.result, got, after, can_open(f"/dev/vfio/{group}")]


unbind = (driver / "unbind", address)
remove = (device / "remove", "1")
requests = {
    "unbind": unbind,
    "bind": (driver / "bind", address),
    "probe": (Path("/sys/bus/pci/drivers_probe"), address),
    "new id": (driver / "new_id", IDS),
    "override": (device / "driver_override", OVERRIDE),
    "override removed": (device / "driver_override", "\n"),
    "override too long": (device / "driver_override", "x" * 4095),
    "override of one line": (device / "driver_override", OVERRIDE + "\n" + "x" * 4085),
    "reset": (device / "reset", "1"),
    "reset with 0": (device / "reset", "0"),
    "remove": remove,
    "remove with 0": (device / "remove", "0"),
    "remove with -1": (device / "remove", "-1"),
}
answers = {"use": use_while_it_waits(), "use of the group": use_a_group_while_it_waits()}
for first, begin in (("unbind", unbind), ("remove", remove)):
    for name, request in requests.items():
        if (first, name) == ("remove", "bind"):
            continue  # on a real kernel either may get the lock first
        answers[f"{first}, {name}"] = ask(begin, request)
        if name == "new id":
            write_to(driver / "remove_id", IDS)
print(json.dumps(answers))
