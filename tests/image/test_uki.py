"""Unified kernel images, and other files given as a kernel: each is named, with the way to its kernel."""

from __future__ import annotations

import gzip
import lzma
import struct
import subprocess
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as some

from luod import image
from luod.errors import ImageError
from luod.image import other_kernels, uki
from luod.testing.tools import cannot_run, require_tool
from tests.image.pe import ARM64, program
from tests.image.test_image import KERNEL, bzimage

LINE = "root=/dev/vda liveupdate=on kho=on"
PARTS = ((".linux", bzimage()), (".initrd", b"070701 a disk"), (".cmdline", LINE.encode() + b"\0"))
STUBS = ("/usr/lib/systemd/boot/efi/linuxx64.efi.stub",)
BEGINNINGS = (b"", b"MZ", b"\x7fELF", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"MZ\0\0zimg")


def described(data: bytes) -> uki.Uki | None:
    return uki.describe(uki.of_bytes(data), len(data))


def content(data: bytes, part: uki.Part) -> bytes:
    return data[part.offset : part.offset + part.size]


def arm64() -> bytes:
    data = bytearray(4096)
    data[:2] = b"MZ"
    data[0x38:0x3C] = b"ARM\x64"
    return bytes(data)


def zboot(kind: bytes = b"gzip") -> bytes:
    payload = gzip.compress(arm64())
    return (b"MZ\0\0zimg" + struct.pack("<II8x32s", 512, len(payload), kind)).ljust(512, b"\0") + payload


def words(value: object) -> str:
    """Returns the id of a parameter: bytes differ from run to run."""
    return "" if isinstance(value, bytes) else str(value)


def elf(kind: int, text: bytes = b"") -> bytes:
    return b"\x7fELF\2\1\1".ljust(16, b"\0") + struct.pack("<HH", kind, 62) + bytes(64) + text


# -- Unified kernel images ----------------------------------------------------------------------------------------


def test_the_parts_of_a_unified_kernel_image_are_found() -> None:
    data = program((".text", b"code"), (".osrel", b"ID=debian\n"), (".uname", b"7.3.4-test\n"), *PARTS)
    found = described(data)
    assert found is not None
    assert content(data, found.kernel) == bzimage()
    assert [content(data, part) for part in found.initrds] == [b"070701 a disk"]
    assert (found.command_line, found.uname) == (LINE, "7.3.4-test")


def test_microcode_comes_before_the_initial_ram_disk() -> None:
    data = program(*PARTS, (".ucode", b"070701 microcode"))
    found = described(data)
    assert found is not None
    assert [content(data, part) for part in found.initrds] == [b"070701 microcode", b"070701 a disk"]


def test_without_disk_and_line_there_is_a_kernel_only() -> None:
    found = described(program((".linux", bzimage())))
    assert found is not None
    assert (found.initrds, found.command_line, found.uname) == ((), None, "")
    empty = described(program((".linux", bzimage()), (".initrd", b""), (".cmdline", b"")))
    assert empty is not None
    assert (empty.initrds, empty.command_line) == ((), "")


@pytest.mark.parametrize(
    ("stored", "line"),
    [
        (b"a b\n", "a b"),
        (b" a\tb\nc \0\0", "a b c"),
        (b"a\0b", "a"),
        ("a=ä".encode(), "a=ä"),
    ],
)
def test_the_line_is_read_as_systemd_stub_does(stored: bytes, line: str) -> None:
    found = described(program((".linux", b"x"), (".cmdline", stored)))
    assert found is not None
    assert found.command_line == line


def test_of_several_profiles_the_first_is_read() -> None:
    data = program(
        *PARTS,
        (".profile", b"ID=main\n"),
        (".cmdline", b"main"),
        (".profile", b"ID=rescue\n"),
        (".cmdline", b"rescue"),
        (".initrd", b"rescue disk"),
    )
    found = described(data)
    assert found is not None
    assert found.command_line == "main"
    assert [content(data, part) for part in found.initrds] == [b"070701 a disk"]


def test_a_tool_that_does_not_say_the_true_size_of_a_section_is_understood() -> None:
    data = program(*PARTS, virtual=False)
    found = described(data)
    assert found is not None
    assert content(data, found.kernel).startswith(bzimage())
    assert found.command_line == LINE


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (program(*PARTS)[:-600], "ends behind"),
        (program(*PARTS)[:450], "cut off in the table"),
        (program(*PARTS, count=60000), "60000 sections"),
        (program((".linux", b"x"), (".cmdline", bytes(70000))), "70000 bytes"),
        (program((".linux", b"x"), (".cmdline", b"\xff\xfe")), "not UTF-8"),
    ],
    ids=words,
)
def test_a_damaged_unified_kernel_image_is_an_image_error(data: bytes, what: str) -> None:
    with pytest.raises(ImageError, match=what):
        described(data)


