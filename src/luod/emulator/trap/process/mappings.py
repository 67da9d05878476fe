"""The memory mappings of another process, as /proc shows them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import NamedTuple

from luod.emulator.model.ports import Errno
from luod.emulator.trap.process.placeholder import Identity


class Mapping(NamedTuple):
    """A mapping of the addresses from `start` to `end`. `permissions` is like "rw-s"; `file` is (0, 0) for none."""

    start: int
    end: int
    permissions: str
    file: Identity


def mappings(tid: int, start: int, end: int) -> Iterator[Mapping]:
    """Yields the mappings of addresses from `start` to `end`, in order. Raises Errno when the thread is gone."""
    try:
        with open(f"/proc/{tid}/maps", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                addresses, permissions, _, device, inode, *_ = line.split(maxsplit=5)
                first, last = (int(number, 16) for number in addresses.split("-"))
                if last <= start:
                    continue
                if first >= end:
                    return
                major, _, minor = device.partition(":")
                yield Mapping(first, last, permissions, (os.makedev(int(major, 16), int(minor, 16)), int(inode)))
    except OSError as error:
        raise Errno(error.errno or errno.ESRCH) from None


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
