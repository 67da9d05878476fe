"""luod.image.initrd: which modules a kernel of one release loads from a RAM disk, by every tool's lists and rules."""

from __future__ import annotations

import gzip
import lzma
import struct
from collections.abc import Callable, Mapping

import pytest
import zstandard

from luod.errors import ImageError
from luod.image import command_line, initrd
from luod.image.initrd import Modules
from tests.image.archives import (
    END,
    MODULE,
    MODULES,
    PACKERS,
    PATH,
    RELEASE,
    cpio,
    directories,
    entry,
    link,
    with_boot_config,
)

INIT = {"init": b"#!/bin/sh\n"}
SYSTEMD = {"usr/lib/systemd/systemd-modules-load": b"\x7fELF"}
DRACUT = {"usr/lib/dracut-lib.sh": b"#!/bin/sh\n"}
INITRAMFS_TOOLS = {"scripts/functions": b"# shell\n"}
MKINITCPIO = {"init_functions": b"# shell\n"}
LIST = {"usr/lib/modules-load.d/vfio.conf": b"vfio-pci\n"}


def judged(
    disk: bytes, line: str = "quiet", options: Mapping[str, str] | None = None, release: str = RELEASE
) -> Modules:
    read = initrd.read(disk)
    return initrd.judge(read, release, command_line.line(line, options, read.boot_config), options)


def loads(files: Mapping[str, bytes], line: str = "quiet", options: Mapping[str, str] | None = None) -> bool:
    """Returns whether vfio-pci is loaded from a RAM disk with its module and these files."""
    return "vfio_pci" in judged(cpio({**INIT, PATH: MODULE, **files}), line, options).loaded


def why(files: Mapping[str, bytes], line: str = "quiet", options: Mapping[str, str] | None = None) -> str:
    """Returns why it is not."""
    found = judged(cpio({**INIT, PATH: MODULE, **files}), line, options)
    assert "vfio_pci" not in found.loaded
    return found.refused.get("vfio_pci", "")


# -- Modules -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packer", PACKERS)
def test_a_module_in_a_list_is_loaded_whatever_packs_the_disk(packer: str) -> None:
    found = judged(PACKERS[packer](cpio({**INIT, PATH: MODULE, **LIST})))
    assert (found.formats, found.loaded) == (
        {"vfio_pci": ("vfio-pci-v1",)},
        {"vfio_pci": "usr/lib/modules-load.d/vfio.conf"},
    )
    assert not found.remarks


@pytest.mark.parametrize(
    ("suffix", "pack"), [(".xz", lzma.compress), (".zst", zstandard.ZstdCompressor().compress), (".gz", gzip.compress)]
)
def test_modules_may_be_packed_themselves(suffix: str, pack: Callable[[bytes], bytes]) -> None:
    found = judged(cpio({PATH + suffix: pack(MODULE), **LIST}))
    assert (found.formats, "vfio_pci" in found.loaded) == ({"vfio_pci": ("vfio-pci-v1",)}, True)


def test_a_module_that_cannot_be_unpacked_is_not_loaded() -> None:
    found = judged(cpio({PATH + ".xz": b"nonsense", **LIST}))
    assert "damaged" in found.refused["vfio_pci"]


def test_a_packed_module_is_looked_into_if_it_is_loaded_or_where_handlers_are() -> None:
    module = f"{MODULES}/kernel/sound/other.ko.xz"
    files = {**INIT, module: lzma.compress(MODULE)}

    assert judged(cpio({**files, "conf/modules": b"other\n"})).formats == {"other": ("vfio-pci-v1",)}
    assert judged(cpio(files)).formats == {}
    assert judged(cpio({**INIT, module.replace("kernel/sound", "updates"): files[module]})).formats
    assert judged(cpio({**INIT, module.replace("sound", "arch/x86/kvm"): files[module]})).formats


def test_modules_of_another_release_do_not_count() -> None:
    found = judged(cpio({**INIT, PATH: MODULE, **LIST}), release="7.4.0")
    assert (found.formats, dict(found.loaded)) == ({}, {})
    assert found.elsewhere == {RELEASE: {"vfio_pci": ("vfio-pci-v1",)}}


@pytest.mark.parametrize(
    "disk",
    [
        directories("usr/lib") + link("lib", "usr/lib") + cpio({PATH: MODULE, **LIST}),
        cpio({PATH.removeprefix("usr/"): MODULE, "lib/modules-load.d/a.conf": b"vfio_pci\n"}),
        link("lib", "/store/lib")
        + cpio({PATH.replace("usr", "store"): MODULE, "etc/modules-load.d/a.conf": b"vfio_pci\n"}),
    ],
)
def test_modules_are_found_through_links(disk: bytes) -> None:
    assert "vfio_pci" in judged(disk).loaded


