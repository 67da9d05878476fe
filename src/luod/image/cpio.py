"""Unpacks an initial RAM disk into a tree, as init/initramfs.c of the kernel does.

An initial RAM disk is a sequence of cpio archives ("newc", with or without checksums), each packed or not, with zeros
in between: Documentation/driver-api/early-userspace/buffer-format.rst. It is read piece by piece, and may be hostile:
sizes, counts and kept contents are bounded. There are three differences from the kernel, and the result reports each. A
truncated archive is an error, also where the kernel unpacks its first part. Directories without an entry are made.
Contents packed with lzo cannot be read.
"""

from __future__ import annotations

import binascii
import stat
import struct
from typing import Final

from luod.errors import ImageError, ImageUnreadable
from luod.frozen import frozen
from luod.image import foreign, module_file, packed
from luod.image.contents import formats, formats_in
from luod.image.pieces import Pieces, past_zeros, unusable
from luod.image.tree import Inode, Kind, Tree

UNPACKED_MAX: Final = 4 * 1024 * 1024 * 1024
NAMES_MAX: Final = 64 * 1024 * 1024
"""Bytes of all names and link targets together."""
KEPT_MAX: Final = 64 * 1024 * 1024
"""Bytes of all kept file contents together."""
_LIST_MAX: Final = 16 * 1024 * 1024
_SMALL: Final = 64 * 1024
_ENTRIES_MAX: Final = 500_000
_PATH_MAX: Final = 4096
_HEADER: Final = 110
_CHECKED: Final = b"070702"
_TRAILER: Final = "TRAILER!!!"

# The kernel compares two bytes: lib/decompress.c.
_MAGICS: Final = {
    b"\x1f\x8b": "gzip",
    b"\x1f\x9e": "gzip",
    b"BZ": "bzip2",
    b"\x5d\0": "lzma",
    b"\xfd7": "xz",
    b"\x89L": "lzo",
    b"\x02\x21": "lz4",
    b"\x28\xb5": "zstd",
}
_KINDS: Final[dict[int, Kind]] = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}
_EARLY: Final = {"kernel", "early_cpio"}
"""Archives for the kernel alone contain these: microcode and ACPI tables."""
_Identity = tuple[int, int, int, int]
"""Inode, device and kind: what hard links of one file share."""
_NODES: Final = (stat.S_IFBLK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK)


@frozen
class Unpacked:
    """The result of unpacking an initial RAM disk.

    `stopped`: the kernel's message where it stops, "" when it reaches the end; `ended`: the last archive has an end
    mark; `packing`: the compressions of the archives.
    """

    tree: Tree
    stopped: str
    ended: bool
    packing: frozenset[str]


def unpack(data: bytes, end: int | None = None) -> Unpacked:
    """Unpacks `data` up to `end`.

    Raises ImageError: a kernel cannot use it, or its size is hostile. Raises ImageUnreadable: luod cannot read it,
    which says nothing about the kernel.
    """
    return _Unpacker(data, len(data) if end is None else end).run()


class _Stop(Exception):
    """The kernel stops here, between two entries. Everything before is unpacked."""


