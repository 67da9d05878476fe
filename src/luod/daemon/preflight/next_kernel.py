"""Whether the next kernel takes over what this one carries to it: its image, its initial RAM disk, its command line.

Pure: facts in, findings out.
"""

from __future__ import annotations

from luod.daemon.preflight.findings import finding, listed
from luod.daemon.preflight.kinds import KINDS, beside
from luod.frozen import frozen
from luod.image.command_line import Line, enabled, parameters
from luod.image.contents import family_of
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from luod import image
    from luod.daemon.preflight.running import Running
    from luod.image.initrd import Modules
    from luod.ipc.types.admin import Finding

_PAGE: Final = 4096
_ALIGNMENT: Final = 2 * 1024 * 1024
_SMALL_CHANGE: Final = 256 * 1024
"""Bytes for boot parameters, command line and purgatory, which are loaded as well."""


@frozen
class NextKernel:
    """`initrd_size` in bytes, 0 without one. `modules` in the initial RAM disk: None if luod could not read it, or if
    no RAM disk is given.
    """

    kernel: image.Kernel
    command_line: Line
    initrd_size: int = 0
    modules: Modules | None = None

    def builds_in(self, family: str) -> frozenset[str]:
        """Returns the formats of this family in the kernel itself."""
        return frozenset(name for name in self.kernel.contents.formats if family_of(name) == family)

    def option(self, name: str) -> str | None:
        """Returns the value of a configuration option; None if the configuration is not known."""
        options = self.kernel.contents.options
        return None if options is None else options.get(name, "n")


def loadable(kernel: image.Kernel) -> Iterator[Finding]:
    if kernel.image is None:
        yield finding(
            "image-not-loadable",
            "the image is an ELF file",
            "kexec_file_load(2) of x86_64 takes a bzImage only",
            "give the bzImage that was built from it, arch/x86/boot/bzImage or /boot/vmlinuz-…",
        )


def visible(now: Running) -> Iterator[Finding]:
    """Yields the facts of the running kernel that luod cannot read."""
    if now.assumed and now.scratch is None:
        yield finding(
            "debugfs-missing",
            "debugfs is not mounted: luod assumes the formats of Linux 7.3, and does not know the size of the scratch "
            "memory",
            "a next kernel that reads other formats loses all sessions; an image that does not fit is refused",
            "mount debugfs on /sys/kernel/debug",
        )
    elif now.assumed:
        yield finding(
            "formats-assumed",
            "luod cannot read the formats of the running kernel, and assumes those of Linux 7.3",
            "a next kernel that reads other formats loses all sessions",
            "keep the running kernel's image as /boot/vmlinuz-RELEASE",
        )
    elif now.scratch is None:
        yield finding(
            "scratch-unknown",
            "luod cannot read the size of the scratch memory",
            "the kernel refuses to load an image and an initial RAM disk that do not fit it",
            "mount debugfs on /sys/kernel/debug",
        )


def formats(following: NextKernel, now: Running, kinds: Collection[str]) -> Iterator[Finding]:
    """Yields the findings about formats. `kinds` are those of the files for the next kernel."""
    release = following.kernel.contents.release
    yield from _layer(
        following,
        now,
        "luo",
        "live update",
        "CONFIG_LIVEUPDATE",
        f"with Linux {release} every session is lost",
        "a kernel that finds live update data of another format panics while it boots",
    )
    yield from _layer(
        following,
        now,
        "kho",
        "kexec handover",
        "CONFIG_KEXEC_HANDOVER",
        f"Linux {release} would overwrite the preserved memory",
        "a kernel that finds handover data of another format ignores it, and all sessions are lost",
    )
    missing = set()
    for family in sorted(_families(kinds)):
        for found in _handler(following, now, family):
            yield found
            missing |= {family} if found.name != "handler-format" else set()
    # Without the handler all sessions are lost, and nothing else of theirs matters.
    for family in beside(kind for kind in kinds if KINDS.get(kind) not in missing):
        yield from _beside(following, now, family)
    unknown = {kind for kind in kinds if kind not in KINDS}
    if unknown:
        yield finding(
            "kind-unknown",
            f"declared files are of unknown kinds: {listed(unknown)}",
            "luod cannot tell which handler the next kernel needs for them",
            f"declare one of {', '.join(sorted(KINDS))}, or check that the next kernel has the handler",
        )


