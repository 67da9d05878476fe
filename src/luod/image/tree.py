"""A file tree in memory: the kernel's rootfs while an initial RAM disk is unpacked into it.

Path names are resolved as in the kernel: through symbolic links, `..` and links of links. `luod.image.cpio` fills it.
The content of most files is not kept. It writes no file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

Kind = Literal["file", "directory", "link", "node"]

LINKS_MAX: Final = 40
"""MAXSYMLINKS of the kernel: a path through more links cannot be opened."""


class Inode:
    """A file of any kind; hard links are names of the same one. `target`: that of a symbolic link."""

    __slots__ = ("children", "content", "damage", "formats", "kind", "packed", "target")

    def __init__(self, kind: Kind, target: str = "") -> None:
        self.kind = kind
        self.target = target
        self.children: dict[str, Inode] = {}
        """The entries of a directory."""
        self.content: bytes | None = b""
        """The bytes of a regular file; None if they were not kept."""
        self.formats: tuple[str, ...] = ()
        """The formats of live update in a kernel module."""
        self.damage = ""
        """Why a kernel module cannot be unpacked."""
        self.packed: tuple[str, bytes] | None = None
        """The compression and the bytes of a kernel module that was not looked into."""


def parts_of(path: str) -> list[str]:
    """Returns the components of a path without the empty ones and `.`."""
    return [part for part in path.split("/") if part not in ("", ".")]


class Tree:
    """Starts empty. Methods that make entries return whether they succeeded, as the system calls of the same names."""

    def __init__(self) -> None:
        self.root = Inode("directory")
        self.implied = 0
        """Directories that no entry of the archives made."""

    # -- Looking up --------------------------------------------------------------------------------------------------

    def find(self, path: str) -> Inode | None:
        """Returns the file that open(2) would find: links are followed, the last one too."""
        return self._walk(path, follow=True, make=False)

    def lstat(self, path: str) -> Inode | None:
        """Returns the file of this name itself, as lstat(2) finds it."""
        return self._walk(path, follow=False, make=False)

    def read(self, path: str) -> bytes | None:
        """Returns the content of a regular file; None without the file, or if it was not kept."""
        found = self.find(path)
        return found.content if found is not None and found.kind == "file" else None

    def names(self, path: str) -> list[str]:
        """Returns the names in a directory, sorted; empty for other paths."""
        found = self.find(path)
        return sorted(found.children) if found is not None and found.kind == "directory" else []

    def files(self, path: str = "/") -> Iterator[tuple[str, Inode]]:
        """Yields the paths and inodes of regular files below a directory. Links are not followed."""
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
        """Removes a file of this name and of another kind (any kind for None); not a directory with entries."""
        place = self._place(path, make=False)
        if place is None:
            return
        directory, name = place
        found = directory.children.get(name)
        if found is not None and found.kind != kind and not (found.kind == "directory" and found.children):
            del directory.children[name]

    def file(self, path: str) -> Inode | None:
        """Opens a regular file for writing, and makes it if it is missing."""
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
        """Returns the directory of a path's last name, and the name; None for the root or without such a directory."""
        parts = parts_of(path)
        if not parts or parts[-1] == "..":
            return None
        directory = self._walk("/".join(parts[:-1]), follow=True, make=make)
        return (directory, parts[-1]) if directory is not None and directory.kind == "directory" else None

    def _walk(self, path: str, *, follow: bool, make: bool) -> Inode | None:
        """Resolves a path. `make`: makes missing directories, since archives without them are accepted.

        The kernel drops the files in such directories.
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
