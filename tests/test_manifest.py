"""luod.manifest: what the log writes is what it reads, wherever a machine may jump, and damage is noticed."""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from luod import manifest
from luod.decode import encode
from luod.errors import BadInput, ManifestError
from luod.manifest import MANIFEST_TOKEN, PART_SIZE, RESERVED_TOKENS, Entry, Log, Write, read

RAM = Entry(token=7, name="ram", kind="memfd", size=64 << 20, allocated=4096, seals=0)
LONGEST = Entry(2**64 - 1, "\x01" * manifest.NAME_MAX, "unknown", 2**64 - 1, 2**64 - 1, 2**64 - 1)
"""JSON takes six bytes for each of the name's."""
MAGIC = 16


class Parts:
    """The parts of one manifest, with every state they went through, as a jump at that moment would carry it."""

    def __init__(self) -> None:
        self.log = Log()
        self.data: dict[int, bytes] = {}
        self.states: list[dict[int, bytes]] = []

    def add(self, entry: Entry) -> None:
        self.make_room()
        self.store(self.log.add(entry))

    def drop(self, token: int) -> None:
        self.make_room()
        self.store(self.log.drop(token))

    def annotate(self, about: dict[str, Any]) -> None:
        text = manifest.about_text(about)
        self.make_room(len(text))
        self.store(self.log.about(text))

    def make_room(self, length: int = 0) -> None:
        token = self.log.part_wanted(length)
        if token is not None:
            self.data[token] = manifest.new_part()
            self.store(self.log.part_made(token))

    def store(self, writes: tuple[Write, ...]) -> None:
        for write in writes:
            # Inside a part, since a preserved memfd cannot grow.
            assert write.offset + len(write.data) <= PART_SIZE
            before, after = self.data[write.token][: write.offset], self.data[write.token][write.offset :]
            self.data[write.token] = before + write.data + after[len(write.data) :]
            self.states.append(dict(self.data))

    def about(self) -> dict[str, Any]:
        reading = manifest.read_all(self.data.get)
        assert reading is not None
        return reading.about

    def read(self) -> tuple[Entry, ...] | None:
        return read(lambda token: self.data.get(token))


