"""luod.image on images built here, whole and damaged, and on payloads made by the real packers."""

from __future__ import annotations

import base64
import bz2
import contextlib
import gzip
import hashlib
import lzma
import struct
import sys
import tracemalloc

import lz4.block
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as some

from luod import image
from luod.emulator.machine import stub
from luod.errors import ImageError
from luod.frozen import replace
from luod.image import packed
from luod.image.contents import FAMILIES, formats, formats_in

KERNEL = (
    b"\x7fELF Linux version 7.3.4-test (someone@somewhere) #1 SMP\n\0 luo-v5\0kho-v3\0memfd-v2\0kho-v3\0"
    b"not-luo-v9\0luo-v6x\0luo-v\0kho-v77777777\0\0memfd-v1 is no string of its own"
)

PACKED_TEXT = (
    b"".join(b"line %d of a kernel that is not one\0" % (i % 7) for i in range(40))
    + b"luo-v5\0kho-v3\0memfd-v2\0"
    + b"a" * 300
    + hashlib.shake_128(b"x").digest(40)
)
LZ4 = base64.b64decode(  # lz4 1.9.4, `lz4 -l -9`
    "AiFMGJQAAADxFGxpbmUgMCBvZiBhIGtlcm5lbCB0aGF0IGlzIG5vdCBvbmUAIwAfMSMADx8yIwAPHzMjAA8fNCMADx81IwAPHzYjAAoP9QD///"
    "//df8IdW8tdjUAa2hvLXYzAG1lbWZkLXYyAGEBAP8Z8BnkcsXjlPMP+NXTOAP5WT5j4vOGLUikHvhB5NZIavSZcmQPFTzL8uYM"
)
ZSTD = base64.b64decode(  # zstd 1.5.4, `zstd -19`
    "KLUv/QRoDQQAVAZsaW5lIDAgb2YgYSBrZXJuZWwgdGhhdCBpcyBub3Qgb25lADEyMzQ1NnVvLXY1AGtoMwBtZW1mZC12MgBh5HLF45TzD/jV0z"
    "gD+Vk+Y+Lzhi1IpB74QeTWSGr0mXJkDxU8y/LmDAoAKDg1qQAOBG/+APcBhwFHgHPAYcDFzKWerMgh4A=="
)


def appended(packed: bytes, unpacked: bytes = KERNEL) -> bytes:
    """Returns the payload as a kernel's build makes it: the unpacked length follows, except for gzip, which has it
    anyway.
    """
    return packed + struct.pack("<I", len(unpacked))


PACKED = {
    "none": KERNEL,
    "gzip": gzip.compress(KERNEL),
    "xz": appended(lzma.compress(KERNEL)),
    "lzma": appended(lzma.compress(KERNEL, lzma.FORMAT_ALONE)),
    "bzip2": appended(bz2.compress(KERNEL)),
    "zstd": appended(zstandard.ZstdCompressor(write_checksum=True).compress(KERNEL)),
}
PACKERS = [*PACKED, "lz4"]
PACKERS.remove("none")


def packed_by(compression: str) -> bytes:
    return LZ4 if compression == "lz4" else PACKED[compression]


def bzimage(payload: bytes = PACKED["gzip"], *, setup_sectors: int = 3, **fields: int) -> bytes:
    """Returns a bzImage that kexec_file_load accepts; `fields` are bytes to change, `x1fe=0` the one at 0x1fe."""
    setup = bytearray(((setup_sectors or 4) + 1) * 512)
    setup[0x1F1] = setup_sectors
    setup[0x1FE:0x200] = b"\x55\xaa"
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, 0x020F)
    struct.pack_into("<H", setup, 0x20E, 0x100)
    setup[0x300:0x320] = b"7.3.4-test (a@b) #1\xff".ljust(32, b"\0")
    setup[0x211] = 1
    setup[0x234] = 1
    struct.pack_into("<H", setup, 0x236, 3)
    struct.pack_into("<II", setup, 0x248, 64, len(payload))
    for name, value in fields.items():
        setup[int(name[1:], 16)] = value
    return bytes(setup) + bytes(64) + payload


def test_the_header_is_described() -> None:
    found = image.describe(bzimage())
    assert found == image.Image(
        protocol=(2, 15),
        relocatable=True,
        version="7.3.4-test (a@b) #1\\xff",
        payload_offset=2048 + 64,
        payload_length=len(PACKED["gzip"]),
        compression="gzip",
        init_size=0,
    )


def test_no_setup_sectors_mean_four() -> None:
    assert image.describe(bzimage(setup_sectors=0)).payload_offset == 5 * 512 + 64


