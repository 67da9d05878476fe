"""The manifest of a session: its tokens, names and sizes. Bytes in and out; no system call.

The kernel cannot list the files of a session, so an outgoing session carries a list of its own, in memfds (parts) of
`PART_SIZE` bytes: the first under `MANIFEST_TOKEN`, further ones under the tokens below it.
`luod.liveupdate.OutgoingSession` writes it. `IncomingSession` reads it in the next kernel, perhaps with another version
of luod.

The format is a log, since a preserved memfd can be rewritten but neither grown nor replaced, and since the machine
may kexec between any two stores to it:

    part    magic "luod-manifest-1\\n", then records, one after another, each at a multiple of 8 bytes
    record  u32 length of the body in bytes, u32 crc32 of the body, body; little-endian; length 0 ends the log
    body    JSON in UTF-8, one of
            {"token": 7, "name": "ram" or null, "kind": "memfd", "size": B, "allocated": B, "seals": F_SEAL_* bits}
                (and "device": "0000:01:00.0", the PCI address, for the kind "vfio")
            {"dropped": 7}        the token is not preserved (any more)
            {"about": {...}}      what its program says about the workload; later members replace earlier ones
            {"continues": N}      the log goes on in the part under token N

A record is written body first, its header last, so it is complete or absent. It is written *before* the file is
preserved: after a crash at any point the manifest lists at least the files of the session.
"""

from __future__ import annotations

import json
import struct
import zlib

from luod.decode import encode
from luod.errors import BadInput, ManifestError
from luod.frozen import frozen
from luod.static import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Read = Callable[[int], bytes | None]
    """Returns the part under a token; None without it."""

MANIFEST_TOKEN: Final = 2**64 - 2
PARTS_MAX: Final = 256
RESERVED_TOKENS: Final = range(MANIFEST_TOKEN - PARTS_MAX + 1, MANIFEST_TOKEN + 1)
"""Tokens that files cannot have in a session with a manifest."""
CPR_STATE_TOKEN: Final = 1
"""The token of the state that QEMU's own mode cpr-luo writes into a session. The library chooses it for no file, so
that a reader can tell the two layouts apart.
"""

PART_SIZE: Final = 64 * 1024
"""The size of one part in bytes: enough for some 600 files."""
NAME_MAX: Final = 255
"""The maximum length of a file's name in bytes of UTF-8."""

ABOUT_MAX: Final = 32 * 1024
"""The maximum length of what one `about` record says, in bytes of JSON."""

_MAGIC: Final = b"luod-manifest-1\n"
_HEADER: Final = struct.Struct("<II")
_ROOM: Final = 4096
"""Bytes that a part must have free before a record: enough for an entry, for its `dropped`, and for `continues`."""

MEMFD: Final = "memfd"
"""The kind of memory: the only one with holes to fill."""
VFIO: Final = "vfio"
"""The kind of a VFIO device file."""
IOMMUFD: Final = "iommufd"
"""The kind of an iommufd, which a kernel with the posted series preserves."""


@frozen
class Entry:
    """One file of a session. `size` and `allocated` are in bytes, as they were just before it was preserved."""

    token: int
    name: str | None
    kind: str
    size: int
    allocated: int
    seals: int
    device: str | None = None
    """The PCI address of a VFIO device, if it is known."""


@frozen
class Write:
    """Bytes to store at `offset` of the part under `token`. Writes are to be made in the given order."""

    token: int
    offset: int
    data: bytes


class Log:
    """The writing side: the end of the log. It returns the writes, and the caller makes them.

    Before each record the caller asks `part_wanted`, and makes and preserves that part, so that every step that can
    fail comes before a change of the log.
    """

    def __init__(self) -> None:
        self._part = MANIFEST_TOKEN + 1
        self._end = PART_SIZE

    def part_wanted(self, length: int = 0) -> int | None:
        """Returns the token of the part to be made before the next record; None if there is room.

        `length` are the bytes of an `about` that comes next. Raises ManifestError: full.
        """
        if self._end <= PART_SIZE - _ROOM - length:
            return None
        if self._part - 1 not in RESERVED_TOKENS:
            raise ManifestError("the manifest is full", hint="hold fewer files in one session, or manifest=False")
        return self._part - 1

    def part_made(self, token: int) -> tuple[Write, ...]:
        """Returns the writes that continue the log in a new part. The part must be preserved under `token` first.

        `new_part()` returns its contents.
        """
        writes = self._append({"continues": token}) if token != MANIFEST_TOKEN else ()
        self._part, self._end = token, len(_MAGIC)
        return writes

    def add(self, entry: Entry) -> tuple[Write, ...]:
        """Returns the writes that record `entry`, to be made before its file is preserved."""
        record = encode(entry)
        if entry.device is None:
            del record["device"]
        return self._append(record)

    def drop(self, token: int) -> tuple[Write, ...]:
        """Returns the writes that remove `token`, to be made after it is preserved no longer."""
        return self._append({"dropped": token})

    def about(self, text: bytes) -> tuple[Write, ...]:
        """Returns the writes that record `text`, which `about_text` returned."""
        return self._write(b'{"about":' + text + b"}")

    def _append(self, record: dict[str, Any]) -> tuple[Write, ...]:
        return self._write(json.dumps(record, separators=(",", ":")).encode())

    def _write(self, body: bytes) -> tuple[Write, ...]:
        start = self._end
        self._end += _length(body)
        header = _HEADER.pack(len(body), zlib.crc32(body))
        return Write(self._part, start + _HEADER.size, body), Write(self._part, start, header)


