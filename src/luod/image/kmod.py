"""Kernel modules in an initial RAM disk, and modprobe's rules for loading them.

It reads modprobe.d, modules.dep, modules.alias, modules.builtin and modules.softdep as kmod does (modprobe.d(5),
depmod(8)). It is pure. `luod.image.loaders` finds the requests.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Final

from luod.image.contents import formats
from luod.image.module_file import look_into, module_name
from luod.image.tree import Inode, Tree

_CONFIGURATION: Final = (
    "/etc/modprobe.d",
    "/run/modprobe.d",
    "/usr/local/lib/modprobe.d",
    "/usr/lib/modprobe.d",
    "/lib/modprobe.d",
)
_ROOTS: Final = ("/lib/modules", "/usr/lib/modules")
_HANDLERS: Final = re.compile("(?!kernel/)|.*/(?:drivers/(?:vfio|iommu|pci)|kvm|liveupdate|mm)/")
"""The paths of modules that may have formats: in these directories, or not of the kernel's own source."""
_DEPTH_MAX: Final = 64
_INDEX_MAGIC: Final = 0xB007F457
_INDEX_NODES_MAX: Final = 200_000
_INDEX_KEY_MAX: Final = 4096
_PREFIX: Final = 0x80000000
_VALUES: Final = 0x40000000
_CHILDREN: Final = 0x20000000
_OFFSET: Final = 0x0FFFFFFF
# An install command with this loads the module after all: modprobe that does not run the command again.
_LOADS_IT: Final = re.compile(r"\b(?:modprobe\b.*\s(?:--ignore-install|-\w*i\w*)|insmod)\b")


def canonical(name: str) -> str:
    """Returns a module's name as the kernel writes it."""
    return name.replace("-", "_")


