"""A file tree in memory, as the kernel's rootfs is while an initial RAM disk is unpacked into it.

Path names are resolved as the kernel resolves them: through symbolic links, `..` and links of links. It holds what
`luod.image.cpio` puts there; the content of most files is not kept. It writes no file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

Kind = Literal["file", "directory", "link", "node"]

LINKS_MAX: Final = 40
"""MAXSYMLINKS of the kernel: a path that leads through more of them cannot be opened."""


@dataclass(eq=False)
class Inode:
    """A file of any kind; hard links are names of the same one."""

    kind: Kind
    target: str = ""
    """Of a symbolic link."""
    children: dict[str, Inode] = field(default_factory=dict)
    """Of a directory."""
    content: bytes | None = b""
    """Of a regular file; None where it was not kept."""
    formats: tuple[str, ...] = ()
    """The formats of live update that a kernel module names."""
    damage: str = ""
    """Why a kernel module cannot be unpacked."""


def parts_of(path: str) -> list[str]:
    """The components of a path without the empty ones and `.`."""
    return [part for part in path.split("/") if part not in ("", ".")]


class Tree:
    """Starts empty. Methods that make entries return whether they could, as the system calls of the same names do."""

    def __init__(self) -> None:
        self.root = Inode("directory")
        self.implied = 0
        """Directories that no entry of the archives made."""

    # -- Looking up --------------------------------------------------------------------------------------------------

    def find(self, path: str) -> Inode | None:
        """The file that open(2) would find: links are followed, the last one too."""
        return self._walk(path, follow=True, make=False)

    def lstat(self, path: str) -> Inode | None:
        """The file of this name itself, as lstat(2) finds it."""
        return self._walk(path, follow=False, make=False)

    def read(self, path: str) -> bytes | None:
        """The content of a regular file; None where there is none, or where it was not kept."""
        found = self.find(path)
        return found.content if found is not None and found.kind == "file" else None

    def names(self, path: str) -> list[str]:
        """The names in a directory, sorted; empty for what is no directory."""
        found = self.find(path)
        return sorted(found.children) if found is not None and found.kind == "directory" else []

    def files(self, path: str = "/") -> Iterator[tuple[str, Inode]]:
        """The regular files below a directory with their paths in it. Links are not followed."""
        start = self.find(path)
        if start is None or start.kind != "directory":
            return
        # No recursion: a hostile tree may be thousands of directories deep.
        pending = [("", start)]
        while pending:
            where, directory = pending.pop()
            for name, inode in directory.children.items():
                if inode.kind == "directory":
                    pending.append((f"{where}{name}/", inode))
                elif inode.kind == "file":
                    yield where + name, inode

    # -- Making entries ----------------------------------------------------------------------------------------------

    def clear(self, path: str, kind: Kind | None) -> None:
        """Removes what has this name and is of another kind (any kind for None); not a directory with entries."""
        place = self._place(path, make=False)
        if place is None:
            return
        directory, name = place
        found = directory.children.get(name)
        if found is not None and found.kind != kind and not (found.kind == "directory" and found.children):
            del directory.children[name]

    def file(self, path: str) -> Inode | None:
        """Opens a regular file for writing and makes it where it is missing."""
        place = self._place(path, make=True)
        if place is None:
            return None
        directory, name = place
        found = directory.children.get(name)
        if found is None:
            found = directory.children[name] = Inode("file")
        return found if found.kind == "file" else None

    def directory(self, path: str) -> bool:
        return self._add(path, Inode("directory"))

    def link(self, path: str, target: str) -> bool:
        """Makes a symbolic link."""
        return self._add(path, Inode("link", target=target))

    def node(self, path: str) -> bool:
        """Makes a device node, a pipe or a socket."""
        return self._add(path, Inode("node"))

    def hard_link(self, old: str, path: str) -> bool:
        found = self.lstat(old)
        return found is not None and found.kind != "directory" and self._add(path, found)

    def _add(self, path: str, inode: Inode) -> bool:
        place = self._place(path, make=True)
        if place is None:
            return False
        directory, name = place
        return directory.children.setdefault(name, inode) is inode

    def _place(self, path: str, *, make: bool) -> tuple[Inode, str] | None:
        """The directory that a name is in, and the name; None for the root and where there is no such directory."""
        parts = parts_of(path)
        if not parts or parts[-1] == "..":
            return None
        directory = self._walk("/".join(parts[:-1]), follow=True, make=make)
        return (directory, parts[-1]) if directory is not None and directory.kind == "directory" else None

    def _walk(self, path: str, *, follow: bool, make: bool) -> Inode | None:
        """Resolves a path. `make`: directories that are missing are made, since archives are accepted that leave them
        out; the kernel drops the files in them.
        """
        stack = [self.root]
        pending = parts_of(path)[::-1]
        links = 0
        while pending:
            name = pending.pop()
            here = stack[-1]
            if here.kind != "directory":
                return None
            if name == "..":
                if len(stack) > 1:
                    stack.pop()
                continue
            found = here.children.get(name)
            if found is None:
                if not make:
                    return None
                found = here.children[name] = Inode("directory")
                self.implied += 1
            if found.kind == "link" and (pending or follow):
                links += 1
                if links > LINKS_MAX or not found.target:
                    return None
                if found.target.startswith("/"):
                    del stack[1:]
                pending += parts_of(found.target)[::-1]
                continue
            stack.append(found)
        return stack[-1]
