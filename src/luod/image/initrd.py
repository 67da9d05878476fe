"""An initial RAM disk as far as live update goes: which modules in it bring formats, and which of them it loads.

A handler that is in a module must be there before anybody opens /dev/liveupdate (H20), so it counts only when the RAM
disk loads the module: by a list (initramfs-tools' `conf/modules`, `modules-load.d` of systemd and dracut, mkinitcpio's
`config`), by the kernel's command line, or because such a module depends on it.

An initial RAM disk is one or more cpio archives ("newc") in a row, each packed or not, with zeros in between:
Documentation/driver-api/early-userspace/buffer-format.rst. It is read piece by piece, and may be hostile.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from luod.errors import ImageError
from luod.image import packed
from luod.image.contents import formats

UNPACKED_MAX: Final = 4 * 1024 * 1024 * 1024
MODULE_MAX: Final = 64 * 1024 * 1024
_LIST_MAX: Final = 4 * 1024 * 1024
_NAME_MAX: Final = 4096
_FILES_MAX: Final = 500_000

_MAGICS: Final = (b"070701", b"070702")
_HEADER_SIZE: Final = 110
_TRAILER: Final = "TRAILER!!!"

_MODULE: Final = re.compile(r"(?:^|/)([^/]+)\.ko(?:\.(xz|zst|gz))?$")
_LIST: Final = re.compile(r"^(?:conf/modules|(?:usr/|usr/local/)?(?:lib|etc|run)/modules-load\.d/[^/]+\.conf)$")
_DEPENDENCIES: Final = re.compile(r"(?:^|/)lib/modules/[^/]+/modules\.dep$")
_MKINITCPIO: Final = re.compile(r"^(?:EARLY)?MODULES=(?:\"([^\"\n]*)\"|\(([^)\n]*)\))", re.MULTILINE)
_ON_THE_COMMAND_LINE: Final = ("modules_load", "modules-load", "rd.modules_load", "rd.modules-load", "rd.driver.pre")


@dataclass(frozen=True)
class Initrd:
    """Modules by name, with "_" for "-", as the kernel counts them: those that name formats, and those it loads."""

    formats: Mapping[str, tuple[str, ...]]
    loaded: frozenset[str]


def read(data: bytes, command_line: str = "") -> Initrd:
    """What is in an initial RAM disk, which `command_line` may have load more modules. It takes as long as unpacking
    it does. ImageError: damaged, or of hostile size.
    """
    found: dict[str, tuple[str, ...]] = {}
    needs: dict[str, set[str]] = {}
    wanted = set(_from_command_line(command_line))
    for name, content in files(data):
        module = _MODULE.search(name)
        if module:
            named = formats(_unpacked(content, module.group(2)))
            if named:
                found[_canonical(module.group(1))] = named
        elif _DEPENDENCIES.search(name):
            needs |= _dependencies(content)
        elif name == "config":
            for match in _MKINITCPIO.finditer(content.decode("utf-8", "replace")):
                wanted.update(map(_canonical, (match.group(1) or match.group(2) or "").split()))
        else:
            wanted.update(_listed(content))
    loaded: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name not in loaded:
            loaded.add(name)
            wanted |= needs.get(name, set())
    return Initrd(found, frozenset(loaded))


def files(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The modules and lists in an initial RAM disk: name, without a leading slash, and content. ImageError."""
    at, total = 0, 0
    while at < len(data):
        if data[at] == 0:
            at = _past_zeros(data, at)
            continue
        if data[at : at + 6] in _MAGICS:
            reader = _Reader(_pieces(data, at), total)
            yield from _archive(reader)
            at += reader.taken
            total = reader.total
            continue
        stream = packed.Stream(data, packed.compression(data[at : at + 8]), at)
        reader = _Reader(iter(stream), total)
        while reader.more():
            # An archive may be followed by another in the same stream.
            yield from _archive(reader)
            reader.skip_zeros()
        at, total = stream.end, reader.total