def drop_ins(tree: Tree, directories: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """Yields the configuration files in directories, sorted by name.

    Of those with the same name, the one in the first directory counts, even if it is empty or a link to /dev/null.
    """
    chosen: dict[str, str] = {}
    for directory in directories:
        for name in tree.names(directory):
            found = tree.find(f"{directory}/{name}")
            if name.endswith(".conf") and name[0] != "." and (found is None or found.kind != "directory"):
                chosen.setdefault(name, f"{directory}/{name}")
    for name in sorted(chosen):
        content = tree.read(chosen[name])
        if content:
            yield chosen[name], content


class Configuration:
    """The settings in modprobe.d. Names are canonical; `blacklist` maps to the place of the setting."""

    def __init__(self) -> None:
        self.aliases: list[tuple[str, str]] = []
        self.blacklist: dict[str, str] = {}
        self.install: list[tuple[str, str]] = []
        self.before: dict[str, list[str]] = {}
        """Soft dependencies that are loaded before a module; `after`: after it."""
        self.after: dict[str, list[str]] = {}

    def read(self, content: bytes, path: str) -> None:
        text = content.decode("utf-8", "replace").replace("\\\n", "")
        # kmod knows no other white space: a carriage return is part of a name.
        for line in text.split("\n"):
            verb, *words = [word for word in re.split("[ \t]", line) if word] or [""]
            if verb == "alias" and len(words) > 1:
                self.aliases.append((_pattern(words[0]), canonical(words[1])))
            elif verb == "blacklist" and words:
                self.blacklist.setdefault(canonical(words[0]), path)
            elif verb == "install" and len(words) > 1:
                self.install.append((_pattern(words[0]), " ".join(words[1:])))
            elif verb == "softdep" and len(words) > 1:
                self._soft(canonical(words[0]), words[1:])

    def _soft(self, module: str, words: list[str]) -> None:
        target: dict[str, list[str]] | None = None
        for word in words:
            if word in ("pre:", "post:"):
                target = self.before if word == "pre:" else self.after
            elif target is not None:
                target.setdefault(module, []).append(word)


def configuration(tree: Tree, base: str) -> Configuration:
    """Returns the settings in modprobe.d, and depmod's soft dependencies of the modules in `base`."""
    found = Configuration()
    for path, content in drop_ins(tree, _CONFIGURATION):
        found.read(content, path.lstrip("/"))
    found.read(tree.read(f"{base}/modules.softdep") or b"" if base else b"", "modules.softdep")
    return found


class Modules:
    """The modules of one kernel release. `base`: their directory, "" without one."""

    def __init__(self, tree: Tree, release: str) -> None:
        self._tree = tree
        bases = [f"{root}/{release}" for root in _ROOTS if release]
        self.base = next((base for base in bases if tree.names(base)), "")
        self.files = {name: inode for name, _path, inode in _files(tree, self.base)}
        self._inodes: dict[str, Inode] = {}
        self.needs: dict[str, list[str]] = {}
        self.listed = False
        """Whether there is a list of modules: modprobe finds no others."""
        for line in self._lines("modules.dep"):
            self._depends(line)
        self.builtin = {name for name in map(module_name, self._lines("modules.builtin", keys=True)) if name}

    def inode(self, name: str) -> Inode | None:
        """Returns the file of a module that modprobe opens."""
        return self._inodes.get(name) if self.listed else self.files.get(name)

    @cached_property
    def aliases(self) -> list[tuple[str, str]]:
        lines = [line.split() for line in self._lines("modules.alias")]
        return [(_pattern(words[1]), canonical(words[2])) for words in lines if len(words) == 3]

    def _depends(self, line: str) -> None:
        path, colon, others = line.partition(":")
        name = module_name(path)
        if not colon or name is None:
            return
        self.listed = True
        self.needs[name] = [needed for needed in map(module_name, others.split()) if needed]
        found = self._tree.find(path if path.startswith("/") else f"{self.base}/{path}")
        if found is not None and found.kind == "file":
            self._inodes[name] = found

    def _lines(self, file: str, *, keys: bool = False) -> Iterator[str]:
        """Yields the lines of a list; from its index if there is one, as kmod does."""
        if not self.base:
            return
        index = self._tree.read(f"{self.base}/{file}.bin")
        entries = list(_index(index)) if index else []
        if entries:
            for key, value in entries:
                yield f"{key}.ko" if keys else value if ":" in value else f"alias {key} {value}"
            return
        content = self._tree.read(f"{self.base}/{file}")
        yield from (content or b"").decode("utf-8", "replace").splitlines()


def releases(tree: Tree) -> dict[str, dict[str, tuple[str, ...]]]:
    """Returns by kernel release the modules with formats of live update.

    Of the packed modules that were not looked into yet, it looks into those where handlers are.
    """
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for root in _ROOTS:
        for release in tree.names(root):
            named = found.setdefault(release, {})
            for name, path, inode in _files(tree, f"{root}/{release}"):
                if _HANDLERS.match(path):
                    look_into(inode)
                its = inode.formats or (formats(inode.content) if inode.content else ())
                if its:
                    named[name] = its
    return found


class Probe:
    """Loads modules as modprobe does. `loaded` maps their names to the requester, `refused` to the reason."""

    def __init__(
        self,
        modules: Modules,
        configuration: Configuration,
        forbidden: Mapping[str, str],
    ) -> None:
        """`forbidden` by the kernel: maps modules, or "" for all of them, to the reason."""
        self._modules = modules
        self._configuration = configuration
        self._forbidden = forbidden
        self._trying: set[str] = set()
        self._failed: dict[str, str] = {}
        self.loaded: dict[str, str] = {}
        self.refused: dict[str, str] = {}

    def ask(self, name: str, by: str, *, blacklist: bool) -> None:
        """Loads a module by its name or an alias. `blacklist`: also refuses blacklisted names."""
        found, aliased = self._lookup(name)
        if not found:
            self.refused.setdefault(canonical(name), f"{by} asks for it, and modprobe finds no such module")
        for module in found:
            where = self._configuration.blacklist.get(module)
            if where is not None and (blacklist or aliased) and module not in self._modules.builtin:
                self.refused.setdefault(module, f"{by} asks for it, and {where} blacklists it")
            else:
                self._insert(module, by, 0)

    def _lookup(self, name: str) -> tuple[list[str], bool]:
        """Returns the modules of a name, and whether it is an alias."""
        name = _pattern(name)
        aliased = [module for pattern, module in self._configuration.aliases if _matches(name, pattern)]
        if aliased:
            return aliased, True
        installed = any(_matches(name, pattern) for pattern, _command in self._configuration.install)
        if self._modules.inode(name) or name in self._modules.needs or name in self._modules.builtin or installed:
            return [name], False
        return [module for pattern, module in self._modules.aliases if _matches(name, pattern)], True

    def _insert(self, name: str, by: str, depth: int) -> bool:
        """Returns whether the module is in the kernel now."""
        if name in self.loaded or name in self._modules.builtin:
            self.loaded.setdefault(name, "it is built in")
            return True
        if name in self._failed:
            self.refused.setdefault(name, self._failed[name])
            return False
        if name in self._trying or depth > _DEPTH_MAX:
            return False
        self._trying.add(name)
        try:
            self._soft(self._configuration.before, name, depth)
            reason = self._reason(name, by, depth)
        finally:
            self._trying.discard(name)
        if reason:
            self.refused[name] = self._failed[name] = reason
            return False
        self.loaded[name] = by
        self._soft(self._configuration.after, name, depth)
        return True

    def _reason(self, name: str, by: str, depth: int) -> str:
        """Returns why the module cannot be loaded, after it loaded the dependencies; "" without one."""
        for needed in self._modules.needs.get(name, ()):
            if not self._insert(needed, f"{name}, which needs it", depth + 1):
                why = self.refused.get(needed, "it is not there")
                return f"{by} asks for it, and {needed}, which it needs, is not loaded: {why}"
        command = next((what for pattern, what in self._configuration.install if _matches(name, pattern)), None)
        if command is not None and not _LOADS_IT.search(command):
            return f"modprobe.d has a command run instead (install {name} {command})"
        inode = self._modules.inode(name)
        if inode is None:
            return f"{by} asks for it, and its file is missing"
        look_into(inode)
        if inode.damage:
            return f"its file is damaged: {inode.damage}"
        return self._forbidden.get(name) or self._forbidden.get("", "")

    def _soft(self, which: Mapping[str, list[str]], name: str, depth: int) -> None:
        for wanted in which.get(name, ()):
            for module in self._lookup(wanted)[0]:
                self._insert(module, f"a softdep of {name}", depth + 1)


def _files(tree: Tree, base: str) -> Iterator[tuple[str, str, Inode]]:
    """Yields the name, the path and the inode of each module below `base`."""
    for path, inode in tree.files(base) if base else ():
        name = module_name(path)
        if name is not None:
            yield name, path, inode


def _pattern(name: str) -> str:
    """Returns an alias with "_" for "-", except between brackets."""
    return re.sub(r"\[[^]]*\]|-", lambda match: "_" if match.group() == "-" else match.group(), name)


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or (any(wild in pattern for wild in "*?[") and fnmatchcase(name, pattern))


def _index(data: bytes) -> Iterator[tuple[str, str]]:
    """Yields the keys and values of one of depmod's binary indexes; nothing for damaged data or another file."""
    if len(data) < 12 or struct.unpack_from(">I", data)[0] != _INDEX_MAGIC:
        return
    pending = [(struct.unpack_from(">I", data, 8)[0], "")]
    for _ in range(_INDEX_NODES_MAX):
        if not pending:
            return
        offset, key = pending.pop()
        try:
            at = offset & _OFFSET
            if offset & _PREFIX:
                prefix, at = _string(data, at)
                key += prefix
            if len(key) > _INDEX_KEY_MAX:
                return
            if offset & _CHILDREN:
                first, last = data[at], data[at + 1]
                count = max(last - first + 1, 0)
                children = struct.unpack_from(f">{count}I", data, at + 2)
                at += 2 + 4 * count
                pending += [(child, key + chr(first + i)) for i, child in enumerate(children) if child & _OFFSET]
            if offset & _VALUES:
                (values,) = struct.unpack_from(">I", data, at)
                at += 4
                for _value in range(values):
                    value, at = _string(data, at + 4)
                    yield key, value
        except (struct.error, IndexError, ValueError):
            return


def _string(data: bytes, at: int) -> tuple[str, int]:
    """Returns a string up to a zero byte, and the offset after it. Raises ValueError."""
    end = data.index(b"\0", at)
    return data[at:end].decode("utf-8", "replace"), end + 1
