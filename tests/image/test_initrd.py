"""luod.image.initrd on initial RAM disks built here: several archives, every packing, every list, and hostile ones."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from collections.abc import Callable

import lz4.block
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as some

from luod.errors import ImageError
from luod.image import initrd
from luod.image.initrd import Initrd, read

MODULE = b"\x7fELF of a module\0vfio-pci-v1\0license=GPL\0"
PATH = "usr/lib/modules/7.3.4/kernel/drivers/vfio/pci/vfio-pci.ko"


def cpio(files: dict[str, bytes]) -> bytes:
    """An archive as `cpio -H newc` writes it."""
    out = b""
    for name, content in [*files.items(), ("TRAILER!!!", b"")]:
        encoded = name.encode() + b"\0"
        mode = 0o040755 if name.endswith("/") else 0o100644
        fields = (1, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        out += bytes(-len(out) % 4) + content + bytes(-len(content) % 4)
    return out + bytes(-len(out) % 512)


def lz4_legacy(data: bytes) -> bytes:
    block: bytes = lz4.block.compress(data, store_size=False)
    return b"\x02\x21\x4c\x18" + struct.pack("<I", len(block)) + block


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "not": bytes,
    "gzip": gzip.compress,
    "xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32),
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "bzip2": bz2.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "lz4": lz4_legacy,
}


@pytest.mark.parametrize("packer", PACKERS)
def test_a_module_in_its_list_is_found_whatever_packs_it(packer: str) -> None:
    disk = PACKERS[packer](cpio({"etc/": b"", PATH: MODULE, "conf/modules": b"# comment\nvfio-pci ids=8086:1\n"}))
    found = read(disk)
    assert found == Initrd({"vfio_pci": ("vfio-pci-v1",)}, frozenset({"vfio_pci"}))


@pytest.mark.parametrize("packer", PACKERS)
def test_archives_follow_one_another_with_zeros_in_between(packer: str) -> None:
    """As microcode in front of the RAM disk proper does, which is not packed."""
    early = cpio({"kernel/x86/microcode/GenuineIntel.bin": b"\1" * 5000})
    last = cpio({"etc/modules-load.d/vfio.conf": b"vfio-pci\n"})
    disk = early + bytes(516) + PACKERS[packer](cpio({PATH: MODULE})) + bytes(3) + last + bytes(700)
    found = read(disk)
    assert found == Initrd({"vfio_pci": ("vfio-pci-v1",)}, frozenset({"vfio_pci"}))


@pytest.mark.parametrize(
    ("suffix", "pack"), [(".xz", lzma.compress), (".zst", zstandard.ZstdCompressor().compress), (".gz", gzip.compress)]
)
def test_modules_may_be_packed_themselves(suffix: str, pack: Callable[[bytes], bytes]) -> None:
    assert read(cpio({PATH + suffix: pack(MODULE)})).formats == {"vfio_pci": ("vfio-pci-v1",)}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("conf/modules", b"vfio-pci\n"),
        ("etc/modules-load.d/a.conf", b"; comment\n\nvfio_pci\n"),
        ("usr/lib/modules-load.d/a.conf", b"vfio_pci"),
        ("config", b'EARLYHOOKS=""\nMODULES="ext4 vfio-pci"\n'),
        ("config", b"MODULES=(vfio_pci)\n"),
    ],
)
def test_every_kind_of_list_is_read(name: str, content: bytes) -> None:
    assert "vfio_pci" in read(cpio({name: content})).loaded


@pytest.mark.parametrize("word", ["modules_load=a,vfio-pci", "rd.modules_load=vfio_pci", "rd.driver.pre=vfio-pci"])
def test_the_command_line_loads_modules_too(word: str) -> None:
    assert "vfio_pci" in read(cpio({}), f"quiet {word} panic=1").loaded


def test_a_module_brings_what_it_depends_on() -> None:
    needs = (
        b"kernel/a/mlx5-vfio-pci.ko.xz: kernel/a/vfio-pci-core.ko.xz kernel/a/vfio.ko\nkernel/a/vfio.ko:\nnonsense\n"
    )
    disk = cpio({"lib/modules/7.3.4/modules.dep": needs, "conf/modules": b"mlx5_vfio_pci\n"})
    assert read(disk).loaded == {"mlx5_vfio_pci", "vfio_pci_core", "vfio"}


def test_a_module_that_nothing_loads_is_not_loaded() -> None:
    found = read(cpio({PATH: MODULE, "bin/conf/modules": b"vfio_pci"}))
    assert found == Initrd({"vfio_pci": ("vfio-pci-v1",)}, frozenset())


def test_an_empty_disk_is_one() -> None:
    assert read(b"").formats == read(bytes(4096)).formats == {}


@pytest.mark.parametrize("packer", PACKERS)
def test_a_disk_cut_off_is_an_image_error(packer: str) -> None:
    disk = PACKERS[packer](cpio({PATH: MODULE, "conf/modules": bytes(range(256)) * 20}).rstrip(b"\0"))
    for length in range(8, len(disk) - 8, max(1, len(disk) // 60)):
        with pytest.raises(ImageError):
            read(disk[:length])


@pytest.mark.parametrize("data", [b"070701" + b"z" * 104, b"070701" + b"F" * 104, b"#!/bin/sh\n" * 20])
def test_what_is_no_disk_is_an_image_error(data: bytes) -> None:
    with pytest.raises(ImageError):
        read(data)


def test_a_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initrd, "UNPACKED_MAX", 4 << 20)
    with pytest.raises(ImageError, match="more than"):
        read(gzip.compress(cpio({"big": bytes(6 << 20)})))


def test_a_module_that_is_a_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initrd, "MODULE_MAX", 1 << 20)
    with pytest.raises(ImageError, match="more than"):
        read(cpio({PATH + ".xz": lzma.compress(bytes(2 << 20))}))


@given(data=some.binary(max_size=600), packer=some.sampled_from(sorted(PACKERS)))
def test_random_bytes_are_read_or_refused(data: bytes, packer: str) -> None:
    try:
        read(PACKERS[packer](data))
    except ImageError:
        return


@given(random=some.data())
def test_a_damaged_disk_is_read_or_refused(random: some.DataObject) -> None:
    disk = bytearray(cpio({PATH: MODULE, "conf/modules": b"vfio-pci\n"}))
    for _ in range(random.draw(some.integers(1, 5))):
        disk[random.draw(some.integers(0, len(disk) - 1))] = random.draw(some.integers(0, 255))
    try:
        read(bytes(disk))
    except ImageError:
        return
