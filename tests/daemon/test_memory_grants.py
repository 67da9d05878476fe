"""The memory that PRESERVE needs (H2), read from machines made of files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from luod.daemon import memory_grants
from luod.errors import NotEnoughMemory

MIB = 1 << 20
LISTS = 256 * 32
"""Of 1 MiB."""


@dataclass(frozen=True)
class File:
    size: int
    allocated: int


def machine(root: Path, *, available: int, scratch: str | None = None, limit: int | None = None) -> Path:
    (root / "proc/7").mkdir(parents=True)
    (root / "proc/self").mkdir()
    (root / "proc/meminfo").write_text(f"MemTotal: {64 * 1024} kB\nMemAvailable: {available // 1024} kB\n")
    (root / "proc/7/cgroup").write_text("0::/vm\n")
    (root / "proc/self/cgroup").write_text("0::/\n")
    number = root.stat().st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    (root / "proc/self/mountinfo").write_text(f"1 1 {device} / /cg rw - cgroup2 cgroup2 rw\n")
    (root / "proc/sys/vm").mkdir(parents=True)
    (root / "proc/sys/vm/overcommit_memory").write_text("0\n")
    (root / "cg/vm").mkdir(parents=True)
    for cgroup in ("cg", "cg/vm"):
        (root / cgroup / "cgroup.procs").write_text("")
    if scratch is not None:
        (root / "sys/kernel/debug/kho/out").mkdir(parents=True)
        (root / "sys/kernel/debug/kho/out/scratch_len").write_text(scratch)
    if limit is not None:
        (root / "cg/vm/memory.stat").write_text("inactive_file 0\n")
        (root / "cg/vm/memory.max").write_text(f"{limit}\n")
        (root / "cg/vm/memory.current").write_text("0\n")
    return root


def test_holes_are_filled_and_what_lies_in_scratch_is_moved(tmp_path: Path) -> None:
    root = machine(tmp_path, available=0, scratch="0x200000\n")
    assert memory_grants.needed([File(MIB, 0)], root) == MIB + LISTS
    assert memory_grants.needed([File(MIB, MIB)], root) == MIB + LISTS
    assert memory_grants.needed([File(8 * MIB, 8 * MIB)], root) == 2 * MIB + 8 * LISTS
    assert memory_grants.needed([File(8 * MIB, 6 * MIB)] * 2, root) == 4 * MIB + 2 * MIB + 16 * LISTS
    assert memory_grants.needed([], root) == 0


def test_without_debugfs_it_is_taken_for_the_most_that_was_measured(tmp_path: Path) -> None:
    root = machine(tmp_path, available=0)
    assert memory_grants.needed([File(32 * MIB, 32 * MIB)], root) == 24 * MIB + 32 * LISTS


def test_the_machines_memory_and_the_callers_cgroup_both_count(tmp_path: Path) -> None:
    root = machine(tmp_path, available=8 * MIB, scratch="0\n", limit=4 * MIB)
    memory_grants.require([File(3 * MIB, 0)], 7, "vm", root)
    with pytest.raises(NotEnoughMemory, match=r"PRESERVE for vm.*cgroup /cg/vm"):
        memory_grants.require([File(5 * MIB, 0)], 7, "vm", root)
    other = machine(tmp_path / "other", available=8 * MIB, scratch="0\n")
    memory_grants.require([File(5 * MIB, 0)], 7, "vm", other)
    with pytest.raises(NotEnoughMemory, match="MemAvailable"):
        memory_grants.require([File(9 * MIB, 0)], 7, "vm", other)


def test_a5_a_limit_that_cannot_be_read_is_told_and_those_that_can_still_refuse(tmp_path: Path) -> None:
    root = machine(tmp_path, available=8 * MIB, scratch="0\n", limit=4 * MIB)
    assert memory_grants.require([File(3 * MIB, 0)], 7, "vm", root) is None
    assert memory_grants.require([File(3 * MIB, 0)], None, "vm", root) == memory_grants.UNSEEN
    (root / "cg/vm/memory.current").unlink()
    answer = memory_grants.require([File(3 * MIB, 0)], 7, "vm", root)
    assert answer is not None
    assert "memory.current" in answer.why
    with pytest.raises(NotEnoughMemory, match="MemAvailable"):
        memory_grants.require([File(9 * MIB, 0)], 7, "vm", root)


def test_without_proc_the_size_of_the_machine_is_asked_of_the_kernel(tmp_path: Path) -> None:
    assert memory_grants.machine(tmp_path) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_nothing_to_preserve_asks_for_nothing(tmp_path: Path) -> None:
    memory_grants.require([], 7, "vm", machine(tmp_path, available=0))
