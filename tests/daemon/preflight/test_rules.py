"""Preflight's rules on facts made up here: what the running kernel writes, what the next one reads, limits, seals."""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ParamSpec

import pytest

from luod import image, memory
from luod.daemon.preflight import limits, state
from luod.daemon.preflight.check import host
from luod.daemon.preflight.devices import Devices
from luod.daemon.preflight.facts import Declaration, Facts, Host, InitrdFile, KernelFile, Loading, Memory
from luod.daemon.preflight.findings import NAMES, refusing, with_ignored
from luod.daemon.preflight.rules import judge
from luod.daemon.preflight.running import Running, running
from luod.frozen import replace
from luod.image.bzimage import Image
from luod.image.contents import Contents, family_of
from luod.image.initrd import Modules
from luod.ipc.types.admin import Finding
from luod.ipc.types.updates import DeclaredFile, DeclaredSession
from luod.kexec import LoadLimits
from tests.image.test_image import bzimage

P = ParamSpec("P")

MIB = 1 << 20
FORMATS = ("kho-v4", "luo-v5", "memfd-v2")
HEADER = Image((2, 15), True, "", 0, 0, "none", 16 * MIB)
BANNER = "Linux version 7.3.4-test (someone@somewhere) (gcc) #1 SMP"


def names(findings: Iterable[Finding]) -> list[str]:
    found = [each.name for each in findings]
    assert set(found) <= NAMES
    return found


def writes(*formats: str, scratch: tuple[int, ...] = (68 * MIB, 204 * MIB)) -> Running:
    by_family = {family_of(name): frozenset({name}) for name in formats}
    return Running(by_family, assumed=False, scratch=scratch)


def found(
    *formats: str,
    now: Running | None = None,
    line: str = "liveupdate=on kho=on panic=1",
    kinds: Iterable[str] = ("memfd",),
    options: dict[str, str] | None = None,
    modules: Modules | None = None,
    initrd_size: int = 0,
    header: Image | None = HEADER,
) -> list[Finding]:
    kernel = image.Kernel(header, Contents("7.3.4", formats or FORMATS, "", options))
    files = [DeclaredFile(token, None, kind, 0, 0, 0, "preserved") for token, kind in enumerate(kinds)]
    facts = Facts(
        kernel=KernelFile((1,), kernel),
        initrd=InitrdFile((2,), initrd_size, modules),
        command_line=line,
        running=now or writes(*FORMATS),
        loading=Loading(),
        sessions=(),
        declarations=(Declaration("vm", 1, (DeclaredSession("vm", files),)),),
        stashed=(),
        memory=Memory(Path("/nonexistent")),
        devices=Devices(),
        host=Host(("active",)),
    )
    return judge(facts).findings


def naming(find: Callable[P, list[Finding]]) -> Callable[P, list[str]]:
    """Returns `find` with the names of the findings as its value."""
    return lambda *args, **kwargs: names(find(*args, **kwargs))


judged = naming(found)


# -- The next kernel ---------------------------------------------------------------------------------------------


def test_the_same_formats_are_no_finding() -> None:
    assert judged() == []


def test_a_kernel_that_reads_several_formats_reads_this_one() -> None:
    assert judged(*FORMATS, "memfd-v3", "luo-v6", now=writes("luo-v6", "kho-v4", "memfd-v2")) == []


def test_what_is_not_known_is_not_compared() -> None:
    assert judged("kho-v9", "luo-v9", "memfd-v9", now=writes()) == []


def test_assumed_formats_are_compared_and_said_to_be_assumed() -> None:
    now = Running(writes(*FORMATS).formats, assumed=True, scratch=(204 * MIB,))
    assert judged("kho-v4", "luo-v6", "memfd-v2", now=now) == ["formats-assumed", "luo-format"]


def test_what_debugfs_would_tell_is_missed_once() -> None:
    assert judged(now=Running(writes(*FORMATS).formats, assumed=True, scratch=None)) == ["debugfs-missing"]
    assert judged(now=Running(writes(*FORMATS).formats, assumed=False, scratch=None)) == ["scratch-unknown"]


def test_a_kind_of_any_length_does_not_fill_the_sentence() -> None:
    (unknown,) = (each.what for each in found(kinds=("memfd", "x" * 100_000)) if each.name == "kind-unknown")
    assert "xxx…" in unknown
    assert len(unknown) < 300