def test_a_module_that_nothing_loads_is_not_loaded() -> None:
    assert why({"bin/conf/modules": b"vfio_pci\n"}) == ""


def test_scripts_that_name_a_module_are_named() -> None:
    files = {"scripts/init-top/vfio": b"#!/bin/sh\nmodprobe vfio-pci\n"}
    assert judged(cpio({PATH: MODULE, **files})).scripts == {"vfio_pci": ("scripts/init-top/vfio",)}


# -- Dependencies, aliases, modprobe.d ----------------------------------------------------------------------------

NEEDS = (
    b"kernel/drivers/vfio/pci/vfio-pci.ko: kernel/drivers/vfio/pci/vfio-pci-core.ko kernel/vfio.ko\n"
    b"kernel/drivers/vfio/pci/vfio-pci-core.ko: kernel/vfio.ko\nkernel/vfio.ko:\nkernel/other.ko:\nnonsense\n"
)
CORE = f"{MODULES}/kernel/drivers/vfio/pci/vfio-pci-core.ko"
ALL = {
    f"{MODULES}/modules.dep": NEEDS,
    CORE: b"\x7fELF",
    f"{MODULES}/kernel/vfio.ko": b"\x7fELF",
    f"{MODULES}/kernel/other.ko": b"\x7fELF",
}


def without(name: str) -> dict[str, bytes]:
    return {path: content for path, content in ALL.items() if path != name}


def test_a_module_brings_what_it_needs() -> None:
    found = judged(cpio({PATH: MODULE, **ALL, **LIST}))
    assert set(found.loaded) == {"vfio_pci", "vfio_pci_core", "vfio"}


def test_a_module_whose_needs_are_not_met_is_not_loaded() -> None:
    assert "vfio_pci_core, which it needs" in why({**without(CORE), **LIST})
    assert loads({**without(CORE), f"{MODULES}/modules.builtin": b"kernel/vfio-pci-core.ko\n", **LIST})


def test_modprobe_finds_no_module_that_its_list_does_not_have() -> None:
    assert "finds no such module" in why({f"{MODULES}/modules.dep": b"kernel/vfio.ko:\n", **LIST})
    assert "file is missing" in why({f"{MODULES}/modules.dep": b"kernel/vfio-pci.ko:\n", **LIST})


def index(entries: Mapping[str, str]) -> bytes:
    """Returns the bytes of modules.dep.bin as depmod writes them, without sharing of prefixes."""
    out = bytearray(struct.pack(">III", 0xB007F457, 0x00020001, 0))
    by_first: dict[int, tuple[str, str]] = {ord(key[0]): (key, value) for key, value in entries.items()}
    places = {}
    for first, (key, value) in by_first.items():
        places[first] = len(out) | 0x80000000 | 0x40000000
        out += key[1:].encode() + b"\0" + struct.pack(">II", 1, 0) + value.encode() + b"\0"
    root = len(out) | 0x20000000
    first, last = min(by_first), max(by_first)
    out += bytes((first, last)) + b"".join(struct.pack(">I", places.get(at, 0)) for at in range(first, last + 1))
    struct.pack_into(">I", out, 8, root)
    return bytes(out)


def test_depmods_binary_indexes_are_read() -> None:
    """mkinitcpio leaves only these."""
    needs = {"vfio_pci": "kernel/drivers/vfio/pci/vfio-pci.ko: kernel/core.ko", "core": "kernel/core.ko:"}
    files = {f"{MODULES}/modules.dep.bin": index(needs), f"{MODULES}/kernel/core.ko": b"\x7fELF", **LIST}
    assert loads(files)
    assert not loads({**files, f"{MODULES}/modules.dep.bin": index({"core": "kernel/core.ko:"})})
    aliases = {f"{MODULES}/modules.alias.bin": index({"pci:v*": "vfio_pci"}), "etc/modules-load.d/a.conf": b"pci:v1\n"}
    assert loads(aliases)


@pytest.mark.parametrize("length", range(0, 60, 7))
def test_a_damaged_index_is_not_used(length: int) -> None:
    needs = index({"vfio_pci": "kernel/drivers/vfio/pci/vfio-pci.ko: kernel/core.ko"})
    loads({f"{MODULES}/modules.dep.bin": needs[:length], **LIST})


