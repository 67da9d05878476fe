"""The modules that the programs of an initial RAM disk request: by their lists, and by the kernel's command line.

It knows initramfs-tools, systemd, dracut, mkinitcpio, Alpine's mkinitfs and the scripted stage 1 of NixOS. It reads the
lists as their scripts do. If a RAM disk is of an unknown kind, all lists count. It does not see modules that other
scripts and udev rules load.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from luod.frozen import frozen
from luod.image.command_line import Line, same, unquoted, words
from luod.image.kmod import canonical, drop_ins
from luod.image.tree import Tree

INITRAMFS_TOOLS: Final = "initramfs-tools"
SYSTEMD: Final = "systemd"
DRACUT: Final = "dracut"
MKINITCPIO: Final = "mkinitcpio"
ALPINE: Final = "mkinitfs"
NIXOS: Final = "NixOS stage 1"
ALL: Final = frozenset({INITRAMFS_TOOLS, SYSTEMD, DRACUT, MKINITCPIO, ALPINE, NIXOS})

_SIGNS: Final = {
    INITRAMFS_TOOLS: ("/scripts/functions",),
    SYSTEMD: ("/usr/lib/systemd/systemd-modules-load", "/lib/systemd/systemd-modules-load"),
    DRACUT: ("/usr/lib/dracut-lib.sh", "/lib/dracut-lib.sh", "/usr/lib/dracut/dracut-version"),
    MKINITCPIO: ("/init_functions",),
}
_MODULES_LOAD: Final = (
    "/etc/modules-load.d",
    "/run/modules-load.d",
    "/usr/local/lib/modules-load.d",
    "/usr/lib/modules-load.d",
    "/lib/modules-load.d",
)
_NIXOS_SIGN: Final = re.compile(r"<<< [^\n<]* Stage 1 >>>")
_NIXOS_LINK: Final = re.compile(r"^\s*ln -s (\S+) /lib/modules\s*$", re.M)
_NIXOS_LOOP: Final = re.compile(r"^for i in ([^;\n]*); do\n(?:\s*(?:info|echo) [^\n]*\n)?\s*modprobe \$i\b", re.M)
_ASSIGNMENT: Final = re.compile(
    r"^\s*(?:export\s+)?(MODULES|EARLYMODULES)=(?:\"([^\"]*)\"|'([^']*)'|\(([^)]*)\)|(\S*))", re.M
)


@frozen
class Request:
    """`by`: the requester of the module of this name; `blacklist`: whether it applies the blacklist to names, too."""

    name: str
    by: str
    blacklist: bool


class Plan:
    """The requests, and the modules that are blacklisted or replaced by nothing; both map to the place of that."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.blacklist: dict[str, str] = {}
        self.disabled: dict[str, str] = {}

    def ask(self, names: list[str], by: str, *, blacklist: bool) -> None:
        self.requests += [Request(name, by, blacklist) for name in names if name]


def systems(tree: Tree) -> frozenset[str]:
    """Returns the programs that load modules in this RAM disk; all of them if it has no known one."""
    found = {system for system, signs in _SIGNS.items() if any(tree.find(sign) for sign in signs)}
    init = _text(tree, "/init")
    if "KOPT_modules" in init:
        found.add(ALPINE)
    if _NIXOS_SIGN.search(init):
        found.add(NIXOS)
    return frozenset(found) or ALL


def prepare(tree: Tree) -> None:
    """Makes the links that the first program makes before it loads modules: NixOS has its modules in the store."""
    init = _text(tree, "/init")
    if _NIXOS_SIGN.search(init) and (link := _NIXOS_LINK.search(init)):
        tree.directory("/lib")
        tree.link("/lib/modules", link[1])


def plan(tree: Tree, line: Line) -> Plan:
    """Returns the requests of the programs in `tree`, with this command line in /proc/cmdline."""
    made = Plan()
    made.blacklist |= dict.fromkeys(_by_kmod(line.whole), "modprobe.blacklist=")
    parts = {
        INITRAMFS_TOOLS: _initramfs_tools,
        SYSTEMD: _systemd,
        DRACUT: _dracut,
        MKINITCPIO: _mkinitcpio,
        ALPINE: _alpine,
        NIXOS: _nixos,
    }
    present = systems(tree)
    for system, part in parts.items():
        if system in present:
            part(tree, line, made)
    return made


def _initramfs_tools(tree: Tree, line: Line, made: Plan) -> None:
    # The shell does not read a last line without a newline, and modprobe runs with -b.
    names = [name for name in _first_words(_text(tree, "/conf/modules").split("\n")[:-1]) if name[0] != "#"]
    made.ask(names, "conf/modules", blacklist=True)
    given = [word.partition("=")[2] for word in line.whole.split() if word.startswith("blacklist=")]
    made.blacklist |= {canonical(name): "blacklist=" for name in (given[-1].split(",") if given else ())}


