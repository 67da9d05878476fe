"""The files of the next kernel: several initial RAM disks are one, as a boot loader would have placed them."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path

import pytest

from luod.ctl.next_kernel import given
from luod.errors import BadInput


def options(kernel: Path, *initrds: Path) -> Namespace:
    return Namespace(
        kernel=str(kernel), initrd=[str(path) for path in initrds], append=None, cmdline="", reuse_cmdline=False
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