def test_aliases_are_followed() -> None:
    asked = {"etc/modules-load.d/a.conf": b"my-alias\n"}
    assert not loads(asked)
    assert loads({**asked, "etc/modprobe.d/a.conf": b"alias my-alias vfio-pci\n"})
    assert loads({**asked, f"{MODULES}/modules.alias": b"# Aliases\nalias my_al* vfio_pci\n"})
    assert not loads({**LIST, "etc/modprobe.d/a.conf": b"alias vfio-pci off\n"})


def test_soft_dependencies_are_loaded() -> None:
    asked = {"etc/modules-load.d/a.conf": b"other\n", **ALL}
    assert not loads(asked)
    assert loads({**asked, "etc/modprobe.d/a.conf": b"softdep other pre: vfio-pci\n"})
    assert loads({**asked, "etc/modprobe.d/a.conf": b"softdep other pre: no-such \\\n post: vfio-pci\n"})
    assert loads({**asked, f"{MODULES}/modules.softdep": b"softdep other post: vfio_pci\n"})


def test_soft_dependencies_in_a_circle_end() -> None:
    circle = b"softdep vfio_pci pre: vfio post: vfio_pci\nsoftdep vfio pre: vfio_pci\n"
    assert loads({**ALL, **LIST, "etc/modprobe.d/a.conf": circle})


def test_many_modules_that_fail_are_tried_once() -> None:
    """Each needs all behind it, and the last is missing: no program may take 2^40 steps over it."""
    names = [f"m{at}" for at in range(40)]
    lines = [
        f"{name}.ko: {' '.join(f'{other}.ko' for other in names[at + 1 :])} gone.ko" for at, name in enumerate(names)
    ]
    files = {f"{MODULES}/{name}.ko": b"\x7fELF" for name in names}
    files[f"{MODULES}/modules.dep"] = "\n".join(lines).encode()
    assert not judged(cpio({**files, "etc/modules-load.d/a.conf": b"m0\n"})).loaded


@pytest.mark.parametrize(
    ("command", "loaded"),
    [
        (b"/bin/true", False),
        (b"/bin/false", False),
        (b"/sbin/modprobe --ignore-install vfio-pci && echo done", True),
        (b"modprobe -i vfio-pci", True),
        (b"/sbin/modprobe other", False),
        (b"/bin/true\nblacklist vfio-pci\r", False),
    ],
)
def test_an_install_command_is_run_instead_of_loading(command: bytes, loaded: bool) -> None:
    assert loads({**LIST, "etc/modprobe.d/a.conf": b"install vfio-pci " + command + b"\n"}) is loaded


def test_a_module_that_is_needed_and_replaced_by_a_command_is_not_loaded() -> None:
    assert not loads({**ALL, **LIST, "etc/modprobe.d/a.conf": b"install vfio-pci-core /bin/true\n"})


BLACKLIST = {"etc/modprobe.d/a.conf": b"blacklist vfio-pci\n"}


def test_a_blacklist_concerns_those_who_honour_it() -> None:
    assert "etc/modprobe.d/a.conf blacklists it" in why({**LIST, **BLACKLIST})
    assert not loads({"conf/modules": b"vfio-pci\n", **BLACKLIST})
    assert loads({**BLACKLIST}, "rd.driver.pre=vfio-pci")
    assert loads({**BLACKLIST}, "modules=vfio-pci")
    assert not loads({**LIST}, "modprobe.blacklist=a,vfio-pci")
    assert loads({**LIST}, "modprobe.blacklist=a")
    assert not loads({**DRACUT, **SYSTEMD, **LIST}, "rd.driver.blacklist=vfio-pci")
    assert not loads({**INITRAMFS_TOOLS, "conf/modules": b"vfio-pci\n"}, "blacklist=vfio-pci")
    assert not loads({**MKINITCPIO, "config": b"MODULES=vfio-pci\n"}, "disablemodules=vfio-pci")


def test_a_blacklist_does_not_concern_what_is_needed() -> None:
    assert loads({**ALL, **LIST, "etc/modprobe.d/a.conf": b"blacklist vfio-pci-core\n"})


def test_an_alias_of_a_blacklisted_module_is_not_followed() -> None:
    asked = {"etc/modules": b"my-alias\n", "etc/modprobe.d/b.conf": b"alias my-alias vfio-pci\n"}
    assert loads(asked)
    assert not loads({**asked, **BLACKLIST})