def _systemd(tree: Tree, line: Line, made: Plan) -> None:
    for name, value in unquoted(line.whole):
        if same(name.removeprefix("rd."), "modules_load") and value:
            made.ask(value.split(","), f"{name}= on the command line", blacklist=True)
    for path, content in drop_ins(tree, _MODULES_LOAD):
        lines = [text.strip() for text in content.decode("utf-8", "replace").splitlines()]
        made.ask([text for text in lines if text and text[0] not in "#;"], path.lstrip("/"), blacklist=True)


def _dracut(tree: Tree, line: Line, made: Plan) -> None:
    """Adds dracut's requests. Its parameters may also be in files of the RAM disk."""
    given = list(_dracut_parameters(tree, line))
    for name, value in given:
        if name in ("rd.driver.pre", "rdloaddriver", "rd.driver.post", "rdinsmodpost"):
            made.ask(re.split(r"[,\s]+", value), f"{name}=", blacklist=False)
        elif name in ("rd.driver.blacklist", "rdblacklist"):
            made.blacklist |= {canonical(each): f"{name}=" for each in re.split(r"[,\s]+", value) if each}


def _dracut_parameters(tree: Tree, line: Line) -> Iterator[tuple[str, str]]:
    own: list[str] = []
    for name in tree.names("/etc/cmdline.d"):
        if name.endswith(".conf"):
            own += _text(tree, f"/etc/cmdline.d/{name}").splitlines()
    own += _text(tree, "/etc/cmdline").splitlines()
    late = [name for name in tree.names("/run/initramfs/cmdline.d") if name.endswith(".conf")]
    behind = [text for name in late for text in _text(tree, f"/run/initramfs/cmdline.d/{name}").splitlines()]
    everything = _dracut_words(" ".join([*own, line.whole, *behind]))
    host_only = [value for name, value in everything if name == "rd.hostonly"]
    if host_only and host_only[-1] in ("0", "no", "off"):
        everything = _dracut_words(" ".join([line.whole, *behind]))
    return iter(everything)


def _dracut_words(text: str) -> list[tuple[str, str]]:
    pairs = [word.partition("=") for word in words(text)]
    return [(name.lstrip('"'), value.strip('"')) for name, _equals, value in pairs]


def _mkinitcpio(tree: Tree, line: Line, made: Plan) -> None:
    assigned: dict[str, str] = {}
    for match in _ASSIGNMENT.finditer(_text(tree, "/config")):
        assigned[match.group(1)] = next((value for value in match.groups()[1:] if value), "")
    for variable, value in assigned.items():
        made.ask(re.split(r"[\s\"']+", value), f"{variable} in /config", blacklist=True)
    given = {name: value or "" for name, value in unquoted(line.whole)}
    made.ask(given.get("earlymodules", "").split(","), "earlymodules=", blacklist=True)
    disabled = given.get("disablemodules", "").split(",")
    made.disabled |= {canonical(name): "disablemodules=" for name in disabled if name}


def _alpine(tree: Tree, line: Line, made: Plan) -> None:
    given = {name: value or "" for name, value in unquoted(line.whole)}
    made.ask(re.split(r"[,\s]+", given.get("modules", "")), "modules=", blacklist=False)
    lines = [text.partition("#")[0] for text in _text(tree, "/etc/modules").split("\n")]
    made.ask(list(_first_words(lines)), "etc/modules", blacklist=False)


def _nixos(tree: Tree, line: Line, made: Plan) -> None:
    for match in _NIXOS_LOOP.finditer(_text(tree, "/init")):
        made.ask(match.group(1).split(), "boot.initrd.kernelModules in /init", blacklist=False)


def _by_kmod(command_line: str) -> Iterator[str]:
    """Yields the modules in modprobe.blacklist=, as libkmod reads it in /proc/cmdline."""
    for word in words(command_line):
        name, _equals, value = word.strip('"').partition("=")
        if name == "modprobe.blacklist":
            yield from (canonical(module) for module in value.strip('"').split(",") if module)


def _first_words(lines: list[str]) -> Iterator[str]:
    """Yields the first word of each line as the shell's `read` splits it: a carriage return stays part of a name."""
    for text in lines:
        found = text.replace("\t", " ").strip(" ").split(" ")
        if found[0]:
            yield found[0]


def _text(tree: Tree, path: str) -> str:
    return (tree.read(path) or b"").decode("utf-8", "replace")