def test_devices_need_their_handlers_too() -> None:
    kinds = ("memfd", "vfio", "iommufd")
    assert judged(kinds=kinds) == ["handler-missing", "handler-missing"]
    assert judged(*FORMATS, "vfio-pci-v1", "iommufd-v1", kinds=kinds) == []


def test_a_module_must_be_loaded_and_of_the_same_format() -> None:
    now = writes(*FORMATS, "vfio-pci-v1")
    for loaded, version, found in (
        (True, "v1", []),
        (True, "v2", ["handler-format"]),
        (False, "v1", ["handler-not-loaded"]),
    ):
        modules = Modules({"vfio_pci": (f"vfio-pci-{version}",)}, {"vfio_pci": "conf/modules"} if loaded else {})
        assert judged(now=now, kinds=("vfio",), modules=modules) == found


def said(name: str, modules: Modules | None, options: dict[str, str] | None = None) -> str:
    """Returns the text of the finding of this name when a VFIO file is declared."""
    findings = found(kinds=("vfio",), modules=modules, options=options, initrd_size=4096)
    return next(each.what for each in findings if each.name == name)


def test_a_module_that_is_not_loaded_comes_with_what_luod_knows_of_it() -> None:
    named = {"vfio_pci": ("vfio-pci-v1",)}
    assert said("handler-not-loaded", Modules(named)).endswith("initial RAM disk loads")
    assert "(vfio_pci: it is blacklisted)" in said(
        "handler-not-loaded", Modules(named, {}, {"vfio_pci": "it is blacklisted"})
    )
    assert "init, a/b" in said("handler-not-loaded", Modules(named, scripts={"vfio_pci": ("init", "a/b")})).replace(
        "a/b, init", "init, a/b"
    )


def test_a_missing_handler_comes_with_where_luod_looked() -> None:
    assert "neither has its initial RAM disk" in said("handler-missing", Modules())
    assert "for Linux 6.1 only" in said("handler-missing", Modules(elsewhere={"6.1": {"vfio_pci": ("vfio-pci-v1",)}}))
    assert "cannot look into its initial RAM disk" in said("handler-missing", None)
    built_in = {"CONFIG_INITRAMFS_SOURCE": "usr/list"}
    assert "CONFIG_INITRAMFS_SOURCE" in said("handler-missing", Modules(), built_in)


def test_a_disk_that_this_kernel_cannot_unpack_is_refused_and_an_odd_one_warned_of() -> None:
    assert judged(modules=Modules(unpackable="it is packed with zstd", remarks=("odd",))) == [
        "initrd-unusable",
        "initrd-doubtful",
    ]


def test_the_command_line_that_is_built_in_counts() -> None:
    options = {"CONFIG_CMDLINE_BOOL": "y", "CONFIG_CMDLINE": "panic=1 liveupdate=on kho=on"}
    assert judged(line="quiet", options=options) == []
    assert judged(options={**options, "CONFIG_CMDLINE": "quiet", "CONFIG_CMDLINE_OVERRIDE": "y"}) == [
        "liveupdate-off",
        "kho-off",
        "no-panic",
    ]


def test_h26_what_is_written_with_device_files_must_be_read_too() -> None:
    devices = (*FORMATS, "vfio-pci-v1")
    now = writes(*devices, "pci-v2")
    assert judged(*devices, kinds=("vfio",), now=now) == ["flb-format"]
    assert judged(*devices, "pci-v3", kinds=("vfio",), now=now) == ["flb-format"]
    assert judged(*devices, "pci-v3", "pci-v2", kinds=("vfio",), now=now) == []
    assert judged(*devices, kinds=("memfd",), now=now) == []
    # Without its handler nothing else of a device matters.
    assert judged(*FORMATS, kinds=("vfio",), now=now) == ["handler-missing"]
    # A kernel whose PCI core writes nothing with a number.
    assert judged(*devices, kinds=("vfio",), now=writes(*devices)) == []
    both = writes(*devices, "iommufd-v1", "pci-v2", "iommu-liveupdate-v1")
    known = (*devices, "iommufd-v1", "pci-v2")
    assert judged(*known, kinds=("vfio", "iommufd"), now=both) == ["flb-format"]
    assert judged(*known, "iommu-liveupdate-v1", kinds=("vfio", "iommufd"), now=both) == []


