"""Devices of the emulated machine: `table` for `make bench`; inside one, `python3 -m bench.vfio calls | update NOTES`.

`calls` are medians in microseconds; `update` are seconds, of 64 devices through a kexec.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import resource
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.inside import median
from luod import kexec
from luod.liveupdate import LiveUpdate, OutgoingSession
from luod.uapi import iommufd, vfio

_CONFIG = vfio.VFIO_PCI_CONFIG_REGION_INDEX << vfio.PCI_OFFSET_SHIFT
_SCRATCH = 0x38
_DOORBELL, _INTERRUPT = 0x08, 4
_COUNT = 64
ONE = ("--vfio", "0000:01:00.0")
NAMES = [f"0000:{1 + number // 8:02x}:00.{number % 8}" for number in range(_COUNT)]
MANY = tuple(word for name in NAMES for word in ("--vfio", name))


def table(inside: Callable[..., dict[str, float]]) -> None:
    """Prints the figures.

    `inside(*arguments, module=, options=)` returns those of a module in a machine with options.
    """
    print("\nDevices: one call, p50 in us")
    for name, figure in inside("calls", module="bench.vfio", options=ONE).items():
        print(f"  {name:44}{figure:9.2f}")
    print(f"\n{_COUNT} devices through an update, seconds")
    with tempfile.TemporaryDirectory() as folder:
        for name, figure in inside("update", f"{folder}/notes.json", module="bench.vfio", options=MANY).items():
            print(f"  {name:44}{figure:9.3f}")


def take(device: str) -> str:
    """Returns the path of its character device."""
    sysfs = Path("/sys/bus/pci/devices", device)
    (sysfs / "driver_override").write_text("vfio-pci")
    Path("/sys/bus/pci/drivers_probe").write_text(device)
    return f"/dev/vfio/devices/{os.listdir(sysfs / 'vfio-dev')[0]}"


def bind(file: int, context: int) -> None:
    layout = vfio.DEVICE_BIND_IOMMUFD
    fcntl.ioctl(file, vfio.VFIO_DEVICE_BIND_IOMMUFD, bytearray(layout.pack(layout.size, 0, context, 0, 0)))


def calls() -> dict[str, float]:
    file = os.open(take("0000:01:00.0"), os.O_RDWR)
    context = os.open(iommufd.DEVICE, os.O_RDWR)
    bind(file, context)
    info = bytearray(vfio.DEVICE_INFO.pack(vfio.DEVICE_INFO.size, 0, 0, 0, 0, 0))
    ring = struct.pack("<I", _INTERRUPT)
    figures = {
        "an ioctl (VFIO_DEVICE_GET_INFO)": median(lambda: fcntl.ioctl(file, vfio.VFIO_DEVICE_GET_INFO, info)),
        "pread of configuration space": median(lambda: os.pread(file, 4, _CONFIG)),
        "pwrite of a register": median(lambda: os.pwrite(file, bytes(8), _SCRATCH)),
        "a command, by pwrite": median(lambda: os.pwrite(file, ring, _DOORBELL)),
    }
    plain = mmap.mmap(-1, 16384)
    figures["a store, to memory of the process"] = median(lambda: _store(plain))
    try:
        bar = mmap.mmap(file, 16384)
    except OSError:
        return figures
    figures["a store, to the mapped BAR"] = median(lambda: _store(bar))

    def command() -> None:
        bar[_DOORBELL : _DOORBELL + 4] = ring
        while bar[_DOORBELL]:
            pass

    figures["a command, by a store, until it is seen done"] = median(command, 100)
    return figures


def _store(memory: mmap.mmap) -> None:
    memory[_SCRATCH : _SCRATCH + 8] = b"scratchy"


def update(notes: Path) -> dict[str, float]:
    """Returns the seconds of an update. `notes` is a file that outlives the kexec."""
    started = time.clock_gettime(time.CLOCK_BOOTTIME)
    begun = time.perf_counter()
    paths = [take(name) for name in NAMES]
    taken = time.perf_counter() - begun
    context = os.open(iommufd.DEVICE, os.O_RDWR)
    if os.environ["LUOEMU_BOOT"] == "1":
        begun = time.perf_counter()
        files = [os.open(path, os.O_RDWR) for path in paths]
        for file in files:
            bind(file, context)
        bound = time.perf_counter()
        with LiveUpdate() as device:
            session = OutgoingSession(device.create_session("devices").detach(), manifest=False)
        for token, file in enumerate(files):
            session.preserve(file, token)
        figures = {
            "driver_override and drivers_probe": taken,
            "open and BIND_IOMMUFD": bound - begun,
            "PRESERVE_FD": time.perf_counter() - bound,
        }
        with open(os.environ["LUOEMU_KERNEL"], "rb") as image:
            kexec.load(image.fileno(), None, Path("/proc/cmdline").read_text().strip())
        notes.write_text(json.dumps({**figures, "jump, until init runs": -time.clock_gettime(time.CLOCK_BOOTTIME)}))
        kexec.jump()
    figures = dict(json.loads(notes.read_text()))
    notes.unlink()
    figures["jump, until init runs"] += started
    begun = time.perf_counter()
    with LiveUpdate() as device, device.retrieve_session("devices") as incoming:
        retrieved = [incoming.retrieve(token) for token in range(_COUNT)]
        figures["RETRIEVE_FD"] = time.perf_counter() - begun
        begun = time.perf_counter()
        for each in retrieved:
            bind(each.fileno(), context)
        figures["BIND_IOMMUFD of what came back"] = time.perf_counter() - begun
        begun = time.perf_counter()
        incoming.finish(discard=True)
        figures["FINISH"] = time.perf_counter() - begun
    for each in retrieved:
        each.close()
    return figures


def main() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(json.dumps(calls() if sys.argv[1] == "calls" else update(Path(sys.argv[2]))))


if __name__ == "__main__":
    main()
