"""The mappings of a process, by PROCMAP_QUERY and by the text of /proc/PID/maps."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os

import pytest

from luod.emulator.trap.process import mappings as module
from luod.emulator.trap.process.mappings import Mapping, mappings
from luod.uapi import procfs

PAGE = mmap.PAGESIZE


def address_of(pages: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(pages))


@pytest.fixture(params=["PROCMAP_QUERY", "text"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Makes `mappings` go one way; before Linux 6.11 the kernel has the second one only, and the first falls back."""
    if request.param == "text":

        def no_such_ioctl(*_: object) -> int:
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))

        monkeypatch.setattr(fcntl, "ioctl", no_such_ioctl)
    assert isinstance(request.param, str)
    return request.param


@pytest.mark.usefixtures("way")
def test_a_mapping_of_a_file() -> None:
    memory = os.memfd_create("m")
    os.ftruncate(memory, 2 * PAGE)
    with mmap.mmap(memory, 2 * PAGE) as pages:
        start = address_of(pages)
        status = os.fstat(memory)
        os.close(memory)
        expected = Mapping(start, start + 2 * PAGE, "rw-s", (status.st_dev, status.st_ino))
        assert list(mappings(os.getpid(), start, start + 1)) == [expected]
        assert list(mappings(os.getpid(), start + PAGE, start + 2 * PAGE)) == [expected]
        assert list(mappings(os.getpid(), start, start)) == []


def test_both_ways_tell_the_same() -> None:
    with open("/proc/self/maps", encoding="utf-8") as maps:
        text = {line.split()[0]: line.split()[1] for line in maps}
    told = {f"{each.start:08x}-{each.end:08x}": each.permissions for each in mappings(os.getpid(), 0, (1 << 64) - 1)}
    # What another thread maps meanwhile differs; the mappings of the program itself are there for good.
    with open("/proc/self/maps", encoding="utf-8") as maps:
        lasting = [line.split()[0] for line in maps if "python" in line]
    assert lasting
    assert [told[addresses] for addresses in lasting] == [text[addresses] for addresses in lasting]


def test_the_kernel_answers_for_one_mapping_without_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 20,000 mappings before it, the text takes 9 ms."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        try:
            fcntl.ioctl(maps.fileno(), procfs.PROCMAP_QUERY, bytes(procfs.QUERY.size))
        except OSError as error:
            if error.errno == errno.ENOTTY:
                pytest.skip("PROCMAP_QUERY is of Linux 6.11")
    monkeypatch.delattr(module, "_read")
    with mmap.mmap(-1, PAGE) as pages:
        start = address_of(pages)
        assert [each.start <= start < each.end for each in mappings(os.getpid(), start, start + PAGE)] == [True]