def test_kho_may_be_on_by_the_kernels_configuration() -> None:
    on = {"CONFIG_KEXEC_HANDOVER_ENABLE_DEFAULT": "y"}
    assert judged(line="liveupdate=on panic=1", options=on) == []
    assert judged(line="liveupdate=on kho=off panic=1", options=on) == ["kho-off"]
    assert judged(line="liveupdate=on panic=1", options={}) == ["kho-off"]


def test_words_behind_two_dashes_are_inits() -> None:
    assert judged(line="panic=1 -- liveupdate=on kho=on") == ["liveupdate-off", "kho-off"]


@pytest.mark.parametrize(("line", "found"), [("panic=0", ["no-panic"]), ("panic=10", []), ("", ["no-panic"])])
def test_a_panic_must_end(line: str, found: list[str]) -> None:
    assert judged(line=f"liveupdate=on kho=on {line}") == found


def test_a_panic_may_end_by_the_kernels_configuration() -> None:
    assert judged(line="liveupdate=on kho=on", options={"CONFIG_PANIC_TIMEOUT": "-1"}) == []
    assert judged(line="liveupdate=on kho=on", options={"CONFIG_PANIC_TIMEOUT": "0"}) == ["no-panic"]


@pytest.mark.parametrize(
    ("running_line", "line", "found"),
    [
        ("root=/dev/vda ro", "", ["root-missing"]),
        ("root=/dev/vda ro", "root=", ["root-missing"]),
        ("root=/dev/vda ro", "-- root=/dev/vda", ["root-missing"]),
        ("root=/dev/vda ro", "root=UUID=1", []),
        ("rootwait", "", []),
        ("root=", "", []),
        ("", "", []),
    ],
)
def test_a_root_file_system_that_the_running_line_names_is_missed(
    running_line: str, line: str, found: list[str]
) -> None:
    now = replace(writes(*FORMATS), command_line=running_line)
    assert judged(now=now, line=f"liveupdate=on kho=on panic=1 {line}") == found


