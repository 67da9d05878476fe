"""What manifests say about the files of sessions without a participant, whatever their makers wrote."""

from __future__ import annotations

import pytest

from luod.daemon.preflight import manifests
from luod.daemon.preflight.manifests import Listed, ManifestReader
from luod.manifest import MANIFEST_TOKEN, Entry, Log, new_part

RAM = Entry(1, "ram", "memfd", 4096, 4096, 0)


def part(*entries: Entry, more: bool = False) -> bytes:
    """Returns the first part of a manifest, as luod has it. `more`: it continues in another part."""
    data, log = bytearray(new_part()), Log()
    writes = log.part_made(MANIFEST_TOKEN)
    for entry in entries:
        writes += log.add(entry)
    if more:
        writes += log.part_made(MANIFEST_TOKEN - 1)
    for write in writes:
        data[write.offset : write.offset + len(write.data)] = write.data
    return bytes(data).rstrip(b"\0")


def test_the_files_of_each_session_are_known_and_whether_there_may_be_others() -> None:
    found = ManifestReader().read({"two": part(RAM, more=True), "one": part(), "other": b"garbage"})
    assert found == (
        Listed("one", (), complete=True),
        Listed("other", (), complete=False),
        Listed("two", (RAM,), complete=False),
    )


def test_a_manifest_that_did_not_change_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, data = ManifestReader(), part(RAM)
    first = reader.read({"vm": data})
    monkeypatch.setattr(manifests, "read_first", None)
    assert reader.read({"vm": data}) == first
