"""The memory mappings of another process, as /proc shows them."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from luod.emulator.model.ports import Errno
from luod.emulator.trap.process.placeholder import Identity
from luod.uapi import procfs

_NO_QUERY: Final = (errno.ENOTTY, errno.EINVAL)
_LETTERS: Final = (
    ("r", procfs.PROCMAP_QUERY_VMA_READABLE),
    ("w", procfs.PROCMAP_QUERY_VMA_WRITABLE),
    ("x", procfs.PROCMAP_QUERY_VMA_EXECUTABLE),
)


class Mapping(NamedTuple):
    """A mapping of the addresses from `start` to `end`. `permissions` is like "rw-s"; `file` is (0, 0) for none."""

    start: int
    end: int
    permissions: str
    file: Identity


def mappings(tid: int, start: int, end: int) -> Iterator[Mapping]:
    """Yields the mappings of addresses from `start` to `end`, in order. Raises Errno when the thread is gone."""
    try:
        # The file is asked for one mapping at a time: its text has all mappings of the process before this one.
        with open(f"/proc/{tid}/maps", encoding="utf-8", errors="replace") as maps:
            try:
                yield from _asked(maps.fileno(), start, end)
            except OSError as error:
                if error.errno not in _NO_QUERY:
                    raise
                yield from _read(maps, start, end)
    except OSError as error:
        raise Errno(error.errno or errno.ESRCH) from None


def _asked(maps: int, start: int, end: int) -> Iterator[Mapping]:
    """Yields the mappings by PROCMAP_QUERY. Raises OSError: ENOTTY before Linux 6.11, before the first one."""
    while start < end:
        query = bytearray(
            procfs.QUERY.pack(procfs.QUERY.size, procfs.PROCMAP_QUERY_COVERING_OR_NEXT_VMA, start, *[0] * 12)
        )
        try:
            fcntl.ioctl(maps, procfs.PROCMAP_QUERY, query)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return
            raise
        _, _, _, first, last, permissions, _, _, inode, major, minor, *_ = procfs.QUERY.unpack(query)
        if first >= end:
            return
        letters = "".join(letter if permissions & flag else "-" for letter, flag in _LETTERS)
        shared = "s" if permissions & procfs.PROCMAP_QUERY_VMA_SHARED else "p"
        yield Mapping(first, last, letters + shared, (os.makedev(major, minor), inode))
        start = last


def _read(lines: Iterable[str], start: int, end: int) -> Iterator[Mapping]:
    for line in lines:
        addresses, permissions, _, device, inode, *_ = line.split(maxsplit=5)
        first, last = (int(number, 16) for number in addresses.split("-"))
        if last <= start:
            continue
        if first >= end:
            return
        major, _, minor = device.partition(":")
        yield Mapping(first, last, permissions, (os.makedev(int(major, 16), int(minor, 16)), int(inode)))


def flags(tid: int, mapping: Mapping) -> frozenset[str]:
    """Returns the kernel's flags of a mapping, such as "lo" for locked. Raises Errno when it or the thread is gone."""
    start = f"{mapping.start:08x}-"
    try:
        with open(f"/proc/{tid}/smaps", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith(start):
                    return next(frozenset(line.split()[1:]) for line in lines if line.startswith("VmFlags:"))
    except OSError as error:
        raise Errno(error.errno or errno.ESRCH) from None
    raise Errno(errno.ESRCH)