def test_the_running_line_is_read(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cmdline").write_bytes(b"root=/dev/vda\n")
    assert running(tmp_path).command_line == "root=/dev/vda"


@pytest.mark.parametrize(
    ("now", "loads", "found"),
    [
        (LoadLimits(), 3, []),
        (LoadLimits(disabled=True), 1, ["kexec-disabled"]),
        (LoadLimits(loads_left=3), 3, []),
        (LoadLimits(loads_left=2), 3, ["kexec-load-limit"]),
        (LoadLimits(loads_left=1), 1, []),
        (LoadLimits(loads_left=0), 1, ["kexec-load-limit"]),
        (LoadLimits(loads_left=0), 0, []),
        (LoadLimits(loads_left=0, disabled=True), 0, []),
        # An image must be loaded once more where loads are not counted.
        (LoadLimits(disabled=True, counted=False), 0, ["kexec-disabled"]),
    ],
)
def test_the_kernel_must_allow_every_load_until_the_jump(now: LoadLimits, loads: int, found: list[str]) -> None:
    assert names(limits.judge(now, loads=loads)) == found


@pytest.mark.parametrize(("counted", "found"), [(True, []), (False, ["loads-not-counted"])])
def test_a_kernel_that_does_not_count_loads_is_a_warning(counted: bool, found: list[str]) -> None:
    assert names(limits.counting(LoadLimits(counted=counted))) == found


def test_an_elf_file_cannot_be_loaded() -> None:
    assert judged(header=None) == ["image-not-loadable"]


@pytest.mark.parametrize(
    ("scratch", "size", "found"),
    [
        ((68, 204), 128, []),
        ((68, 204), 203, []),
        ((68, 204), 205, ["scratch-too-small"]),
        ((68, 204), 256, ["scratch-too-small"]),
        ((100,), 83, []),
        ((100,), 85, ["scratch-too-small"]),
        ((15, 15), 0, ["scratch-too-small"]),
        ((), 0, ["scratch-too-small"]),
    ],
)
def test_h21_image_and_initrd_each_take_one_piece_of_scratch(
    scratch: tuple[int, ...], size: int, found: list[str]
) -> None:
    now = writes(*FORMATS, scratch=tuple(each * MIB for each in scratch))
    assert judged(now=now, initrd_size=size * MIB) == found


# -- What the running kernel says --------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Returns the root of a machine's /proc and /sys, with the files that the rules read."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/version").write_text(BANNER + "\n")
    (tmp_path / "boot").mkdir()
    return tmp_path


def show_in_debugfs(root: Path, *, kho: str = "kho-v4", luo: str = "luo-v5") -> None:
    """Writes the debugfs files as measured on 7.3: a device tree with `compatible`, and LUO's block."""
    directory = root / "sys/kernel/debug/kho/out"
    (directory / "sub_fdts").mkdir(parents=True)
    value = kho.encode() + b"\0"
    (directory / "fdt").write_bytes(b"\xd0\r\xfe\xed" + bytes(52) + struct.pack(">III", 3, len(value), 21) + value)
    (directory / "sub_fdts/LUO").write_bytes(luo.encode().ljust(8, b"\0") + bytes(24))
    (directory / "scratch_len").write_text("0x4400000\n0x0\n0xcc00000\n")


def kernel(*formats: str, banner: str = BANNER) -> bytes:
    strings = b"\0".join(name.encode() for name in formats)
    return bzimage(gzip.compress(b"\x7fELF\0" + banner.encode() + b"\n\0" + strings + b"\0"))


def test_debugfs_tells_formats_and_scratch(root: Path) -> None:
    show_in_debugfs(root)
    found = running(root)
    assert found.formats["kho"] | found.formats["luo"] == {"kho-v4", "luo-v5"}
    assert not found.assumed
    assert found.scratch == (0x4400000, 0xCC00000)
    # It does not tell the handlers', but those of luo-v5 are known.
    assert found.formats["memfd"] == {"memfd-v2"}


def test_handlers_of_another_luo_are_not_known(root: Path) -> None:
    show_in_debugfs(root, luo="luo-v7")
    assert set(running(root).formats) == {"kho", "luo"}


@pytest.mark.parametrize("path", ["boot/vmlinuz-7.3.4-test", "lib/modules/7.3.4-test/vmlinuz"])
def test_the_image_of_the_running_kernel_tells_its_handlers(root: Path, path: str) -> None:
    show_in_debugfs(root, luo="luo-v7")
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(kernel("luo-v7", "kho-v4", "memfd-v5"))
    assert running(root).formats["memfd"] == {"memfd-v5"}


def test_an_image_of_another_build_tells_nothing(root: Path) -> None:
    (root / "boot/vmlinuz-7.3.4-test").write_bytes(kernel("luo-v7", "memfd-v5", banner=BANNER + " (other)"))
    found = running(root)
    assert (found.assumed, found.scratch) == (True, None)
    assert found.formats["memfd"] == {"memfd-v2"}


def test_a_damaged_image_tells_nothing(root: Path) -> None:
    (root / "boot/vmlinuz-7.3.4-test").write_bytes(b"nonsense")
    assert running(root).assumed


# -- What is held ------------------------------------------------------------------------------------------------


def declares(name: str, *files: DeclaredFile, pid: int | None = 7) -> Declaration:
    return Declaration(name, pid, (DeclaredSession(name, list(files)),))


def memfd(size: int, *, when: str = "preserved", seals: int = 0) -> DeclaredFile:
    return DeclaredFile(1, "ram", "memfd", size, size, seals, when)  # type: ignore[arg-type]


def found_in(root: Path, *declarations: Declaration) -> list[str]:
    findings = [*state.preserve(declarations, root), *state.retrieve(declarations, root)]
    return names([*findings, *state.unknown(declarations, root)])


@pytest.fixture
def limited(root: Path) -> Path:
    """Makes a machine with 1000 MiB free, and a process 7 in a cgroup whose 100 MiB are all in use."""
    (root / "proc/meminfo").write_text(f"MemTotal: {2000 * 1024} kB\nMemAvailable: {1000 * 1024} kB\n")
    (root / "proc/self").mkdir()
    number = root.stat().st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    (root / "proc/self/mountinfo").write_text(f"30 24 {device} / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    (root / "proc/sys/vm").mkdir(parents=True)
    (root / "proc/sys/vm/overcommit_memory").write_text("0\n")
    for pid in (1, 7, 8):
        (root / f"proc/{pid}").mkdir()
        (root / f"proc/{pid}/cgroup").write_text("0::/\n" if pid == 1 else "0::/vms\n")
    group = root / "sys/fs/cgroup/vms"
    group.mkdir(parents=True)
    (group / "memory.max").write_text(f"{100 * MIB}\n")
    (group / "memory.current").write_text(f"{100 * MIB}\n")
    (group / "memory.stat").write_text("inactive_file 0\n")
    (group.parent / "cgroup.procs").write_text("")
    show_in_debugfs(root)
    return root


def test_h1_what_is_retrieved_must_fit_the_limits_as_a_whole(limited: Path) -> None:
    """The memory is charged already: that nothing is left of the limit now says nothing about the next kernel."""
    assert found_in(limited, declares("vm", memfd(100 * MIB))) == []
    assert found_in(limited, declares("vm", memfd(101 * MIB))) == ["memory-retrieve"]


def test_h1_participants_of_one_cgroup_share_its_limit(limited: Path) -> None:
    two = declares("a", memfd(60 * MIB)), declares("b", memfd(60 * MIB), pid=8)
    assert found_in(limited, two[0]) == found_in(limited, two[1]) == []
    assert found_in(limited, *two) == ["memory-retrieve"]


def test_h2_what_is_to_be_preserved_must_find_memory(limited: Path) -> None:
    (limited / "sys/fs/cgroup/vms/memory.max").write_text("max\n")
    assert found_in(limited, declares("vm", memfd(200 * MIB, when="preparing"))) == []
    full = declares("a", memfd(900 * MIB, when="preparing")), declares("b", memfd(900 * MIB, when="freezing"), pid=8)
    assert found_in(limited, full[0]) == []
    holes = DeclaredFile(2, None, "memfd", 600 * MIB, 0, 0, "preparing")
    assert found_in(limited, declares("a", holes)) == []
    # Each alone fits, both do not.
    assert found_in(limited, declares("a", holes), declares("b", holes, pid=8)) == ["memory-preserve"]


def test_a5_what_luod_cannot_read_of_a_participants_limits_is_a_refusal(limited: Path) -> None:
    (found,) = state.unknown([declares("vm", memfd(MIB), pid=None), declares("other", pid=None)], limited)
    assert (found.name, found.severity) == ("memory-unknown", "refusal")
    assert "participants: vm (" in found.what
    assert found_in(limited, declares("vm", memfd(MIB, when="preparing"), pid=99)) == ["memory-unknown"]
    (limited / "sys/fs/cgroup/vms/memory.current").unlink()
    assert found_in(limited, declares("vm", memfd(100 * MIB, when="preparing"))) == ["memory-unknown"]
    # What is too much for a limit that is known stays that.
    too_much = declares("vm", memfd(101 * MIB, when="preparing"))
    assert found_in(limited, too_much) == ["memory-retrieve", "memory-unknown"]


def test_strict_overcommit_limits_what_can_be_retrieved(root: Path) -> None:
    (root / "proc/sys/vm").mkdir(parents=True)
    (root / "proc/sys/vm/overcommit_memory").write_text("2\n")
    (root / "proc/meminfo").write_text("CommitLimit: 1000 kB\nCommitted_AS: 900 kB\n")
    assert [room.available for room in memory.ceilings(root, 7)[0]] == [1000 * 1024]


@pytest.fixture
def watchdogs(root: Path) -> Path:
    device = root / "sys/class/watchdog/watchdog0"
    device.mkdir(parents=True)
    return device


@pytest.mark.parametrize(("shown", "found"), [("active\n", []), ("inactive\n", ["no-watchdog"]), (None, [])])
def test_a_watchdog_must_run(watchdogs: Path, root: Path, shown: str | None, found: list[str]) -> None:
    if shown is not None:
        (watchdogs / "state").write_text(shown)
    assert names(state.watchdog(host(root).watchdogs)) == found


def test_no_watchdog_at_all_is_warned_of(root: Path) -> None:
    assert names(state.watchdog(host(root).watchdogs)) == ["no-watchdog"]


def test_a_warning_cannot_be_ignored_and_refuses_nothing() -> None:
    both = [
        Finding("no-panic", "warning", "", "", ""),
        Finding("luo-missing", "refusal", "", "", ""),
    ]
    marked = with_ignored(both, {"luo-missing", "no-panic"})
    assert [(each.name, each.ignored) for each in marked] == [("luo-missing", True), ("no-panic", False)]
    assert refusing(marked) == []
    assert [each.name for each in refusing(with_ignored(both, set()))] == ["luo-missing"]
