"""How much memory may be allocated, by files as the kernel shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from luod.emulator.trap.process import available

MIB = 1 << 20
HOST = 1000 * MIB


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "meminfo").write_text(f"MemTotal: 9999999 kB\nMemAvailable: {HOST >> 10} kB\n")
    monkeypatch.setattr(available, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(available, "_CGROUPS", tmp_path / "cgroup")
    return tmp_path / "mounted"


def cgroup(place: Path, **files: object) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (place / f"memory.{name}").write_text(f"{content}\n")


def belongs_to(root: Path, line: str) -> None:
    (root.parent / "cgroup").write_text(f"12:cpu,cpuacct:/else\n{line}\n")


def test_without_a_limit_it_is_that_of_the_host(root: Path) -> None:
    belongs_to(root, "0::/user")
    cgroup(root / "user", max="max", current=5 * MIB, stat="inactive_file 0")
    assert available.memory(root) == HOST


def test_cgroups_that_cannot_be_seen_limit_nothing(root: Path) -> None:
    belongs_to(root, "0::/user")
    assert available.memory(root) == HOST


@pytest.mark.parametrize("limited", ["", "machine", "machine/guest"])
def test_the_tightest_limit_above_the_process_counts(root: Path, limited: str) -> None:
    belongs_to(root, "0::/machine/guest")
    for place in ("machine", "machine/guest"):
        cgroup(root / place, max=900 * MIB, current=0, stat="inactive_file 0")
    cgroup(root / limited, max=50 * MIB, current=30 * MIB, stat=f"anon 1\ninactive_file {10 * MIB}")
    assert available.memory(root) == 30 * MIB


def test_a_container_whose_cgroup_is_mounted_as_the_root(root: Path) -> None:
    belongs_to(root, "0::/docker/0123")
    cgroup(root, max=50 * MIB, current=30 * MIB, stat="inactive_file 0")
    assert available.memory(root) == 20 * MIB


def test_cgroups_of_version_1(root: Path) -> None:
    belongs_to(root, "4:memory:/guest")
    cgroup(
        root / "memory" / "guest",
        limit_in_bytes=50 * MIB,
        usage_in_bytes=30 * MIB,
        stat="inactive_file 7\ntotal_inactive_file 0",
    )
    assert available.memory(root) == 20 * MIB
