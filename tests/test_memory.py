"""luod.memory against trees of /proc and /sys as kernels lay them out, and against this machine's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from luod import memory
from luod.errors import NotEnoughMemory
from luod.memory import Room

MIB = 1 << 20
CGROUP2 = "30 23 0:26 {root} {at} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
CGROUP1 = "36 25 0:32 {root} {at} rw,nosuid shared:15 - cgroup cgroup rw,memory\n"
OTHER1 = "35 25 0:31 / /sys/fs/cgroup/cpu rw,nosuid shared:14 - cgroup cgroup rw,cpu,cpuacct\n"


class Tree:
    """A root directory with the files a kernel would show."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, text: object) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n", encoding="utf-8")

    def unified(self, path: str, *, root: str = "/", at: str = "/sys/fs/cgroup") -> None:
        self.write("proc/self/cgroup", f"0::{path}")
        self.write("proc/self/mountinfo", OTHER1 + CGROUP2.format(root=root, at=at))

    def limit(self, cgroup: str, limit: object, current: int, stat: str = "inactive_file 0") -> None:
        self.write(f"{cgroup}/memory.max", limit)
        self.write(f"{cgroup}/memory.current", current)
        self.write(f"{cgroup}/memory.stat", stat)

    def overcommit(self, mode: int, limit_kb: int, committed_kb: int) -> None:
        self.write("proc/sys/vm/overcommit_memory", mode)
        self.write(
            "proc/meminfo", f"MemAvailable: 900 kB\nCommitLimit:  {limit_kb} kB\nCommitted_AS:   {committed_kb} kB"
        )


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def chargeable(tree: Tree) -> int | None:
    room = memory.chargeable(tree.root)
    return None if room is None else room.available


def test_h01_the_own_cgroups_limit_less_its_use_is_what_is_left(tree: Tree) -> None:
    tree.unified("/vm.slice/one.service")
    tree.limit("/sys/fs/cgroup/vm.slice/one.service", 32 * MIB, 5 * MIB)
    assert memory.chargeable(tree.root) == Room(
        27 * MIB, "the memory limit of cgroup /sys/fs/cgroup/vm.slice/one.service"
    )


def test_h01_an_ancestors_limit_counts_when_it_is_tighter(tree: Tree) -> None:
    tree.unified("/vm.slice/one.service")
    tree.limit("/sys/fs/cgroup/vm.slice/one.service", "max", 5 * MIB)
    tree.limit("/sys/fs/cgroup/vm.slice", 100 * MIB, 99 * MIB)
    assert chargeable(tree) == MIB
    tree.limit("/sys/fs/cgroup/vm.slice/one.service", 6 * MIB - 1, 5 * MIB)
    assert chargeable(tree) == MIB - 1


def test_no_limit_anywhere_is_none(tree: Tree) -> None:
    assert chargeable(tree) is None
    tree.unified("/")
    tree.limit("/sys/fs/cgroup", "max", 5 * MIB)
    assert chargeable(tree) is None


def test_a_cgroup_over_its_limit_leaves_nothing_not_less(tree: Tree) -> None:
    tree.unified("/one")
    tree.limit("/sys/fs/cgroup/one", MIB, 2 * MIB)
    assert chargeable(tree) == 0


def test_clean_inactive_page_cache_counts_as_left_and_dirty_does_not(tree: Tree) -> None:
    tree.unified("/one")
    stat = f"anon 1\ninactive_file {4 * MIB}\nfile_dirty {MIB}\nfile_writeback {MIB}"
    tree.limit("/sys/fs/cgroup/one", 10 * MIB, 9 * MIB, stat)
    assert chargeable(tree) == 3 * MIB


def test_a_container_sees_the_part_of_the_hierarchy_that_is_mounted(tree: Tree) -> None:
    tree.unified("/docker/abc/inner", root="/docker/abc")
    tree.limit("/sys/fs/cgroup/inner", "max", MIB)
    tree.limit("/sys/fs/cgroup", 8 * MIB, MIB)
    assert chargeable(tree) == 7 * MIB


def test_a_process_outside_what_is_mounted_still_heeds_the_mounts_top(tree: Tree) -> None:
    tree.unified("/../other")
    tree.limit("/sys/fs/cgroup", 8 * MIB, 2 * MIB)
    assert chargeable(tree) == 6 * MIB


def test_mount_points_with_blanks_are_found(tree: Tree) -> None:
    tree.unified("/one", at="/sys/fs/c\\040group")
    tree.limit("/sys/fs/c group/one", 8 * MIB, 2 * MIB)
    assert chargeable(tree) == 6 * MIB