# -- The kernel --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "loaded"),
    [
        ("module_blacklist=a,vfio_pci", False),
        ('module-blacklist="vfio_pci,a"', False),
        ("module_blacklist=vfio_pci module_blacklist=a", True),
        ("module_blacklist=vfio_pc", True),
        ("-- module_blacklist=vfio_pci", True),
        ("nomodule", False),
        ("nomodule=0", True),
        ("nomodule=off", True),
        ("nomodule nomodule=maybe", False),
    ],
)
def test_the_kernel_refuses_modules(line: str, loaded: bool) -> None:
    assert loads(LIST, line) is loaded


def test_the_kernels_blacklist_knows_names_with_underscores_only() -> None:
    """It compares bytes. What was meant is said."""
    found = judged(cpio({**INIT, PATH: MODULE, **LIST}), "module_blacklist=vfio-pci")
    assert "vfio_pci" in found.loaded
    assert any("forbids nothing" in remark for remark in found.remarks)


def test_a_module_that_needs_a_refused_one_is_not_loaded() -> None:
    assert not loads({**ALL, **LIST}, "module_blacklist=vfio_pci_core")


def test_a_kernel_without_modules_loads_none() -> None:
    assert "CONFIG_MODULES" in why(LIST, options={"CONFIG_BLK_DEV_INITRD": "y"})


KNOWN = {"CONFIG_MODULES": "y", "CONFIG_BLK_DEV_INITRD": "y"}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"CONFIG_MODULES": "y"}, "CONFIG_BLK_DEV_INITRD"),
        ({**KNOWN, "CONFIG_INITRAMFS_FORCE": "y"}, "CONFIG_INITRAMFS_FORCE"),
    ],
)
def test_a_kernel_may_ignore_its_initial_ram_disk(options: dict[str, str], reason: str) -> None:
    assert reason in why(LIST, options=options)
    assert loads(LIST, options=KNOWN)


def test_a_kernel_may_lack_the_packing_of_its_initial_ram_disk() -> None:
    disk = gzip.compress(cpio(INIT))
    assert "CONFIG_RD_GZIP" in judged(disk, options={**KNOWN, "CONFIG_RD_GZIP": "n"}).unpackable
    assert not judged(disk, options={**KNOWN, "CONFIG_RD_GZIP": "y"}).unpackable
    assert not judged(disk, options=KNOWN).unpackable


def test_what_is_built_into_the_command_line_counts() -> None:
    options = {**KNOWN, "CONFIG_CMDLINE_BOOL": "y", "CONFIG_CMDLINE": "module_blacklist=vfio_pci"}
    assert not loads(LIST, "quiet", options)


def test_another_first_program_loads_what_luod_does_not_know() -> None:
    assert "rdinit=/bin/sh starts another" in why({**LIST, "bin/sh": b"\x7fELF"}, "rdinit=/bin/sh")
    assert "is not in the initial RAM disk" in why(LIST, "rdinit=/bin/sh")
    assert loads(LIST, "rdinit=/init")


def test_the_first_program_may_have_another_name() -> None:
    disk = link("init", "usr/lib/systemd/systemd") + cpio({"usr/lib/systemd/systemd": b"\x7fELF", PATH: MODULE, **LIST})
    assert "vfio_pci" in judged(disk, "rdinit=/usr/lib/systemd/systemd").loaded
    other = cpio({**INIT, "usr/lib/systemd/systemd": b"\x7fELF", PATH: MODULE, **LIST})
    assert "vfio_pci" in judged(other, "rdinit=/usr/lib/systemd/systemd").loaded


def test_noinitrd_is_about_other_disks_and_is_said() -> None:
    found = judged(cpio({**INIT, PATH: MODULE, **LIST}), "noinitrd")
    assert "vfio_pci" in found.loaded
    assert any("noinitrd" in remark for remark in found.remarks)


def test_a_boot_configuration_has_parameters_too() -> None:
    disk = with_boot_config(cpio({**INIT, PATH: MODULE, **LIST}), "kernel.module_blacklist = vfio_pci\n")
    assert "vfio_pci" not in judged(disk, "bootconfig").loaded
    assert "vfio_pci" in judged(disk, "quiet").loaded
    asks = with_boot_config(cpio({**INIT, PATH: MODULE}), "kernel.rd.modules_load = vfio-pci\n")
    assert "vfio_pci" in judged(asks, "bootconfig").loaded