class _Unpacker:
    def __init__(self, data: bytes, end: int) -> None:
        self._data = data
        self._end = end
        self._tree = Tree()
        self._links: dict[_Identity, str] = {}
        self._between = False
        """Whether the position is between two entries: the kernel's state Reset."""
        self._ended = False
        self._packing: set[str] = set()
        self._entries = 0
        self._names = 0
        self._kept = 0
        self._unpacked = 0

    def run(self) -> Unpacked:
        stopped = ""
        try:
            self._segments()
        except _Stop as stop:
            if not self._ended or set(self._tree.names("/")) <= _EARLY:
                raise ImageError(unusable(_named("it", self._data, str(stop)))) from None
            stopped = str(stop)
        if not self._entries:
            raise ImageError(unusable("there is no archive in it, only zeros" if self._end else "the file is empty"))
        return Unpacked(self._tree, stopped, self._ended, frozenset(self._packing))

    def _count(self, unpacked: int) -> None:
        self._unpacked += unpacked
        if self._unpacked > UNPACKED_MAX:
            raise ImageError(f"the initial RAM disk unpacks to more than {UNPACKED_MAX} bytes")

    def _segments(self) -> None:
        data, at, position = self._data, 0, 0
        while at < self._end:
            if data[at] == ord("0") and not position & 3:
                reader = Pieces(packed.Stream(data, "none", at, self._end).raw(), self._count, position)
                self._between = False
                while True:
                    self._entry(reader)
                    if not self._next(reader) or reader.peek() != ord("0"):
                        break
                at += reader.position - position
                position = reader.position
            elif data[at] == 0:
                past = min(past_zeros(data, at), self._end)
                position, at = position + past - at, past
            else:
                start = at
                at = self._packed(at)
                position += at - start

    def _packed(self, at: int) -> int:
        """Unpacks one packed segment, and returns its end."""
        data = self._data
        name = _MAGICS.get(data[at : at + 2])
        if name is None:
            raise _Stop(f"invalid magic at start of compressed archive, at byte {at}")
        if name == "lzo":
            raise ImageUnreadable("the initial RAM disk is packed with lzo, which luod cannot unpack")
        if name == "xz" and data[at + 7 : at + 8] > b"\x01":
            raise ImageError(
                unusable("it is packed with xz and a checksum that the kernel does not know"),
                hint="pack it with xz --check=crc32",
            )
        self._packing.add(name)
        stream = packed.Stream(data, name, at, self._end)
        reader = Pieces(iter(stream), self._count)
        try:
            if self._between:
                self._next(reader)
            else:
                self._begin(reader)
            while reader.more():
                if reader.peek() != ord("0"):
                    raise _Stop(f"junk within compressed archive, which begins at byte {at}")
                self._begin(reader)
        except ImageUnreadable:
            raise
        except packed.PackingError as error:
            raise ImageError(unusable(error.message), hint=error.hint) from error
        if not self._between or reader.cut:
            raise ImageError(unusable(f"an archive in it, packed with {name}, is cut off"))
        following = int.from_bytes(data[stream.end : min(stream.end + 4, self._end)], "little")
        if name == "lz4" and following and self._end - stream.end >= 4:
            raise ImageError(
                unusable(f"what follows the archive that is packed with lz4, at byte {stream.end}, is taken for it"),
                hint="put four zero bytes in between",
            )
        return stream.end

    def _begin(self, reader: Pieces) -> None:
        self._between = False
        self._entry(reader)
        self._next(reader)

    def _next(self, reader: Pieces) -> bool:
        """Skips the zeros after an entry, and returns whether there is more data."""
        reader.skip_zeros()
        if reader.more() and reader.position & 3:
            raise _Stop("broken padding")
        return reader.more()

    # -- One entry ---------------------------------------------------------------------------------------------------

    def _entry(self, reader: Pieces) -> None:
        header = reader.take(_HEADER)
        if header[:6] not in packed.CPIO_MAGICS:
            if self._ended:
                raise _Stop("no cpio magic")
            old = "incorrect cpio method used: use -H newc option"
            why = old if header[:6] == b"070707" else "no cpio magic"
            raise ImageError(unusable(_named("what is in it", reader.begin, why)))
        try:
            # Not int(): it accepts signs, blanks and "_", which the kernel refuses.
            fields = struct.unpack(">13I", binascii.unhexlify(header[6:]))
        except ValueError:
            raise ImageError(unusable("damaged header")) from None
        ino, mode, links, size = fields[0], fields[1], fields[4], fields[6]
        name_size = fields[11]
        checksum = fields[12] if header[:6] == _CHECKED else None
        self._ended = False
        self._entries += 1
        if self._entries > _ENTRIES_MAX:
            raise ImageError(f"the initial RAM disk has more than {_ENTRIES_MAX} files")
        kind = stat.S_IFMT(mode)
        padded = ((name_size + 1) & ~3) + 2
        file = kind == stat.S_IFREG
        if (
            not 0 < name_size <= _PATH_MAX
            or (kind != stat.S_IFLNK and size and not file)
            or (kind == stat.S_IFLNK and size > _PATH_MAX)
        ):
            reader.pass_over(padded + size)
        else:
            raw = reader.take(padded)
            if raw[name_size - 1]:
                raise ImageError(unusable("malformed archive: a name has no end"))
            name = _text(raw[:name_size])
            self._names += len(name) + (0 if file else size)
            if self._names > NAMES_MAX:
                raise ImageError(f"the initial RAM disk has names of more than {NAMES_MAX} bytes")
            if kind == stat.S_IFLNK:
                target = _text(reader.take(size))
                self._tree.clear(name, None)
                self._tree.link(name, target)
            else:
                self._make(reader, name, kind, size, links, (ino, fields[7], fields[8], kind), checksum)
        reader.align()
        self._between = True

    def _make(
        self, reader: Pieces, name: str, kind: int, size: int, links: int, identity: _Identity, checksum: int | None
    ) -> None:
        self._ended = name == _TRAILER
        if self._ended:
            self._links.clear()
            reader.pass_over(size)
            return
        tree = self._tree
        tree.clear(name, _KINDS.get(kind, "node"))
        inode: Inode | None = None
        if kind == stat.S_IFDIR:
            tree.directory(name)
        elif kind in _NODES or kind == stat.S_IFREG:
            linked = self._linked(name, links, identity)
            if kind == stat.S_IFREG and linked is not None:
                inode = tree.file(name)
                if inode is not None and not linked:
                    inode.content, inode.formats, inode.damage = b"", (), ""
            elif kind != stat.S_IFREG and linked is False:
                tree.node(name)
        if inode is None:
            reader.pass_over(size)
            return
        found = self._fill(inode, name, reader, size, linked=links > 1, summed=checksum is not None)
        if checksum is not None and found != checksum:
            raise ImageError(unusable("bad data checksum"))

    def _linked(self, name: str, links: int, identity: _Identity) -> bool | None:
        """Returns whether the name is a hard link now; None where it should be one and cannot."""
        if links < 2:
            return False
        old = self._links.setdefault(identity, name)
        if old is name:
            return False
        self._tree.clear(name, None)
        return True if self._tree.hard_link(old, name) else None

    def _fill(self, inode: Inode, name: str, reader: Pieces, size: int, *, linked: bool, summed: bool) -> int:
        """Reads a file's content, and returns its checksum if requested."""
        if not size:
            return 0
        inode.content, inode.formats, inode.damage, inode.packed = None, (), "", None
        module = module_file.module_name(name) is not None
        # Another name of a linked file may be that of a module.
        if size > (module_file.SIZE_MAX if module or linked else _most(name)):
            inode.damage = f"it has more than {module_file.SIZE_MAX} bytes" if module else ""
            return reader.pass_over(size, summed=summed)
        packing = module_file.packing(name) if module else None
        if module and not packing and not summed:
            inode.formats = formats_in(reader.parts(size))
            return 0
        content = reader.take(size)
        if packing:
            inode.packed = packing, content
            if not self._keep(size):
                module_file.look_into(inode)
        elif module or content.startswith(b"\x7fELF"):
            inode.formats = formats(content) if module or linked else ()
        elif size <= _most(name) and self._keep(size):
            inode.content = content
        return sum(content) & 0xFFFFFFFF if summed else 0

    def _keep(self, size: int) -> bool:
        """Returns whether there is room to keep a content of this size, and counts it."""
        room = self._kept + size <= KEPT_MAX
        self._kept += size if room else 0
        return room


def _named(what: str, data: bytes, why: str) -> str:
    """Returns the reason, with the kind of file that `data` begins if it is known."""
    known = foreign.name(data)
    return f"{what} is {known} ({why})" if known else why


def _text(raw: bytes) -> str:
    # Names are printed, so they have no surrogates.
    return raw.partition(b"\0")[0].decode("utf-8", "backslashreplace")


def _most(name: str) -> int:
    """Returns the number of bytes up to which a file's content is kept."""
    if "firmware/" in name:
        return 0
    return _LIST_MAX if name.rpartition("/")[2].startswith("modules.") else _SMALL