def _layer(
    following: NextKernel, now: Running, family: str, title: str, option: str, missing: str, other: str
) -> Iterator[Finding]:
    has, writes = following.builds_in(family), now.formats.get(family)
    if not has:
        off = f": it was built without {option}" if following.option(option) == "n" else f" (no {family}-v… in it)"
        yield finding(
            f"{family}-missing",
            f"the next kernel has no {title}{off}",
            missing,
            f"load a kernel built with {option}=y",
        )
    elif writes and not has & writes:
        yield finding(
            f"{family}-format",
            f"the next kernel reads {listed(has)}, the running one writes {listed(writes)}",
            other,
            "load a kernel that reads what this one writes, or finish every session and reboot",
        )


def _handler(following: NextKernel, now: Running, family: str) -> Iterator[Finding]:
    why = (
        "one file without its handler makes every open of /dev/liveupdate fail with EIO until the next boot: all "
        "sessions are lost, not only those with such files"
    )
    writes = now.formats.get(family)
    has = following.builds_in(family)
    if not has:
        bringing = _of_family({} if following.modules is None else following.modules.formats, family)
        loaded = {} if following.modules is None else following.modules.loaded
        if not bringing:
            yield finding(
                "handler-missing",
                f"the next kernel has no handler for {family} files{_where_else(following, family)}",
                why,
                "load a kernel with that handler built in, or an initial RAM disk that has and loads its module",
            )
            return
        if not bringing.keys() & loaded.keys():
            yield finding(
                "handler-not-loaded",
                f"the handler for {family} files is in module {listed(bringing)}, which nothing in the initial RAM "
                f"disk loads{_why_not(following, bringing)}",
                why + "; a module that is loaded after the device was opened is too late. luod reads the lists of "
                "initramfs-tools, dracut, systemd, mkinitcpio and mkinitfs, modprobe.d and the command line; it does "
                "not see which modules scripts and udev rules load",
                "put the module on the initial RAM disk's list (conf/modules, modules-load.d), or build it in",
            )
            return
        has = frozenset[str]().union(*(bringing[name] for name in bringing.keys() & loaded.keys()))
    if writes and not has & writes:
        yield finding(
            "handler-format",
            f"for {family} files the next kernel reads {listed(has)}, the running one writes {listed(writes)}",
            why,
            "load a kernel that reads what this one writes",
        )


def _beside(following: NextKernel, now: Running, family: str) -> Iterator[Finding]:
    """Yields a finding for data beside files (docs/hazards.md, H26). Unknown formats are not required."""
    writes, has = now.formats.get(family), following.builds_in(family)
    if not has and following.modules is not None:
        brought = _of_family(following.modules.formats, family)
        has = frozenset[str]().union(*(its for name, its in brought.items() if name in following.modules.loaded))
    if not writes or has & writes:
        return
    reads = f"reads {listed(has)}" if has else f"knows no {family}-v… at all"
    yield finding(
        "flb-format",
        f"with device files the running kernel writes data of the format {listed(writes)} (file-lifecycle-bound data), "
        f"and the next kernel {reads}",
        "the kernel takes the sessions over without the devices' own data: any process can open them before "
        "FINISH, buses are renumbered, and FINISH damages a reference count",
        "load a kernel that reads what this one writes",
    )


def _of_family(modules: Mapping[str, Collection[str]], family: str) -> dict[str, frozenset[str]]:
    """Returns the modules with formats of this family, and those formats."""
    found = {name: frozenset(each for each in its if family_of(each) == family) for name, its in modules.items()}
    return {name: its for name, its in found.items() if its}


def _where_else(following: NextKernel, family: str) -> str:
    """Returns a text about other places than the kernel."""
    said = ""
    if following.modules is not None:
        others = [name for name, its in following.modules.elsewhere.items() if _of_family(its, family)]
        said = (
            f"; its initial RAM disk has one for Linux {listed(others)} only"
            if others
            else " and neither has its initial RAM disk"
        )
    elif following.initrd_size:
        said = ", and luod cannot look into its initial RAM disk"
    if following.option("CONFIG_INITRAMFS_SOURCE") not in (None, "n", ""):
        said += "; luod does not look into the initramfs that is built into it (CONFIG_INITRAMFS_SOURCE)"
    return said