def test_cgroup_v1_beside_a_unified_hierarchy_without_controllers(tree: Tree) -> None:
    tree.write("proc/self/cgroup", "4:memory:/box/one\n1:name=systemd:/\n0::/")
    tree.write("proc/self/mountinfo", OTHER1 + CGROUP1.format(root="/", at="/sys/fs/cgroup/memory"))
    for cgroup, limit in (("box/one", 9223372036854771712), ("box", 64 * MIB)):
        tree.write(f"sys/fs/cgroup/memory/{cgroup}/memory.limit_in_bytes", limit)
        tree.write(f"sys/fs/cgroup/memory/{cgroup}/memory.usage_in_bytes", 60 * MIB)
        tree.write(
            f"sys/fs/cgroup/memory/{cgroup}/memory.stat",
            f"inactive_file 1\ntotal_inactive_file {3 * MIB}\ntotal_dirty {MIB}",
        )
    assert chargeable(tree) == 6 * MIB


@pytest.mark.parametrize(("mode", "left"), [(0, None), (1, None), (2, 600 * 1024)])
def test_h01_the_commit_limit_counts_under_strict_overcommit_only(tree: Tree, mode: int, left: int | None) -> None:
    tree.overcommit(mode, 1000, 300)
    tree.write("proc/sys/vm/admin_reserve_kbytes", 100)
    assert chargeable(tree) == left


def test_strict_overcommit_keeps_the_users_reserve_back(tree: Tree) -> None:
    tree.overcommit(2, 1000000, 0)
    tree.write("proc/sys/vm/user_reserve_kbytes", 64)
    tree.write("proc/self/statm", "3200000 1 1 1 0 1 0")
    assert chargeable(tree) == (1000000 - 64) * 1024


def test_what_is_new_must_also_be_free(tree: Tree) -> None:
    tree.unified("/one")
    tree.limit("/sys/fs/cgroup/one", 2 * MIB, MIB)
    tree.overcommit(0, 1, 0)
    room = memory.free(tree.root)
    assert room is not None
    assert room.available == 900 * 1024
    assert chargeable(tree) == MIB


def test_this_machines_own_readings_make_sense() -> None:
    room = memory.free()
    assert room is not None
    assert 0 < room.available < 1 << 50


def test_h01_require_refuses_more_than_is_left_and_says_how_much_and_why() -> None:
    room = Room(32 * MIB, "the memory limit of cgroup /box")
    memory.require(32 * MIB, room, "retrieving 7")
    memory.require(1 << 60, None, "retrieving 7")
    with pytest.raises(
        NotEnoughMemory, match=r"retrieving 7 takes 33558528 bytes and .*/box leaves 33554432"
    ) as caught:
        memory.require(32 * MIB + 1, room, "retrieving 7")
    assert (caught.value.needed, caught.value.available) == (32 * MIB + 4096, 32 * MIB)
    assert caught.value.limit == "the memory limit of cgroup /box"
    assert "frees the file for good" in caught.value.hint


def test_where_enough_is_left_page_cache_is_not_looked_for(tree: Tree) -> None:
    tree.unified("/one.service")
    tree.limit("/sys/fs/cgroup/one.service", 32 * MIB, 30 * MIB, stat=f"inactive_file {20 * MIB}")
    assert memory.chargeable(tree.root, enough=2 * MIB) == Room(
        2 * MIB, "the memory limit of cgroup /sys/fs/cgroup/one.service"
    )
    assert memory.chargeable(tree.root, enough=2 * MIB + 1) == memory.chargeable(tree.root)


def test_a_limit_of_nothing_is_a_limit(tree: Tree) -> None:
    tree.unified("/one.service")
    tree.limit("/sys/fs/cgroup/one.service", 0, 0)
    assert chargeable(tree) == 0
    assert [room.available for room in memory.ceilings(tree.root)] == [0]


def test_a_cgroup_hierarchy_that_moved_is_found_again(tree: Tree) -> None:
    (tree.root / "proc/self/ns").mkdir(parents=True)
    tree.write("proc/self/ns/mnt", "")
    tree.unified("/one.service")
    tree.limit("/sys/fs/cgroup/one.service", 32 * MIB, 5 * MIB)
    assert chargeable(tree) == 27 * MIB
    (tree.root / "sys/fs/cgroup").rename(tree.root / "elsewhere")
    tree.unified("/one.service", at="/elsewhere")
    assert chargeable(tree) == 27 * MIB