# -- Lists -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "loaded"),
    [
        ("conf/modules", b"  # comment\n vfio-pci ids=8086:1\n", True),
        ("conf/modules", b"vfio-pci", False),  # the shell's read leaves out a line without an end
        ("conf/modules", b"vfio-pci\r\n", False),  # the carriage return is part of the name
        ("etc/modules", b"vfio-pci\r\n", False),
        ("etc/modules-load.d/a.conf", b"vfio-pci\r\n", True),  # systemd takes it for an end of the line
        ("etc/modules-load.d/a.conf", b"; comment\n\n  vfio_pci  ", True),
        ("etc/modules-load.d/a.conf", b"vfio-pci ids=8086:1\n", False),  # systemd takes the line for the name
        ("etc/modules-load.d/a", b"vfio-pci\n", False),
        ("etc/modules-load.d/a.conf/b.conf", b"vfio-pci\n", False),
        ("run/modules-load.d/a.conf", b"vfio-pci\n", True),
        ("config", b'EARLYHOOKS=""\nMODULES="ext4 vfio-pci"\n', True),
        ("config", b"MODULES=(vfio_pci)\n", True),
        ("config", b"MODULES=vfio_pci\nMODULES=''\n", False),
        ("config", b"#MODULES=vfio_pci\n", False),
        ("etc/modules", b"a # comment\nvfio-pci ids=1:2 # another\n", True),
        ("etc/modules", b"# vfio-pci\n", False),
        ("etc/cmdline.d/20-force_drivers.conf", b"rd.driver.pre=vfio_pci\n", True),
        ("etc/cmdline.d/20-force_drivers", b"rd.driver.pre=vfio_pci\n", False),
        ("etc/cmdline", b'quiet "rd.driver.pre=a,vfio-pci"', True),
        ("etc/cmdline.d/a.conf", b"rd.driver.post=vfio_pci\n", True),
        ("etc/cmdline.d/a.conf", b"modules_load=vfio_pci\n", False),
    ],
)
def test_every_list_is_read_as_its_tool_reads_it(name: str, content: bytes, loaded: bool) -> None:
    assert loads({name: content}) is loaded


@pytest.mark.parametrize(
    ("line", "loaded"),
    [
        ("modules_load=a,vfio-pci", True),
        ("modules-load=vfio-pci", True),
        ("rd.modules_load=vfio_pci", True),
        ("rd.modules-load='vfio_pci,a'", True),
        ('"modules_load=a,vfio-pci"', True),
        ("-- modules_load=vfio-pci", True),  # systemd does not end at --
        ("rd.driver.pre=vfio-pci", True),
        ("rdloaddriver=vfio-pci", True),
        ("modules=loop,vfio-pci", True),
        ("modules=vfio-pci modules=loop", False),
        ("earlymodules=vfio-pci", True),
        ("xmodules_load=vfio-pci", False),
        ("modules_load", False),
    ],
)
def test_the_command_line_loads_modules_too(line: str, loaded: bool) -> None:
    assert loads({}, line) is loaded


def test_the_first_directory_decides_about_a_list() -> None:
    assert not loads({**LIST, "etc/modules-load.d/vfio.conf": b"# empty\n"})
    assert not loads({**LIST, "etc/modules-load.d/vfio.conf": b""})
    assert loads({**LIST, "etc/modules-load.d/other.conf": b""})
    assert loads({"run/modules-load.d/a.conf": b"vfio-pci\n", "usr/lib/modules-load.d/a.conf": b""})
    assert not loads({"usr/local/lib/modules-load.d/vfio.conf": b"", **LIST})


def test_a_link_to_dev_null_masks_a_list() -> None:
    disk = cpio({**INIT, PATH: MODULE, **LIST}) + directories("etc/modules-load.d")
    assert "vfio_pci" in judged(disk + END).loaded
    assert "vfio_pci" not in judged(disk + link("etc/modules-load.d/vfio.conf", "/dev/null") + END).loaded


def test_a_list_may_be_a_link() -> None:
    disk = cpio({**INIT, PATH: MODULE, "nix/store/h-modules-load.conf": b"vfio-pci\n", "etc/modules-load.d/": b""})
    disk += directories("etc/modules-load.d") + link("etc/modules-load.d/nixos.conf", "/nix/store/h-modules-load.conf")
    assert "vfio_pci" in judged(disk + END).loaded


def test_a_later_archive_replaces_a_list() -> None:
    first = cpio({**INIT, PATH: MODULE, "conf/modules": b"vfio-pci\n"})
    assert "vfio_pci" in judged(first).loaded
    assert "vfio_pci" not in judged(first + cpio({"conf/modules": b"ext4\n"})).loaded