def part_of(*bodies: bytes) -> dict[int, bytes]:
    data = manifest.new_part()[:MAGIC]
    for body in bodies:
        data += (struct.pack("<II", len(body), zlib.crc32(body)) + body).ljust(-(-(8 + len(body)) // 8) * 8, b"\0")
    return {MANIFEST_TOKEN: data.ljust(PART_SIZE, b"\0")}


def test_what_is_added_is_read_in_that_order() -> None:
    parts = Parts()
    other = Entry(token=0, name=None, kind="device", size=0, allocated=0, seals=0)
    parts.add(RAM)
    parts.add(other)
    assert parts.read() == (RAM, other)


def test_what_is_dropped_is_read_no_more_and_may_come_again() -> None:
    parts = Parts()
    parts.add(RAM)
    parts.drop(RAM.token)
    assert parts.read() == ()
    parts.add(RAM)
    assert parts.read() == (RAM,)


def test_what_is_said_about_the_workload_is_read_and_later_members_replace_earlier_ones() -> None:
    parts = Parts()
    parts.annotate({"agent": "qemu", "generation": 1})
    parts.add(RAM)
    parts.annotate({"generation": 2})
    assert parts.about() == {"agent": "qemu", "generation": 2}
    assert parts.read() == (RAM,)


def test_much_that_is_said_goes_on_in_further_parts() -> None:
    parts = Parts()
    for number in range(10):
        parts.annotate({f"said {number}": "x" * (manifest.ABOUT_MAX - 100)})
    assert len(parts.about()) == 10
    assert len(parts.data) > 2


@pytest.mark.parametrize("about", [{"x": "y" * manifest.ABOUT_MAX}, {"x": object()}, {"x": float("nan")}])
def test_what_is_no_json_or_too_long_is_refused(about: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        manifest.about_text(about)


def test_no_part_is_no_manifest_and_a_fresh_one_is_an_empty_manifest() -> None:
    assert read(lambda token: None) is None
    assert read({MANIFEST_TOKEN: manifest.new_part()}.get) == ()


entries = some.builds(
    Entry,
    token=some.integers(0, 2**64 - 1),
    name=some.none() | some.text(max_size=63),
    kind=some.sampled_from(["memfd", "device", "unknown"]),
    size=some.integers(0, 2**63),
    allocated=some.integers(0, 2**63),
    seals=some.integers(0, 63),
)


@settings(deadline=None)  # a busy machine is no fault of the log's
@given(steps=some.lists(some.tuples(some.booleans(), entries), max_size=20))
def test_a_jump_between_any_two_stores_carries_the_steps_done_so_far(steps: list[tuple[bool, Entry]]) -> None:
    parts, held = Parts(), dict[int, Entry]()
    expected: list[tuple[Entry, ...]] = [()]
    for drop, entry in steps:
        if drop:
            parts.drop(entry.token)
            held.pop(entry.token, None)
        else:
            parts.add(entry)
            held[entry.token] = entry
        expected.append(tuple(held.values()))
    assert parts.read() == (expected[-1] if steps else None)
    # Two stores a step: after the first, the body's, nothing is seen of it; after the second, all.
    for number, state in enumerate(parts.states):
        assert read(state.get) == expected[(number + 1) // 2]


def test_a_log_longer_than_a_part_goes_on_in_the_next_token_down() -> None:
    parts = Parts()
    added = [Entry(token, f"file {token}", "memfd", 1 << 40, 1 << 40, 63) for token in range(3000)]
    for entry in added:
        parts.add(entry)
    assert parts.read() == tuple(added)
    assert sorted(parts.data, reverse=True) == list(RESERVED_TOKENS)[: -len(parts.data) - 1 : -1]
    assert len(parts.data) > 2
    parts.drop(0)
    assert parts.read() == tuple(added[1:])


def test_the_longest_entries_and_their_drops_stay_inside_their_parts() -> None:
    parts = Parts()
    for _ in range(100):
        parts.make_room()
        # What `make_room` left must do for the entry and for taking it back.
        parts.store(parts.log.add(LONGEST))
        parts.store(parts.log.drop(LONGEST.token))
    assert parts.read() == ()


def test_a_full_manifest_says_so_before_it_changes() -> None:
    log = Log()

    def parts() -> Iterator[int]:
        while True:
            token = log.part_wanted()
            if token is not None:
                log.part_made(token)
                yield token
            log.add(LONGEST)

    source = parts()
    assert list(islice(source, manifest.PARTS_MAX)) == list(reversed(RESERVED_TOKENS))
    with pytest.raises(ManifestError, match="full"):
        next(source)


@pytest.mark.parametrize("at", range(MAGIC, MAGIC + 60))
def test_a_flipped_bit_in_a_record_is_noticed(at: int) -> None:
    parts = Parts()
    parts.add(RAM)
    data = bytearray(parts.data[MANIFEST_TOKEN])
    data[at] ^= 0x10
    parts.data[MANIFEST_TOKEN] = bytes(data)
    with pytest.raises(ManifestError):
        parts.read()


def test_another_file_under_the_manifests_token_is_no_manifest() -> None:
    with pytest.raises(ManifestError, match="not a manifest"):
        read({MANIFEST_TOKEN: b"guest RAM, preserved by something else".ljust(4096, b"\0")}.get)
    with pytest.raises(ManifestError):
        read({MANIFEST_TOKEN: b""}.get)


ENTRY = {"token": 1, "name": None, "kind": "memfd", "size": 1, "allocated": 1, "seals": 0}


@pytest.mark.parametrize(
    "body",
    [
        b"\xff",
        b"[]",
        b"7",
        b"[" * 5000,
        b"{}",
        json.dumps({**ENTRY, "token": -1}).encode(),
        json.dumps({**ENTRY, "token": True}).encode(),
        json.dumps({**ENTRY, "size": 2**64}).encode(),
        json.dumps({**ENTRY, "size": 1.5}).encode(),
        json.dumps({**ENTRY, "name": 3}).encode(),
        json.dumps({**ENTRY, "kind": None}).encode(),
        json.dumps({"dropped": "1"}).encode(),
        json.dumps({"continues": MANIFEST_TOKEN}).encode(),
        json.dumps({"continues": MANIFEST_TOKEN - 2}).encode(),
        json.dumps({"continues": 1}).encode(),
        json.dumps({"continues": MANIFEST_TOKEN - 1}).encode(),  # which is not there
    ],
)
def test_records_that_make_no_sense_are_refused(body: bytes) -> None:
    with pytest.raises(ManifestError):
        read(part_of(body).get)


def test_members_of_a_later_version_are_passed_over() -> None:
    assert read(part_of(json.dumps({**ENTRY, "colour": "red"}).encode()).get) == (Entry(1, None, "memfd", 1, 1, 0),)


@given(data=some.binary(max_size=400))
def test_random_bytes_give_entries_or_a_manifest_error(data: bytes) -> None:
    try:
        found = read({MANIFEST_TOKEN: manifest.new_part()[:MAGIC] + data}.get)
    except ManifestError:
        return
    assert found == ()


def test_the_example_of_the_page_is_what_the_log_writes_and_what_its_reader_reads() -> None:
    page = (Path(__file__).parents[1] / "docs/manifest.md").read_text(encoding="utf-8")
    dump = re.findall(r"^    [0-9a-f]{4}  ((?:[0-9a-f]{2} ){16})", page, re.MULTILINE)
    shown = bytes.fromhex("".join(dump)).ljust(PART_SIZE, b"\0")
    parts = Parts()
    parts.add(Entry(0, "ram", "memfd", 1 << 30, 1 << 30, 0))
    parts.add(Entry(1, "scratch", "memfd", 4096, 0, 0))
    parts.drop(1)
    assert parts.data == {MANIFEST_TOKEN: shown}
    scope: dict[str, Any] = {}
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(code, scope)
    (ram,) = parts.read() or ()
    assert scope["read"](shown) == {0: {k: v for k, v in encode(ram).items() if k != "device"}}


def test_the_first_part_alone_says_whether_there_are_more() -> None:
    parts = Parts()
    parts.add(RAM)
    reading, complete = manifest.read_first(parts.data[MANIFEST_TOKEN])
    assert (reading.files, complete) == ((RAM,), True)
    while len(parts.data) == 1:
        parts.add(LONGEST)
    assert manifest.read_first(parts.data[MANIFEST_TOKEN])[1] is False
