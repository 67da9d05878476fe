"""The live update part of an initial RAM disk: the modules in it with formats, and the modules that are loaded.

A handler in a module must be registered before /dev/liveupdate is first opened (docs/hazards.md, H20), so it counts
only when the RAM disk loads the module. `read` unpacks a RAM disk once. `judge` predicts, from lists, configuration and
command line, the modules that a kernel loads from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from luod.errors import ImageError
from luod.frozen import frozen
from luod.image import boot_config, cpio, kmod, loaders
from luod.image.command_line import Line, enabled, parameters, same
from luod.image.tree import Tree

_SCRIPT_MAX: Final = 5
_FIRST: Final = "/init"
_SYSTEMD: Final = ("/usr/lib/systemd/systemd", "/lib/systemd/systemd")
_INTERPRETED: Final = b"#!"


@frozen
class Initrd:
    """`boot_config`: the parameters for the kernel and for init in the configuration after it; None without one.

    `packing`: the compressions of its archives. `remarks`: oddities in it.
    """

    tree: Tree
    boot_config: tuple[str, str] | None = None
    packing: frozenset[str] = frozenset()
    remarks: tuple[str, ...] = ()


@frozen
class Modules:
    """The modules that a kernel loads from an initial RAM disk. They have "_" for "-", as the kernel names them."""

    formats: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    """The modules of this kernel's release with formats of live update, and those formats."""
    loaded: Mapping[str, str] = MappingProxyType({})
    """The modules that are loaded, and the requester of each."""
    refused: Mapping[str, str] = MappingProxyType({})
    """Modules that are requested but not loaded, or forbidden, and the reason."""
    elsewhere: Mapping[str, Mapping[str, tuple[str, ...]]] = MappingProxyType({})
    """By release, the modules with formats for other kernels."""
    scripts: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    """Scripts that name a module of `formats` which is not loaded. Whether they load it is not known."""
    unpackable: str = ""
    """Why this kernel cannot unpack the RAM disk; "" if it can."""
    remarks: tuple[str, ...] = ()


def read(data: bytes) -> Initrd:
    """Unpacks an initial RAM disk, which takes up to seconds.

    Raises ImageError: no kernel can use it. Raises ImageUnreadable: luod cannot read it.
    """
    end, appended = boot_config.tail(data)
    unpacked = cpio.unpack(data, end)
    loaders.prepare(unpacked.tree)
    remarks = []
    if unpacked.stopped:
        remarks.append(f"the kernel stops unpacking it ({unpacked.stopped}), and what follows is not there")
    elif not unpacked.ended:
        remarks.append("its last archive has no end mark (TRAILER!!!), so it may be cut off")
    if unpacked.tree.implied:
        remarks.append(
            f"{unpacked.tree.implied} of its directories have no entry, and the kernel leaves out files in directories "
            "that are not there"
        )
    configuration = None
    if appended is not None:
        try:
            configuration = boot_config.parse(appended)
        except ImageError as error:
            remarks.append(error.message)
    return Initrd(unpacked.tree, configuration, unpacked.packing, tuple(remarks))


def judge(disk: Initrd, release: str, line: Line, options: Mapping[str, str] | None = None) -> Modules:
    """Returns the modules that a kernel of this release, command line and configuration (None: not known) loads."""
    known = {} if options is None else options
    idle = _idle(disk, line, known)
    # First, since it looks into the modules that are loaded.
    probe = None if idle else _probe(disk.tree, release, line, known)
    by_release = kmod.releases(disk.tree)
    named = by_release.pop(release, {})
    remarks = list(_remarks(disk, line))
    if probe is None:
        reasons = dict.fromkeys(named, idle)
        return Modules(named, {}, reasons, by_release, {}, _unpackable(disk, known), (*remarks, idle))
    refused = {name: why for name, why in probe.refused.items() if name not in probe.loaded}
    missing = [name for name in named if name not in probe.loaded]
    scripts = _scripts(disk.tree, missing)
    return Modules(named, probe.loaded, refused, by_release, scripts, _unpackable(disk, known), tuple(remarks))