def new_part() -> bytes:
    """Returns the contents of a part without records, to be written before it is preserved."""
    return _MAGIC.ljust(PART_SIZE, b"\0")


def about_text(about: Mapping[str, Any]) -> bytes:
    """Returns what a program says about its workload as JSON. Raises BadInput: it is no JSON, or too long."""
    try:
        text = json.dumps(dict(about), separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"what is said about a workload must be JSON: {error}") from error
    if len(text) > ABOUT_MAX:
        raise BadInput(f"what is said about a workload has {len(text)} bytes", hint=f"at most {ABOUT_MAX} fit")
    return text


class Reading:
    """The contents of a log. `entries` are the files, in the order in which they were preserved, by token."""

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}
        self.about: dict[str, Any] = {}

    @property
    def files(self) -> tuple[Entry, ...]:
        return tuple(self.entries.values())


def read_all(part: Read) -> Reading | None:
    """Returns everything that a session's manifest says; None without a manifest.

    `part` gets `MANIFEST_TOKEN` first. Raises ManifestError: damaged, or of another format.
    """
    reading = Reading()
    token: int | None = MANIFEST_TOKEN
    while token is not None:
        data = part(token)
        if data is not None:
            token = _apply(_records(data), reading, token)
        elif token == MANIFEST_TOKEN:
            return None
        else:
            # `continues` is written after its part is preserved, so no crash leads here.
            raise ManifestError(f"the manifest goes on in token {token}, which the session does not hold")
    return reading


def read(part: Read) -> tuple[Entry, ...] | None:
    """Returns the files of a session, in the order in which they were preserved; None without a manifest.

    See `read_all`.
    """
    reading = read_all(part)
    return None if reading is None else reading.files


def read_first(data: bytes) -> tuple[Reading, bool]:
    """Returns what the first part alone says, and whether that is all: False if the log continues in another part.

    Raises ManifestError: damaged, or of another format.
    """
    reading = Reading()
    following = _apply(_records(data), reading, MANIFEST_TOKEN)
    return reading, following is None


def _apply(records: Iterable[dict[str, Any]], reading: Reading, part: int) -> int | None:
    """Applies the records of one part to `reading`. Returns the token of the next part, None without one."""
    entries = reading.entries
    for record in records:
        if "continues" in record:
            following = record["continues"]
            # Part tokens decrease, so a damaged or hostile manifest cannot make a reader loop.
            if type(following) is not int or following != part - 1 or following not in RESERVED_TOKENS:
                raise ManifestError(f"the manifest goes on in {following!r}, which is not the part that follows")
            return following
        if "dropped" in record:
            entries.pop(_integer(record, "dropped"), None)
            continue
        if "about" in record:
            if not isinstance(record["about"], dict):
                raise ManifestError("the manifest's member 'about' is not an object")
            reading.about |= record["about"]
            continue
        entry = _entry(record)
        entries[entry.token] = entry
    return None


def _records(data: bytes) -> Iterable[dict[str, Any]]:
    if data[: len(_MAGIC)] != _MAGIC:
        raise ManifestError("the file under the manifest's token is not a manifest of this format")
    offset = len(_MAGIC)
    while offset + _HEADER.size <= len(data):
        length, checksum = _HEADER.unpack_from(data, offset)
        if length == 0:
            return
        body = data[offset + _HEADER.size : offset + _HEADER.size + length]
        if len(body) != length or zlib.crc32(body) != checksum:
            raise ManifestError(f"the manifest is damaged at byte {offset}")
        try:
            record = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"the manifest is damaged at byte {offset}: {error}") from error
        if not isinstance(record, dict):
            raise ManifestError(f"the manifest is damaged at byte {offset}: not an object")
        yield record
        offset += _length(body)


def _entry(record: dict[str, Any]) -> Entry:
    name, kind, device = record.get("name"), record.get("kind"), record.get("device")
    if not isinstance(kind, str) or not isinstance(name, str | None) or not isinstance(device, str | None):
        raise ManifestError("an entry of the manifest has no kind, or a name or device that is not text")
    return Entry(
        token=_integer(record, "token"),
        name=name,
        kind=kind,
        size=_integer(record, "size"),
        allocated=_integer(record, "allocated"),
        seals=_integer(record, "seals"),
        device=device,
    )


def _integer(record: dict[str, Any], member: str) -> int:
    value = record.get(member)
    if type(value) is not int or not 0 <= value < 2**64:
        raise ManifestError(f"the manifest's member {member!r} is not a 64-bit number: {value!r}")
    return value


def _length(body: bytes) -> int:
    """Returns the bytes of a record: header, body, and padding to a multiple of 8."""
    return -(-(_HEADER.size + len(body)) // 8) * 8