def _why_not(following: NextKernel, modules: Collection[str]) -> str:
    """Returns why modules are not loaded, as far as it is known."""
    assert following.modules is not None
    said = [f"{name}: {following.modules.refused[name]}" for name in modules if name in following.modules.refused]
    scripts = {path for name in modules for path in following.modules.scripts.get(name, ())}
    if scripts:
        said.append(f"scripts name it, and luod does not follow them: {listed(scripts)}")
    return f" ({'; '.join(said)})" if said else ""


def initial_ram_disk(following: NextKernel) -> Iterator[Finding]:
    modules = following.modules
    if modules is None:
        return
    if modules.unpackable:
        yield finding(
            "initrd-unusable",
            f"the next kernel cannot unpack its initial RAM disk: {modules.unpackable}",
            "the kernel boots without it, and most systems then fail",
            "compress the initial RAM disk in another way, or load a kernel with that option",
        )
    if modules.remarks:
        yield finding(
            "initrd-doubtful",
            f"the initial RAM disk may be incomplete: {'; '.join(modules.remarks)}",
            "the next kernel boots with the part that it can read",
            "rebuild the initial RAM disk with the distribution's tool, and check the command line",
        )


def command_line(following: NextKernel) -> Iterator[Finding]:
    line = following.command_line.early
    if not enabled(line, "liveupdate"):
        yield finding(
            "liveupdate-off",
            "the next kernel's command line has no liveupdate=on",
            "without it that kernel has no /dev/liveupdate, and every session is lost",
            "run `luoctl load --append-cmdline liveupdate=on …`",
        )
    if not enabled(line, "kho", default=following.option("CONFIG_KEXEC_HANDOVER_ENABLE_DEFAULT") == "y"):
        yield finding(
            "kho-off",
            "the next kernel's command line has no kho=on",
            "without it that kernel takes nothing over, and every session is lost",
            "run `luoctl load --append-cmdline kho=on …`",
        )
    timeout = following.command_line.last("panic")
    if timeout is None:
        timeout = following.option("CONFIG_PANIC_TIMEOUT")
    if timeout in (None, "", "0", "n"):
        yield finding(
            "no-panic",
            "the next kernel's command line has no panic=",
            "if it panics, it does not reboot by itself",
            "add panic=10, or panic=-1 to reboot at once: `luoctl load --append-cmdline panic=10 …`",
        )


def root(line: str, running_line: str) -> Iterator[Finding]:
    """Yields a finding if `line` names no root file system, and the running kernel's command line does."""
    named = [value for name, value in parameters(running_line) if name == "root" and value]
    if named and not any(name == "root" and value for name, value in parameters(line)):
        yield finding(
            "root-missing",
            f"the next kernel's command line has no root=; the running kernel's has root={named[-1]}",
            "without it the next kernel may find no root file system, unless its initial RAM disk knows it",
            "add it, or use the running kernel's command line: `luoctl load --append-cmdline TEXT` adds to that",
        )


def scratch(following: NextKernel, now: Running) -> Iterator[Finding]:
    if now.scratch is None:
        return
    header = following.kernel.image
    wanted = [
        _rounded(header.init_size if header else 0, _ALIGNMENT),
        _rounded(following.initrd_size, _PAGE),
        _SMALL_CHANGE,
    ]
    # Each is loaded in one piece. The largest first, and each where there is most room.
    room = list(now.scratch)
    for size in sorted(wanted, reverse=True):
        largest = max(range(len(room)), key=room.__getitem__, default=None)
        if size and (largest is None or room[largest] < size):
            yield finding(
                "scratch-too-small",
                f"image ({_mib(wanted[0])}) and initial RAM disk ({_mib(wanted[1])}) do not fit the memory that is "
                f"kept for them: {', '.join(_mib(area) for area in now.scratch) or 'none'}",
                "the kernel refuses to load them (EADDRNOTAVAIL)",
                "make the initial RAM disk smaller, or boot with a larger kho_scratch=",
            )
            return
        if largest is not None:
            room[largest] -= size


def _rounded(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"


def _families(kinds: Collection[str]) -> set[str]:
    """Returns the required handlers; luod's own registry is in a memfd."""
    return {"memfd"} | {KINDS[kind] for kind in kinds if kind in KINDS}