def _probe(tree: Tree, release: str, line: Line, options: Mapping[str, str]) -> kmod.Probe:
    plan = loaders.plan(tree, line)
    modules = kmod.Modules(tree, release)
    configuration = kmod.configuration(tree, modules.base)
    for name, where in plan.blacklist.items():
        configuration.blacklist.setdefault(name, where)
    for name in plan.disabled:
        configuration.install.append((name, "/bin/false"))
    probe = kmod.Probe(modules, configuration, _forbidden(line, options))
    for request in plan.requests:
        probe.ask(request.name, request.by, blacklist=request.blacklist)
    return probe


def _forbidden(line: Line, options: Mapping[str, str]) -> dict[str, str]:
    """Returns the modules that the kernel refuses, "" for all of them, and the reason of each."""
    found = {}
    if options and options.get("CONFIG_MODULES", "n") != "y":
        found[""] = "the kernel is built without CONFIG_MODULES"
    if enabled(line.whole, "nomodule", bare=True):
        found[""] = "nomodule is on the command line"
    blacklist = line.last("module_blacklist")
    for name in (blacklist or "").split(","):
        found.setdefault(name or " ", f"module_blacklist={blacklist} is on the command line")
    return found


def _idle(disk: Initrd, line: Line, options: Mapping[str, str]) -> str:
    """Returns why the kernel runs no module loader of the RAM disk; "" if it does."""
    if options and options.get("CONFIG_BLK_DEV_INITRD", "n") != "y":
        return "the kernel is built without CONFIG_BLK_DEV_INITRD, so it ignores its initial RAM disk"
    if options.get("CONFIG_INITRAMFS_FORCE") == "y":
        return "the kernel is built with CONFIG_INITRAMFS_FORCE, so it ignores its initial RAM disk"
    first = line.last("rdinit")
    if not first or first == _FIRST:
        return ""
    started = disk.tree.find(first)
    if started is None:
        return f"rdinit={first} is not in the initial RAM disk, so the kernel runs no program of it"
    if any(started is disk.tree.find(known) for known in (_FIRST, *_SYSTEMD)):
        return ""
    return f"rdinit={first} starts another program than {_FIRST}, and luod does not know what that loads"


def _remarks(disk: Initrd, line: Line) -> Iterator[str]:
    yield from disk.remarks
    tree, first = disk.tree, line.last("rdinit") or _FIRST
    if (tree.names("/lib/modules") or tree.names("/usr/lib/modules")) and tree.find(first) is None:
        yield f"it has no {first}, so the kernel runs no program of it"
    if any(same(name, "noinitrd") for name, _value in parameters(line.whole)):
        yield "noinitrd is on the command line, which does not keep the kernel from unpacking it"
    for name in (line.last("module_blacklist") or "").split(","):
        if "-" in name:
            yield f"module_blacklist={name} forbids nothing: the kernel's name is {kmod.canonical(name)}"
    if disk.boot_config is not None and any(disk.boot_config) and line.whole == line.early:
        yield "its boot configuration is not used: bootconfig is not on the command line, or not built in"


def _unpackable(disk: Initrd, options: Mapping[str, str]) -> str:
    """Returns why the kernel cannot unpack it, from its configuration; "" without one."""
    for name in sorted(disk.packing):
        option = name.upper()
        if options.get(f"CONFIG_RD_{option}") == "n" and options.get(f"CONFIG_DECOMPRESS_{option}") != "y":
            return f"it is packed with {name}, and the kernel is built without CONFIG_RD_{option}"
    return ""


def _scripts(tree: Tree, modules: list[str]) -> dict[str, tuple[str, ...]]:
    """Returns by module the scripts that name it."""
    spellings = {name: (name.encode(), name.replace("_", "-").encode()) for name in modules}
    found: dict[str, tuple[str, ...]] = {}
    for path, inode in tree.files() if spellings else ():
        if inode.content is None or not inode.content.startswith(_INTERPRETED):
            continue
        for name, spelled in spellings.items():
            if len(found.get(name, ())) < _SCRIPT_MAX and any(each in inode.content for each in spelled):
                found[name] = (*found.get(name, ()), path)
    return found
