"""The time that a preflight takes for an initial RAM disk, in units of `zstd -dc`, which has to do the same unpacking.

The RAM disk is made here, as large as initramfs-tools makes it with `MODULES=most` and firmware: 750 modules and 250
other files of 200 MB, 60 MB with zstd. Their contents are pieces of this machine's programs and libraries.
"""

from __future__ import annotations

import lzma
import os
import random
import resource
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import zstandard

from luod.image import command_line, initrd
from luod.testing.kernel.initramfs import Archive

ROUNDS = 5
RELEASE = "7.3.4-bench"
MODULES, FIRMWARE = (750, 170_000), (250, 300_000)
"""The number of files, and the mean of their bytes."""
_SEED = 7
_MATERIAL = 64 << 20
_LARGE = 200_000


def table() -> dict[str, float]:
    """Prints the figures, and returns them by the names of docs/performance.md."""
    print(f"\nThe preflight of an initial RAM disk: the shortest of {ROUNDS}, processor time")
    print(f"  {'modules':>10}{'MB':>8}{'zstd':>8}{'zstd -dc s':>12}{'preflight s':>13}{'ratio':>8}")
    figures, longest = {}, 0.0
    zstd = shutil.which("zstd")
    with tempfile.TemporaryDirectory() as folder:
        for packing in ("", ".xz"):
            disk = archive(packing)
            path = Path(folder, "initrd")
            path.write_bytes(zstandard.ZstdCompressor(level=3, threads=-1).compress(disk))
            floor = shortest(partial(unpack, zstd, path))
            taken = shortest(partial(preflight, path))
            sizes = f"{len(disk) / 1e6:8.0f}{path.stat().st_size / 1e6:8.0f}"
            print(f"  {'.ko' + packing:>10}{sizes}{floor:12.3f}{taken:13.3f}{taken / floor:8.2f}")
            figures[f"preflight of an initial RAM disk, .ko{packing}"] = taken / floor
            longest = max(longest, taken)
    figures["preflight of an initial RAM disk, the longer"] = longest
    return figures


def shortest(call: Callable[[], None]) -> float:
    """Returns the processor time of a call, with its child processes, in seconds."""
    taken = []
    for _ in range(ROUNDS):
        begun = processor()
        call()
        taken.append(processor() - begun)
    return min(taken)


def processor() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def unpack(zstd: str | None, path: Path) -> None:
    """Runs `zstd -dc`; without the program, its library."""
    if zstd is not None:
        subprocess.run([zstd, "-dc", path], stdout=subprocess.DEVNULL, check=True)
    else:
        with zstandard.ZstdDecompressor().stream_reader(path.read_bytes()) as reader:
            for _piece in iter(lambda: reader.read(1 << 17), b""):
                pass


def preflight(path: Path) -> None:
    disk = initrd.read(path.read_bytes())
    judged = initrd.judge(disk, RELEASE, command_line.line("quiet"))
    assert list(judged.formats) == ["vfio_pci"]
    assert "vfio_pci" in judged.loaded


def archive(packing: str) -> bytes:
    """Returns the RAM disk as a cpio archive, with its modules packed with xz for ".xz"."""
    chosen = random.Random(_SEED)
    material = contents()
    made = Archive()
    folder = f"usr/lib/modules/{RELEASE}/kernel/drivers"
    for name in directories(f"{folder}/vfio", f"{folder}/net", "usr/lib/firmware", "conf"):
        made.add(name, stat.S_IFDIR | 0o755)
    made.add("init", stat.S_IFREG | 0o755, data=b"#!/bin/sh\n")
    made.add("conf/modules", stat.S_IFREG | 0o644, data=b"vfio-pci\n")
    names = [f"{folder}/vfio/vfio-pci.ko", *(f"{folder}/net/m{number}.ko" for number in range(MODULES[0]))]
    for name in names:
        data = (
            b"\x7fELF" + piece(material, chosen, MODULES[1]) + b"\0" + name.endswith("vfio-pci.ko") * b"vfio-pci-v1\0"
        )
        data = lzma.compress(data, check=lzma.CHECK_CRC32, preset=0) if packing else data
        made.add(name + packing, stat.S_IFREG | 0o644, data=data)
    for number in range(FIRMWARE[0]):
        data = piece(material, chosen, FIRMWARE[1])
        made.add(f"usr/lib/firmware/f{number}.bin", stat.S_IFREG | 0o644, data=data)
    return made.finished()


def directories(*paths: str) -> list[str]:
    parts = [path.split("/")[:depth] for path in paths for depth in range(1, path.count("/") + 2)]
    return sorted({"/".join(names) for names in parts})


def contents() -> bytes:
    """Returns the beginnings of large files of /usr/lib, which are mostly machine code."""
    found = bytearray()
    for where, folders, files in os.walk("/usr/lib"):
        folders.sort()
        for path in (Path(where, name) for name in sorted(files)):
            if path.is_file() and not path.is_symlink() and path.stat().st_size > _LARGE:
                with open(path, "rb") as file:
                    found += file.read(4 * _LARGE)
        if len(found) > _MATERIAL:
            break
    return bytes(found)


def piece(material: bytes, chosen: random.Random, mean: int) -> bytes:
    size = int(chosen.expovariate(1 / mean)) + 1000
    at = chosen.randrange(max(1, len(material) - size))
    return material[at : at + size]
