"""luod.memory against trees of /proc and /sys as kernels lay them out, and against this machine's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from luod import memory
from luod.errors import MemoryUnknown, NotEnoughMemory
from luod.memory import Room, Unknown

MIB = 1 << 20
CGROUP2 = "30 23 {device} {root} {at} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
CGROUP1 = "36 25 {device} {root} {at} rw,nosuid shared:15 - cgroup cgroup rw,memory\n"
OTHER1 = "35 25 0:31 / /sys/fs/cgroup/cpu rw,nosuid shared:14 - cgroup cgroup rw,cpu,cpuacct\n"


class Tree:
    """A root directory with the files a kernel would show."""

    def __init__(self, root: Path) -> None:
        self.root = root
        number = root.stat().st_dev
        self.device = f"{os.major(number)}:{os.minor(number)}"
        self.write("proc/sys/vm/overcommit_memory", 0)
        self.write("proc/meminfo", "MemAvailable: 900 kB")

    def write(self, path: str, text: object) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n", encoding="utf-8")

    def unified(self, path: str, *, root: str = "/", at: str = "/sys/fs/cgroup") -> None:
        self.write("proc/self/cgroup", f"0::{path}")
        self.mounts(OTHER1, CGROUP2, root=root, at=at)
        names = path.removeprefix(root.rstrip("/")).split("/")[1:] if ".." not in path else []
        for count in range(len(names) + 1):
            directory = "/".join((at.replace("\\040", " "), *names[:count]))
            self.write(f"{directory}/cgroup.procs", "")

    def mounts(self, *lines: str, root: str = "/", at: str = "/sys/fs/cgroup") -> None:
        given = "".join(line.format(root=root, at=at, device=self.device) for line in lines)
        self.write("proc/self/mountinfo", given.removesuffix("\n"))

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
    assert not isinstance(room, Unknown), room
    return None if room is None else room.available


def unknown(tree: Tree, process: int | None = None) -> Unknown:
    room = memory.chargeable(tree.root, process)
    assert isinstance(room, Unknown), room
    return room


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
    tree.unified("/")
    assert chargeable(tree) is None
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


@pytest.mark.parametrize(("path", "root"), [("/../other", "/"), ("/docker/one", "/docker/two"), ("/", "/../..")])
def test_the_limits_of_a_process_outside_of_what_is_mounted_are_unknown(tree: Tree, path: str, root: str) -> None:
    tree.unified(path)
    tree.mounts(CGROUP2, root=root)
    tree.limit("/sys/fs/cgroup", 8 * MIB, 2 * MIB)
    assert "no cgroup2 file system that shows this cgroup" in unknown(tree).why


def test_of_several_mounts_the_one_that_shows_most_of_the_cgroups_above_is_taken(tree: Tree) -> None:
    tree.unified("/docker/abc/inner")
    whole = CGROUP2.replace("{root} {at}", "/ /whole")
    part = CGROUP2.replace("{root} {at}", "/docker/abc /part")
    other = CGROUP2.replace("{root} {at}", "/docker/other /other")
    for point, limit in (("/whole/docker/abc/inner", "max"), ("/part/inner", "max"), ("/other", MIB)):
        tree.limit(point, limit, 0)
    tree.write("part/cgroup.procs", "")
    tree.write("whole/docker/abc/cgroup.procs", "")
    tree.limit("/whole/docker", 4 * MIB, 0)
    tree.write("whole/cgroup.procs", "")
    for order in ((other, part, whole), (whole, part, other)):
        tree.mounts(*order)
        assert chargeable(tree) == 4 * MIB


def test_a_mount_that_another_one_covers_is_not_taken(tree: Tree) -> None:
    tree.unified("/one")
    tree.limit("/sys/fs/cgroup/one", "max", 0)
    tree.mounts(CGROUP2.replace("{device}", "0:1"))
    assert "no cgroup2 file system" in unknown(tree).why


def test_with_the_memory_controller_in_v1_the_unified_hierarchy_limits_nothing(tree: Tree) -> None:
    tree.write("proc/self/cgroup", "4:memory:/box\n0::/box")
    tree.mounts(CGROUP2.replace("{at}", "/unified"), CGROUP1.replace("{at}", "/v1"))
    tree.limit("/unified/box", MIB, 0)
    for cgroup in ("v1", "v1/box"):
        tree.write(f"{cgroup}/memory.limit_in_bytes", 9223372036854771712)
    assert chargeable(tree) is None


# -- What cannot be read ------------------------------------------------------------------------------------------


def test_a_process_without_proc_does_not_know_its_limits(tmp_path: Path) -> None:
    for answer in (memory.chargeable(tmp_path), memory.free(tmp_path)):
        assert isinstance(answer, Unknown)
        assert "/proc/self/cgroup" in answer.why
        assert answer.room is None


def test_a_process_without_the_cgroup_file_system_does_not_know_its_limits(tree: Tree) -> None:
    tree.unified("/one")
    tree.mounts(OTHER1)
    assert "no cgroup2 file system" in unknown(tree).why


def test_an_empty_proc_file_with_something_mounted_over_it_is_unknown(tree: Tree) -> None:
    tree.unified("/one")
    (tree.root / "proc/self/cgroup").unlink()
    (tree.root / "proc/self/cgroup").symlink_to("/dev/null")
    assert "mounted over it" in unknown(tree).why


def test_a_kernel_without_cgroups_or_without_their_memory_controller_limits_nothing(tree: Tree) -> None:
    tree.write("proc/self/stat", "")
    assert chargeable(tree) is None
    tree.write("proc/self/cgroup", "1:cpu:/one")
    assert chargeable(tree) is None
    tree.write("proc/self/cgroup", "0::/one")
    tree.mounts(OTHER1)
    tree.write("proc/cgroups", "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t3\t9\t1\nmemory\t0\t9\t0")
    assert chargeable(tree) is None
    tree.write("proc/cgroups", "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t3\t9\t1\nmemory\t0\t9\t1")
    unknown(tree)


def test_a_proc_that_shows_processes_only_is_not_one_of_a_kernel_without_cgroups(tree: Tree) -> None:
    tree.write("proc/self/stat", "")
    (tree.root / "proc/meminfo").unlink()
    unknown(tree)


def test_the_root_cgroup_is_known_to_have_no_limit_although_nothing_is_mounted(tree: Tree) -> None:
    tree.unified("/")
    tree.mounts(OTHER1)
    (tree.root / "proc/self/ns").mkdir()
    (tree.root / "proc/self/ns/cgroup").symlink_to("cgroup:[4026531835]")
    assert chargeable(tree) is None
    (tree.root / "proc/self/ns/cgroup").unlink()
    (tree.root / "proc/self/ns/cgroup").symlink_to("cgroup:[4026532099]")
    unknown(tree)


@pytest.mark.parametrize("missing", ["memory.current", "cgroup.procs"])
def test_a_limit_that_is_there_in_part_is_unknown(tree: Tree, missing: str) -> None:
    tree.unified("/one")
    tree.limit("/sys/fs/cgroup/one", 8 * MIB, 0)
    if missing == "cgroup.procs":
        (tree.root / "sys/fs/cgroup/one/memory.max").unlink()
    (tree.root / "sys/fs/cgroup/one" / missing).unlink()
    unknown(tree)


@pytest.mark.parametrize("text", ["", "lots", "-1"])
def test_a_limit_that_is_no_number_is_unknown(tree: Tree, text: str) -> None:
    tree.unified("/one")
    tree.limit("/sys/fs/cgroup/one", text, 0)
    assert "memory.max" in unknown(tree).why


def test_without_the_overcommit_setting_strict_overcommit_cannot_be_excluded(tree: Tree) -> None:
    tree.unified("/one")
    tree.limit("/sys/fs/cgroup/one", 8 * MIB, 0)
    (tree.root / "proc/sys/vm/overcommit_memory").unlink()
    answer = unknown(tree)
    assert "overcommit_memory" in answer.why
    assert answer.room == Room(8 * MIB, "the memory limit of cgroup /sys/fs/cgroup/one")


def test_pid_0_is_no_process(tree: Tree) -> None:
    tree.unified("/one")
    tree.limit("/sys/fs/cgroup/one", 8 * MIB, 0)
    assert "/proc/0/cgroup" in unknown(tree, 0).why


def test_what_is_unknown_is_refused_unless_what_is_known_refuses_it_first() -> None:
    with pytest.raises(MemoryUnknown, match=r"retrieving 7 takes 4096 bytes.*: no /proc") as caught:
        memory.require(1, Unknown("no /proc"), "retrieving 7")
    assert (caught.value.needed, caught.value.why) == (4096, "no /proc")
    assert "check_memory=False" in caught.value.hint
    with pytest.raises(NotEnoughMemory):
        memory.require(2 * MIB, Unknown("no /proc", Room(MIB, "the one limit")), "retrieving 7")
    with pytest.raises(MemoryUnknown):
        memory.require(MIB, Unknown("no /proc", Room(MIB, "the one limit")), "retrieving 7")


class Told:
    """Limits that somebody else reads."""

    def __init__(self, answer: memory.Answer) -> None:
        self._answer = answer

    def chargeable(self, enough: int) -> memory.Answer:
        return self._answer

    free = chargeable

    def close(self) -> None: ...


def test_another_reader_is_asked_for_what_is_unknown_only(tree: Tree, tmp_path: Path) -> None:
    room, none = Room(MIB, "what luod says"), tmp_path / "none"
    assert memory.chargeable(none, limits=Told(room)) == room
    assert memory.free(none, limits=Told(None)) is None
    still = memory.chargeable(none, limits=Told(Unknown("luod is gone", room)))
    assert isinstance(still, Unknown)
    assert still.why.endswith("luod is gone")
    assert still.room == room
    tree.unified("/one")
    tree.limit("/sys/fs/cgroup/one", 8 * MIB, 0)
    assert memory.chargeable(tree.root, limits=Told(None)) == Room(
        8 * MIB, "the memory limit of cgroup /sys/fs/cgroup/one"
    )


def test_files_that_are_kept_open_are_shared_and_closed_with_the_last_user() -> None:
    before = len(os.listdir("/proc/self/fd"))
    one, other = memory.keep(), memory.keep()
    assert one is not None
    assert one is other
    assert one.chargeable(1) == memory.chargeable(enough=1)
    del one
    assert not isinstance(other.free(1), Unknown)
    del other
    assert len(os.listdir("/proc/self/fd")) == before


def test_mount_points_with_blanks_are_found(tree: Tree) -> None:
    tree.unified("/one", at="/sys/fs/c\\040group")
    tree.limit("/sys/fs/c group/one", 8 * MIB, 2 * MIB)
    assert chargeable(tree) == 6 * MIB


def test_cgroup_v1_beside_a_unified_hierarchy_without_controllers(tree: Tree) -> None:
    tree.write("proc/self/cgroup", "4:memory:/box/one\n1:name=systemd:/\n0::/")
    tree.mounts(OTHER1, CGROUP1, at="/sys/fs/cgroup/memory")
    tree.write("sys/fs/cgroup/memory/memory.limit_in_bytes", 9223372036854771712)
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
    tree.unified("/")
    tree.overcommit(mode, 1000, 300)
    tree.write("proc/self/statm", "1 1 1 1 0 1 0")
    tree.write("proc/sys/vm/admin_reserve_kbytes", 100)
    tree.write("proc/sys/vm/user_reserve_kbytes", 0)
    assert chargeable(tree) == left


def test_strict_overcommit_keeps_the_users_reserve_back(tree: Tree) -> None:
    tree.unified("/")
    tree.overcommit(2, 1000000, 0)
    tree.write("proc/sys/vm/admin_reserve_kbytes", 0)
    tree.write("proc/sys/vm/user_reserve_kbytes", 64)
    tree.write("proc/self/statm", "3200000 1 1 1 0 1 0")
    assert chargeable(tree) == (1000000 - 64) * 1024


def test_what_is_new_must_also_be_free(tree: Tree) -> None:
    tree.unified("/one")
    tree.limit("/sys/fs/cgroup/one", 2 * MIB, MIB)
    tree.overcommit(0, 1, 0)
    room = memory.free(tree.root)
    assert isinstance(room, Room)
    assert room.available == 900 * 1024
    assert chargeable(tree) == MIB


def test_this_machines_own_readings_make_sense() -> None:
    room = memory.free()
    assert isinstance(room, Room)
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
    rooms, why = memory.ceilings(tree.root)
    assert ([room.available for room in rooms], why) == ([0], "")


def test_a_cgroup_hierarchy_that_moved_is_found_again(tree: Tree) -> None:
    (tree.root / "proc/self/ns").mkdir(parents=True)
    tree.write("proc/self/ns/mnt", "")
    tree.unified("/one.service")
    tree.limit("/sys/fs/cgroup/one.service", 32 * MIB, 5 * MIB)
    assert chargeable(tree) == 27 * MIB
    (tree.root / "sys/fs/cgroup").rename(tree.root / "elsewhere")
    tree.unified("/one.service", at="/elsewhere")
    assert chargeable(tree) == 27 * MIB