def test_no_version_in_the_header_is_an_empty_one() -> None:
    assert image.describe(bzimage(x20e=0, x20f=0)).version == ""


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"x202": 0}, "HdrS"),
        ({"x1fe": 0}, "boot flag"),
        ({"x206": 0x0B}, r"protocol 2\.11"),
        ({"x211": 0}, "zImage"),
        ({"x236": 2}, "64-bit"),
        ({"x236": 1}, "4 GiB"),
        ({"x234": 0}, "relocatable"),
        ({"x24b": 0xFF}, "cut off"),
        ({"x24f": 0x01}, "cut off"),
        ({"x24c": 0, "x24d": 0}, "cut off"),
    ],
)
def test_what_kexec_file_load_refuses_is_refused_with_the_reason(fields: dict[str, int], reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        image.describe(bzimage(PACKED["gzip"], **fields))


@pytest.mark.parametrize("data", [b"", b"\x7fELF" + bytes(5000), bytes(0x267), b"#!/bin/sh\n"])
def test_what_is_no_bzimage_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError, match="not a bzImage"):
        image.describe(data)


def test_an_unknown_compression_is_refused() -> None:
    with pytest.raises(ImageError, match="0011223344556677"):
        image.describe(bzimage(bytes.fromhex("00112233445566778899")))


@pytest.mark.parametrize("compression", list(PACKED))
def test_each_compression_is_recognised_and_unpacked(compression: str) -> None:
    data = bzimage(PACKED[compression])
    found = image.describe(data)
    assert found.compression == compression
    assert image.unpack(data, found) == KERNEL


def test_lz4_as_the_real_packer_makes_it_is_unpacked() -> None:
    data = bzimage(appended(LZ4, PACKED_TEXT))
    found = image.describe(data)
    assert found.compression == "lz4"
    assert image.unpack(data, found) == PACKED_TEXT


def test_lz4_of_several_blocks_is_unpacked() -> None:
    data = bzimage(appended(LZ4 + LZ4[4:], PACKED_TEXT * 2))
    assert image.unpack(data, image.describe(data)) == PACKED_TEXT * 2


def test_zstd_as_the_real_packer_makes_it_is_unpacked() -> None:
    data = bzimage(appended(ZSTD, PACKED_TEXT))
    found = image.describe(data)
    assert found.compression == "zstd"
    assert image.unpack(data, found) == PACKED_TEXT


@pytest.mark.parametrize("module", ["zstandard", "lz4"])
def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    data = bzimage(packed_by("lz4" if module == "lz4" else "zstd"))
    with pytest.raises(ImageError) as caught:
        image.unpack(data, image.describe(data))
    assert f"apt install python3-{module}" in caught.value.hint
    assert "pip install 'luod[daemon]'" in caught.value.hint


def test_lzo_cannot_be_read() -> None:
    data = bzimage(b"\x89LZO\0\r\n\x1a\n")
    with pytest.raises(ImageError, match="lzo"):
        image.unpack(data, image.describe(data))


@pytest.mark.parametrize("compression", PACKERS)
def test_a_payload_cut_off_is_an_image_error(compression: str) -> None:
    whole = packed_by(compression)
    for length in range(10, len(whole) - 12, 7):
        data = bzimage(whole[:length])
        found = image.describe(data)
        with pytest.raises(ImageError):
            image.unpack(data, found)


@pytest.mark.parametrize("compression", PACKERS)
@given(random=some.data())
def test_a_damaged_payload_is_an_image_error_or_something_else_unpacked(
    compression: str, random: some.DataObject
) -> None:
    damaged = bytearray(packed_by(compression))
    for _ in range(random.draw(some.integers(1, 4))):
        damaged[random.draw(some.integers(8, len(damaged) - 1))] = random.draw(some.integers(0, 255))
    data = bzimage(bytes(damaged))
    found = image.describe(data)
    with contextlib.suppress(ImageError):
        assert len(image.unpack(data, found)) <= packed.PAYLOAD_MAX


@pytest.mark.parametrize("compression", PACKERS)
def test_a_bomb_is_refused_in_bounded_memory(monkeypatch: pytest.MonkeyPatch, compression: str) -> None:
    monkeypatch.setattr(packed, "PAYLOAD_MAX", 16 << 20)
    zeros = bytes(32 << 20)
    match compression:
        case "gzip":
            bomb = gzip.compress(zeros, 1)
        case "xz":
            bomb = lzma.compress(zeros, preset=0)
        case "lzma":
            bomb = lzma.compress(zeros, lzma.FORMAT_ALONE, preset=0)
        case "bzip2":
            bomb = bz2.compress(zeros)
        case "zstd":
            bomb = zstandard.ZstdCompressor(level=1).compress(zeros)
        case _:
            block = lz4.block.compress(zeros[: 8 << 20], store_size=False)
            bomb = b"\x02\x21\x4c\x18" + (struct.pack("<I", len(block)) + block) * 4
    del zeros
    data = bzimage(bomb)
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match="more than"):
            image.unpack(data, image.describe(data))
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("compression", PACKERS)
def test_a_stream_ends_where_the_next_thing_begins(compression: str) -> None:
    alone = packed_by(compression)
    if compression not in ("gzip", "lz4"):
        alone = alone[:-4]
    stream = packed.Stream(alone + bytes(9), compression)
    assert b"".join(stream) == (PACKED_TEXT if compression == "lz4" else KERNEL)
    assert stream.end == len(alone)