@pytest.mark.parametrize("system", [INITRAMFS_TOOLS, SYSTEMD, DRACUT, MKINITCPIO])
def test_only_the_lists_of_the_tool_that_made_the_disk_count(system: dict[str, bytes]) -> None:
    by = {
        "conf/modules": (b"vfio-pci\n", INITRAMFS_TOOLS),
        "etc/modules-load.d/a.conf": (b"vfio-pci\n", SYSTEMD),
        "etc/cmdline.d/a.conf": (b"rd.driver.pre=vfio-pci\n", DRACUT),
        "config": (b"MODULES=vfio-pci\n", MKINITCPIO),
    }
    for name, (content, whose) in by.items():
        assert loads({**system, name: content}) is (whose is system)


STORE = "/nix/store/7q1-linux-7.3.4-modules-shrunk/lib/modules"
STAGE_1 = f"""#! /nix/store/2c4-extra-utils/bin/ash
echo "<<< NixOS Stage 1 >>>"
mkdir -p /lib
ln -s {STORE} /lib/modules
for i in dm_mod %s; do
    info "loading module $(basename $i)..."
    modprobe $i
done
for i in vfio-not-a-module; do echo $i; done
"""


@pytest.mark.parametrize(("named", "loaded"), [("vfio-pci", True), ("vfio_pci", True), ("virtio_net", False)])
def test_nixos_loads_modules_of_its_store_in_a_loop_of_its_init(named: str, loaded: bool) -> None:
    module = f"{STORE}/{RELEASE}/kernel/drivers/vfio/pci/vfio-pci.ko".lstrip("/")
    found = judged(cpio({"init": (STAGE_1 % named).encode(), module: MODULE}))

    assert found.formats == {"vfio_pci": ("vfio-pci-v1",)}
    assert ("vfio_pci" in found.loaded) is loaded
    assert found.loaded.get("vfio_pci", "boot.initrd.kernelModules in /init") == "boot.initrd.kernelModules in /init"


def test_a_link_of_another_init_is_not_made() -> None:
    module = f"{STORE}/{RELEASE}/kernel/drivers/vfio/pci/vfio-pci.ko".lstrip("/")
    other = (STAGE_1 % "vfio-pci").replace("Stage 1", "boot")

    assert judged(cpio({"init": other.encode(), module: MODULE})).formats == {}


def test_alpine_is_known_by_its_init() -> None:
    alpine = {"init": b"#!/bin/sh\nmodprobe -a $KOPT_modules\n"}
    assert loads({**alpine}, "modules=vfio-pci")
    assert not loads({**alpine, "conf/modules": b"vfio-pci\n"})


def test_dracuts_own_files_can_be_left_out() -> None:
    forced = {**DRACUT, "etc/cmdline.d/20-force_drivers.conf": b"rd.driver.pre=vfio_pci\n"}
    assert loads(forced)
    assert not loads(forced, "rd.hostonly=0")
    assert loads(forced, "rd.hostonly=0 rd.driver.pre=vfio_pci")


# -- Remarks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("disk", "remark"),
    [
        (entry("a/b", b"x") + END, "directories have no entry"),
        (entry("a", b"x"), "no end mark"),
        (cpio({"a": b"x"}) + b"junk", "stops unpacking"),
        (cpio({PATH: MODULE}), "no /init"),
        (with_boot_config(cpio(INIT), "kernel.a\n"), "is not used"),
        (with_boot_config(cpio(INIT), "kernel {\n"), "not valid"),
    ],
)
def test_what_is_odd_is_said(disk: bytes, remark: str) -> None:
    assert any(remark in each for each in judged(disk).remarks)


def test_a_sound_disk_has_no_remarks() -> None:
    assert judged(cpio({**INIT, PATH: MODULE, **LIST})).remarks == ()


def test_names_that_are_not_utf_8_can_be_printed() -> None:
    disk = cpio({**INIT, PATH: MODULE, "init": b"#!vfio\n"}).replace(b"vfio-pci.ko", b"vfio\xffpci.ko")
    found = judged(disk)
    assert "vfio_pci" not in found.loaded
    repr(found).encode()
    assert [name.encode() for name in found.formats] == [b"vfio\\xffpci"]


def test_what_is_no_disk_is_an_error() -> None:
    with pytest.raises(ImageError, match="web page"):
        initrd.read(b"<html>404 Not Found</html>")
