"""The cost of kexec_file_load(2), and of what luod does while guests are paused instead: it reads the count of loads.

    .venv/bin/python -m luod.testing.kernel -- .venv/bin/python -m bench.image

measures on the real kernel in QEMU, with an image and an initial RAM disk of a distribution's size, in place of the
small ones of the machine. Processors are emulated there, so the figures are to be compared with each other.
"""

from __future__ import annotations

import os
import statistics
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from luod import kexec

KERNEL_BYTES, INITRD_BYTES = 15 << 20, 60 << 20
INIT_SIZE = 0x260
"""The place in the header of the memory that the kernel needs."""
RUNS = 7


def milliseconds(act: Callable[[], object]) -> float:
    taken = []
    for _ in range(RUNS):
        begun = time.perf_counter()
        act()
        taken.append(1000 * (time.perf_counter() - begun))
    return statistics.median(taken)


def main() -> None:
    image = bytearray(Path(os.environ["LUOD_KERNEL"]).read_bytes().ljust(KERNEL_BYTES, b"\0"))
    struct.pack_into("<I", image, INIT_SIZE, 4 * KERNEL_BYTES)  # the kernel refuses an image that is larger than this
    with tempfile.TemporaryDirectory(dir="/run") as folder:
        kernel, initrd = Path(folder, "kernel"), Path(folder, "initrd")
        kernel.write_bytes(image)
        initrd.write_bytes(os.urandom(INITRD_BYTES))
        with kernel.open("rb") as first, initrd.open("rb") as second:
            print(f"kexec_file_load of {kernel.stat().st_size} and {initrd.stat().st_size} bytes, median of {RUNS}, ms")
            whole = kernel.read_bytes() + initrd.read_bytes()
            print(f"  {'one copy in memory':24}{milliseconds(lambda: bytearray(whole)):10.3f}")
            print(f"  {'load':24}{milliseconds(lambda: kexec.load(first, second, 'liveupdate=on kho=on')):10.3f}")
            assert kexec.count_loads() is not None
            print(f"  {'count of loads':24}{milliseconds(kexec.loads_left):10.3f}")
    kexec.unload()


if __name__ == "__main__":
    main()