@given(some.data())
def test_a_damaged_program_is_described_or_refused(random: some.DataObject) -> None:
    data = bytearray(program((".text", b"code"), *PARTS[1:], (".linux", b"kernel")))
    for _ in range(random.draw(some.integers(1, 6))):
        data[random.draw(some.integers(0, 700))] = random.draw(some.integers(0, 255))
    try:
        found = described(bytes(data))
    except ImageError:
        return
    if found is not None:
        for part in (found.kernel, *found.initrds):
            assert part.offset + part.size <= len(data) or part.size == 0


def test_a_unified_kernel_image_that_the_real_tools_made_is_read(tmp_path: Path) -> None:
    objcopy = require_tool("objcopy", package="binutils")
    stub = next((path for path in STUBS if Path(path).exists()), None)
    if stub is None:
        cannot_run("there is no systemd-stub, of the Debian package systemd-boot-efi")
    sections = []
    for place, (name, stored) in enumerate(PARTS):
        (tmp_path / name[1:]).write_bytes(stored)
        sections += ["--add-section", f"{name}={tmp_path / name[1:]}"]
        sections += ["--change-section-vma", f"{name}={0x20000000 + place * 0x1000000:#x}"]
    made = tmp_path / "linux.efi"
    subprocess.run([objcopy, *sections, stub, str(made)], check=True)
    data = made.read_bytes()
    found = described(data)
    assert found is not None
    assert content(data, found.kernel).rstrip(b"\0") == bzimage().rstrip(b"\0")
    assert image.read(content(data, found.kernel)).contents.release == "7.3.4-test"
    assert found.command_line == LINE
    assert described(Path(stub).read_bytes()) is None


# -- What else is given for a kernel ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "what", "remedy"),
    [
        (program(*PARTS), "unified kernel image (UKI) for x86_64", "--only-section=.linux"),
        (program(*PARTS, machine=ARM64), "unified kernel image (UKI) for arm64", "luoctl load"),
        (program((".cmdline", b"a")), "addon of unified kernel images", "bzImage"),
        (program((".text", b"a")), "EFI program for x86_64 that is no Linux kernel", "bzImage"),
        (zboot(), "EFI zboot image: a kernel packed with gzip", "tail -c +513 FILE | head -c"),
        (zboot(b"zstd22"), "packed with zstd22", "zstd -dc > Image"),
        (arm64(), "a kernel for arm64 (Image)", "x86_64 only"),
        (gzip.compress(arm64()), "packed with gzip, with a kernel for arm64 (Image) in it", "gunzip -c FILE"),
        (lzma.compress(bzimage()), "packed with xz, with a bzImage in it", "xz -dc FILE"),
        (zstandard.compress(KERNEL), "packed with zstd, with a kernel (vmlinux) in it", "zstd -dc FILE"),
        (lzma.compress(elf(1, b"vermagic=7.3.4 SMP\0")), "with a kernel module in it", "xz -dc"),
        (gzip.compress(b"070701" + bytes(200)), "such as an initial RAM disk", "--initrd"),
        (gzip.compress(b"\1\2\3" * 99), "no kernel that luod knows", "bzImage"),
        (b"070701" + bytes(200), "a cpio archive", "--initrd"),
        (elf(1, b"vermagic=7.3.4 SMP\0"), "a kernel module", "bzImage"),
        (elf(2), "an ELF file (program) that is no kernel", "bzImage"),
        (elf(4), "core dump", "bzImage"),
        (b"\x27\x05\x19\x56" + bytes(100), "U-Boot image", "dumpimage"),
        (b"\xd0\x0d\xfe\xed" + bytes(100), "FIT image", "dumpimage"),
        (b"#!/bin/sh\necho\n", "a script", "bzImage"),
    ],
    ids=words,
)
def test_a_file_that_is_no_bzimage_is_named_with_the_way_to_the_kernel(data: bytes, what: str, remedy: str) -> None:
    with pytest.raises(ImageError) as caught:
        image.read(data)
    assert what in caught.value.message
    assert remedy in caught.value.hint


@given(some.binary(max_size=2000), some.sampled_from(BEGINNINGS))
def test_any_file_is_named_or_not_known(data: bytes, beginning: bytes) -> None:
    for whole in (True, False):
        what, remedy = other_kernels.describe(beginning + data, whole=whole)
        assert isinstance(what, str)
        assert remedy