def test_the_unpacked_kernel_tells_its_release_and_its_formats() -> None:
    found = image.contents(KERNEL)
    banner = "Linux version 7.3.4-test (someone@somewhere) #1 SMP"
    assert found == image.Contents("7.3.4-test", ("kho-v3", "luo-v5", "memfd-v2"), banner)
    assert image.contents(b"") == image.Contents("", ())


def test_the_build_ids_of_a_kernel_are_found_in_their_notes() -> None:
    def note(id: bytes, name: bytes = b"GNU\0") -> bytes:
        return struct.pack("<III", len(name), len(id), 3) + name + id

    own, of_vdso = bytes(range(20)), bytes(range(10, 30))
    payload = b"x" * 5 + note(own) + note(b"Xen", b"Xen\0") + note(of_vdso) + b"GNU\0" + note(own[:19])

    assert image.contents(payload).build_ids == (own.hex(), of_vdso.hex())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_format_is_found_wherever_pieces_end(family: str) -> None:
    name = f"{family}{'_' if '_' in family else '-'}v12"
    data = b"luo-v1" * 20 + b"\0" + name.encode() + b"\0" + b"x" * 100

    assert formats(data) == (name,)
    for at in range(len(data)):
        assert formats_in((data[:at], data[at:])) == (name,)
    assert formats_in(data[at : at + 1] for at in range(len(data))) == (name,)


@pytest.mark.parametrize("text", [b"xluo-v5\0", b"luo-v5", b"luo-v123456\0", b"luo-v5x\0", b"a-luo-v5\0", b"luo_v5x\0"])
def test_what_only_contains_a_format_is_not_one(text: bytes) -> None:
    data = b"x" * 50 + text + b"y" * 50
    assert formats(data) == ()
    for at in range(len(data)):
        assert formats_in((data[:at], data[at:])) == ()


@given(data=some.binary(max_size=0x400))
def test_random_headers_are_described_or_refused(data: bytes) -> None:
    start = bytearray(bzimage())
    start[0x1F1 : 0x1F1 + len(data)] = data
    start[0x202:0x206] = b"HdrS"
    try:
        found = image.describe(bytes(start))
    except ImageError:
        return
    assert found.payload_offset + found.payload_length <= len(start)


def test_the_emulated_machines_kernel_is_read_like_any_other() -> None:
    data = stub.bzimage(release="7.4.0-rc1", formats=("memfd-v3", "kho-v4", "luo-v5"))
    found = image.describe(data)
    assert (found.compression, found.version.partition(" ")[0]) == ("gzip", "7.4.0-rc1")
    says = image.contents(image.unpack(data, found))
    assert (says.release, says.formats) == ("7.4.0-rc1", ("kho-v4", "luo-v5", "memfd-v3"))


def test_facts_of_one_image_do_not_open_another() -> None:
    found = replace(image.describe(bzimage()), payload_offset=10**9)
    with pytest.raises(ImageError):
        image.unpack(b"short", found)


def test_the_configuration_is_read_where_the_kernel_carries_it() -> None:
    text = (
        b'#\n# Linux/x86 7.3.4\n#\nCONFIG_LIVEUPDATE=y\n# CONFIG_KEXEC is not set\nCONFIG_HOST="a b"\nCONFIG_HZ=250\n'
    )
    kernel = KERNEL + b"IKCFG_ST" + gzip.compress(text) + b"IKCFG_ED" + KERNEL
    assert image.contents(kernel).options == {
        "CONFIG_LIVEUPDATE": "y",
        "CONFIG_KEXEC": "n",
        "CONFIG_HOST": "a b",
        "CONFIG_HZ": "250",
    }
    assert image.contents(KERNEL).options is None


def test_a_configuration_that_is_damaged_or_a_bomb_is_none() -> None:
    for packed_configuration in (gzip.compress(KERNEL)[:-20], gzip.compress(bytes(5 << 20))):
        assert image.contents(b"IKCFG_ST" + packed_configuration).options is None


@pytest.mark.parametrize("compression", list(PACKED))
def test_a_kernel_is_read_as_a_whole(compression: str) -> None:
    found = image.read(bzimage(PACKED[compression]))
    assert found.image is not None
    assert found.contents.formats == ("kho-v3", "luo-v5", "memfd-v2")


def test_an_elf_vmlinux_is_read_as_well() -> None:
    found = image.read(KERNEL)
    assert (found.image, found.contents.release) == (None, "7.3.4-test")


@pytest.mark.parametrize(
    "data", [b"", b"\x7fELF" + bytes(200), bzimage(gzip.compress(b"not a kernel", mtime=0)), bytes(4096)]
)
def test_what_is_no_kernel_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError):
        image.read(data)


@given(data=some.binary(max_size=4096))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ImageError):
        image.read(data)
