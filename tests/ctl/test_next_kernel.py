"""The files of the next kernel: several initial RAM disks are one, as a boot loader would have placed them."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path

import pytest

from luod.ctl.next_kernel import given
from luod.ctl.next_line import next_line
from luod.errors import BadInput, ImageError
from tests.image.pe import program


def options(kernel: Path, *initrds: Path) -> Namespace:
    return Namespace(
        kernel=str(kernel), initrd=[str(path) for path in initrds], append_cmdline=None, cmdline="", reuse_cmdline=False
    )


def files(directory: Path, *contents: bytes) -> list[Path]:
    found = [directory / str(number) for number in range(len(contents))]
    for path, content in zip(found, contents, strict=True):
        path.write_bytes(content)
    return found


def initrd_of(arguments: Namespace) -> bytes:
    with given(arguments) as image:
        assert image is not None
        assert image.initrd is not None
        return os.pread(image.initrd.fileno(), 1 << 20, 0)


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        ((b"12345",), b"12345"),
        ((b"12345", b"678"), b"12345" + b"\0\0\0" + b"678"),
        ((b"1234", b"5678"), b"12345678"),
        ((b"1", b"2", b"34567"), b"1\0\0\0" + b"2\0\0\0" + b"34567"),
    ],
)
def test_each_begins_at_a_multiple_of_4_bytes(tmp_path: Path, parts: tuple[bytes, ...], whole: bytes) -> None:
    kernel, *initrds = files(tmp_path, b"kernel", *parts)
    assert initrd_of(options(kernel, *initrds)) == whole


def test_what_is_concatenated_cannot_be_changed(tmp_path: Path) -> None:
    kernel, *initrds = files(tmp_path, b"kernel", b"1", b"2")
    with given(options(kernel, *initrds)) as image:
        assert image is not None
        assert image.initrd is not None
        with pytest.raises(PermissionError):
            os.open(f"/proc/self/fd/{image.initrd.fileno()}", os.O_RDWR | os.O_TRUNC)


def test_an_empty_part_is_refused_by_its_name(tmp_path: Path) -> None:
    kernel, first, empty = files(tmp_path, b"kernel", b"1", b"")
    with pytest.raises(BadInput, match=str(empty)):
        initrd_of(options(kernel, first, empty))


# -- Unified kernel images ----------------------------------------------------------------------------------------

RUNNING = next_line(Path("/proc/cmdline").read_text(encoding="utf-8", errors="surrogateescape").strip())


def unified(directory: Path, *more: tuple[str, bytes]) -> Path:
    path = directory / "linux.efi"
    path.write_bytes(program((".linux", b"the kernel"), (".initrd", b"disk."), (".ucode", b"ucode"), *more))
    return path


def taken(arguments: Namespace) -> tuple[bytes, bytes | None, str]:
    with given(arguments) as image:
        assert image is not None
        disk = None if image.initrd is None else os.pread(image.initrd.fileno(), 1 << 20, 0)
        return os.pread(image.kernel.fileno(), 1 << 20, 0), disk, image.command_line


def uses(kernel: Path, *initrds: Path, **more: object) -> Namespace:
    return Namespace(**{**vars(options(kernel, *initrds)), "cmdline": None, **more})


def test_a16_a_unified_kernel_image_is_taken_apart(tmp_path: Path) -> None:
    kernel = unified(tmp_path, (".cmdline", b"root=/dev/vda quiet\n"))
    assert taken(uses(kernel)) == (b"the kernel", b"ucode\0\0\0disk.", "root=/dev/vda quiet")


def test_a16_options_take_the_place_of_what_is_in_a_unified_kernel_image(tmp_path: Path) -> None:
    kernel = unified(tmp_path, (".cmdline", b"root=/dev/vda quiet"))
    (other,) = files(tmp_path, b"other disk")
    assert taken(uses(kernel, other))[1] == b"other disk"
    assert taken(uses(kernel, other, other))[1] == b"other disk\0\0other disk"
    assert taken(uses(kernel, append_cmdline=["kho=on"]))[2] == "root=/dev/vda quiet kho=on"
    assert taken(uses(kernel, cmdline="panic=1"))[2] == "panic=1"
    assert taken(uses(kernel, reuse_cmdline=True))[2] == RUNNING


def test_a16_a_unified_kernel_image_without_line_or_disk_takes_them_from_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "linux.efi"
    path.write_bytes(program((".linux", b"the kernel")))
    assert taken(uses(path)) == (b"the kernel", None, RUNNING)


def test_a16_what_is_taken_from_a_unified_kernel_image_cannot_be_changed(tmp_path: Path) -> None:
    with given(uses(unified(tmp_path))) as image:
        assert image is not None
        for file in (image.kernel, image.initrd):
            assert file is not None
            with pytest.raises(PermissionError):
                os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDWR | os.O_TRUNC)


def test_a16_a_unified_kernel_image_that_is_cut_off_is_an_image_error(tmp_path: Path) -> None:
    kernel = unified(tmp_path)
    kernel.write_bytes(kernel.read_bytes()[:-700])
    with pytest.raises(ImageError, match="cut off"):
        taken(uses(kernel))