def _archive(reader: _Reader) -> Iterator[tuple[str, bytes]]:
    for _ in range(_FILES_MAX):
        header = reader.take(_HEADER_SIZE)
        if header[:6] not in _MAGICS:
            raise ImageError("the initial RAM disk is damaged: a file in it has no header")
        try:
            fields = [int(header[start : start + 8], 16) for start in range(6, _HEADER_SIZE, 8)]
        except ValueError:
            raise ImageError("the initial RAM disk is damaged: a file's header is no number") from None
        size, name_size = fields[6], fields[11]
        if not 0 < name_size <= _NAME_MAX:
            raise ImageError(f"the initial RAM disk is damaged: a file's name has {name_size} bytes")
        name = reader.take(name_size)[:-1].decode("utf-8", "replace")
        reader.pass_over(-(_HEADER_SIZE + name_size) % 4)
        if name == _TRAILER:
            return
        name = name.removeprefix("./").removeprefix("/")
        regular = fields[1] & 0o170000 == 0o100000
        if regular and size and size <= _most(name):
            yield name, reader.take(size)
        else:
            reader.pass_over(size)
        reader.pass_over(-size % 4)
    raise ImageError(f"the initial RAM disk has more than {_FILES_MAX} files")


def _most(name: str) -> int:
    """Bytes of the file of this name that are worth reading."""
    if _MODULE.search(name):
        return MODULE_MAX
    return _LIST_MAX if name == "config" or _LIST.search(name) or _DEPENDENCIES.search(name) else 0


class _Reader:
    """Takes bytes from pieces. `taken` counts them; `total` counts what has been unpacked of the whole disk."""

    def __init__(self, pieces: Iterator[bytes], total: int) -> None:
        self._pieces = pieces
        self._rest = b""
        self._at = 0
        self.taken = 0
        self.total = total

    def _fill(self) -> bool:
        """Whether there is something to take."""
        while self._at == len(self._rest):
            piece = next(self._pieces, None)
            if piece is None:
                return False
            self._rest, self._at = piece, 0
            self.total += len(piece)
            if self.total > UNPACKED_MAX:
                raise ImageError(f"the initial RAM disk unpacks to more than {UNPACKED_MAX} bytes")
        return True

    def more(self) -> bool:
        return self._fill()

    def take(self, size: int) -> bytes:
        parts = []
        while size:
            if not self._fill():
                raise ImageError("the initial RAM disk is cut off")
            part = self._rest[self._at : self._at + size]
            parts.append(part)
            self._advance(len(part))
            size -= len(part)
        return b"".join(parts)

    def pass_over(self, size: int) -> None:
        while size:
            if not self._fill():
                raise ImageError("the initial RAM disk is cut off")
            step = min(size, len(self._rest) - self._at)
            self._advance(step)
            size -= step

    def skip_zeros(self) -> None:
        while self._fill() and self._rest[self._at] == 0:
            self._advance(_past_zeros(self._rest, self._at) - self._at)

    def _advance(self, size: int) -> None:
        self._at += size
        self.taken += size


def _pieces(data: bytes, at: int) -> Iterator[bytes]:
    for start in range(at, len(data), 1024 * 1024):
        yield data[start : start + 1024 * 1024]


_NOT_ZERO: Final = re.compile(rb"[^\0]")


def _past_zeros(data: bytes, at: int) -> int:
    match = _NOT_ZERO.search(data, at)
    return match.start() if match else len(data)


def _unpacked(module: bytes, suffix: str | None) -> bytes:
    if suffix is None:
        return module
    return packed.unpack(module, {"xz": "xz", "zst": "zstd", "gz": "gzip"}[suffix], most=MODULE_MAX)


def _canonical(name: str) -> str:
    return name.replace("-", "_")


def _listed(content: bytes) -> set[str]:
    """The first word of each line; the rest are parameters."""
    lines = content.decode("utf-8", "replace").splitlines()
    return {_canonical(line.split()[0]) for line in lines if line.strip() and line.strip()[0] not in "#;"}


def _from_command_line(command_line: str) -> Iterable[str]:
    for word in command_line.split():
        name, _, value = word.partition("=")
        if name in _ON_THE_COMMAND_LINE:
            yield from (_canonical(module) for module in value.split(",") if module)


def _dependencies(content: bytes) -> dict[str, set[str]]:
    """modules.dep: `path: path…`, a module and what it needs, all of it."""
    needs = {}
    for line in content.decode("utf-8", "replace").splitlines():
        path, colon, others = line.partition(":")
        module = _MODULE.search(path)
        if colon and module:
            names = [_MODULE.search(other) for other in others.split()]
            needs[_canonical(module.group(1))] = {_canonical(name.group(1)) for name in names if name}
    return needs
