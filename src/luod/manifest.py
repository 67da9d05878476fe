"""The manifest of a session: which tokens it holds, under which names, how large. Bytes in and out; no system call.

The kernel cannot list the files of a session, so an outgoing session carries a list of its own, in memfds (parts) of
`PART_SIZE` bytes: the first under `MANIFEST_TOKEN`, further ones under the tokens below it. It is written by
`luod.liveupdate.OutgoingSession` and read by `IncomingSession` in the next kernel, maybe by another version of luod.

The format is a log, since a preserved memfd can be rewritten but neither grown nor replaced, and since the machine
may jump between any two stores to it:

    part    magic "luod-manifest-1\\n", then records, one after another, each at a multiple of 8 bytes
    record  u32 length of the body in bytes, u32 crc32 of the body, body; little-endian; length 0 ends the log
    body    JSON in UTF-8, one of
            {"token": 7, "name": "ram" or null, "kind": "memfd", "size": B, "allocated": B, "seals": F_SEAL_* bits}
                (and "device": "0000:01:00.0", the PCI address, for the kind "vfio")
            {"dropped": 7}        the token is preserved no longer, or never was
            {"continues": N}      the log goes on in the part under token N

A record is written body first, its header last, so it is there whole or not at all. It is written *before* the file is
preserved: after a crash at any point the manifest names at least what the session holds, and never too little.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final

from luod.errors import ManifestError

MANIFEST_TOKEN: Final = 2**64 - 2
PARTS_MAX: Final = 256
RESERVED_TOKENS: Final = range(MANIFEST_TOKEN - PARTS_MAX + 1, MANIFEST_TOKEN + 1)
"""Tokens that no file may have in a session with a manifest."""

PART_SIZE: Final = 64 * 1024
"""Bytes of one part: room for some 600 files."""
NAME_MAX: Final = 255
"""Bytes of a file's name in UTF-8."""

_MAGIC: Final = b"luod-manifest-1\n"
_HEADER: Final = struct.Struct("<II")
_ROOM: Final = 4096
"""Bytes a part has free before a record is begun: enough for an entry, for taking it back, and for `continues`."""

Read = Callable[[int], bytes | None]
"""Reads the part under a token; None: there is none."""


@dataclass(frozen=True)
class Entry:
    """One file of a session. `size` and `allocated` are bytes, as they were just before it was preserved."""

    token: int
    name: str | None
    kind: str
    size: int
    allocated: int
    seals: int
    device: str | None = None
    """The PCI address of a VFIO device, where it is known."""


@dataclass(frozen=True)
class Write:
    """Bytes to store at `offset` of the part under `token`. Writes are to be made in the order they are given."""

    token: int
    offset: int
    data: bytes


class Log:
    """The writing side: where the log ends. It says what to write; the caller writes.

    Before each record the caller asks `part_wanted`, and makes and preserves that part, so that what can fail is done
    before the log has changed.
    """

    def __init__(self) -> None:
        self._part = MANIFEST_TOKEN + 1
        self._end = PART_SIZE

    def part_wanted(self) -> int | None:
        """The token of the part to be made before the next record; None: there is room. ManifestError: full."""
        if self._end <= PART_SIZE - _ROOM:
            return None
        if self._part - 1 not in RESERVED_TOKENS:
            raise ManifestError("the manifest is full", hint="hold fewer files in one session, or manifest=False")
        return self._part - 1

    def part_made(self, token: int) -> tuple[Write, ...]:
        """To be called once the part under `token` is preserved, `new_part()` its contents; writes as of `add`."""
        writes = self._append({"continues": token}) if token != MANIFEST_TOKEN else ()
        self._part, self._end = token, len(_MAGIC)
        return writes

    def add(self, entry: Entry) -> tuple[Write, ...]:
        """The writes that record `entry`, to be made before its file is preserved."""
        record = asdict(entry)
        if entry.device is None:
            del record["device"]
        return self._append(record)

    def drop(self, token: int) -> tuple[Write, ...]:
        """The writes that take `token` out again, to be made after it is preserved no longer."""
        return self._append({"dropped": token})

    def _append(self, record: dict[str, Any]) -> tuple[Write, ...]:
        body = json.dumps(record, separators=(",", ":")).encode()
        start = self._end
        self._end += _length(body)
        header = _HEADER.pack(len(body), zlib.crc32(body))
        return Write(self._part, start + _HEADER.size, body), Write(self._part, start, header)


def new_part() -> bytes:
    """The contents of a part without records, as it is before it is preserved."""
    return _MAGIC.ljust(PART_SIZE, b"\0")


def read(part: Read) -> tuple[Entry, ...] | None:
    """What a session holds, in the order it was preserved; None when it has no manifest.

    `part` is called with `MANIFEST_TOKEN` first. ManifestError: damaged, or of another format.
    """
    entries: dict[int, Entry] = {}
    token: int | None = MANIFEST_TOKEN
    while token is not None:
        data = part(token)
        if data is not None:
            token = _apply(_records(data), entries, token)
        elif token == MANIFEST_TOKEN:
            return None
        else:
            # `continues` is written after its part is preserved, so no crash leads here.
            raise ManifestError(f"the manifest goes on in token {token}, which the session does not hold")
    return tuple(entries.values())


def read_first(data: bytes) -> tuple[tuple[Entry, ...], bool]:
    """What the first part alone names, and whether that is all: False when the log goes on in another part.

    ManifestError: damaged, or of another format.
    """
    entries: dict[int, Entry] = {}
    following = _apply(_records(data), entries, MANIFEST_TOKEN)
    return tuple(entries.values()), following is None


def _apply(records: Iterable[dict[str, Any]], entries: dict[int, Entry], part: int) -> int | None:
    """Plays the records of one part onto `entries`; gives the token of the part that follows, None when none does."""
    for record in records:
        if "continues" in record:
            following = record["continues"]
            # Parts go downwards, so a damaged or hostile manifest cannot make a reader go round in circles.
            if type(following) is not int or following != part - 1 or following not in RESERVED_TOKENS:
                raise ManifestError(f"the manifest goes on in {following!r}, which is not the part that follows")
            return following
        if "dropped" in record:
            entries.pop(_integer(record, "dropped"), None)
            continue
        entry = _entry(record)
        entries[entry.token] = entry
    return None


def _records(data: bytes) -> Iterable[dict[str, Any]]:
    if data[: len(_MAGIC)] != _MAGIC:
        raise ManifestError("the file under the manifest's token is no manifest of this format")
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
        raise ManifestError("an entry of the manifest has no kind, or a name or device that is no text")
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
        raise ManifestError(f"the manifest's member {member!r} is no number of 64 bits: {value!r}")
    return value


def _length(body: bytes) -> int:
    """Bytes of a record: header, body, and what brings the next header to a multiple of 8."""
    return -(-(_HEADER.size + len(body)) // 8) * 8
