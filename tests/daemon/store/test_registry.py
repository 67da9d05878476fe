"""The registry's two copies: each is whole at any moment, and says what was last written. Their order: test_copies."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luod.daemon.log import Log
from luod.daemon.preflight.kinds import KINDS
from luod.daemon.sessions.held_files import FILES, LABEL_BYTES
from luod.daemon.store import entries
from luod.daemon.store.copies import believed, understand, understand_file
from luod.daemon.store.journal import SLOT_SIZE, Slots, pack, unpack
from luod.daemon.store.journal_file import Journal
from luod.daemon.store.registry import Registry
from luod.daemon.store.remains import arrived as arrived_row
from luod.daemon.store.schema import (
    FORMAT,
    MOST_SESSIONS,
    Departure,
    Held,
    HeldFile,
    Image,
    IncomingRow,
    OutgoingRow,
    Record,
)
from luod.daemon.store.states import IncomingState, OutgoingState
from luod.frozen import replace
from luod.linux import Fd


def record(boot: int, *names: str) -> Record:
    rows = tuple(OutgoingRow(name, 1000) for name in names)
    return Record(FORMAT, boot, "some-boot", rows, instance="one")


@pytest.fixture
def memory() -> Iterator[Slots]:
    memory = Slots.new()
    yield memory
    memory.close()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Journal]:
    file = Journal(str(tmp_path))
    yield file
    file.close()


def other(memory: Slots) -> Slots:
    """Returns the same memory, as the next process or kernel finds it."""
    return Slots(Fd(os.dup(memory.fileno())))


def found(memory: Slots) -> Record | None:
    with closing(other(memory)) as next_one:
        return understand(next_one.read(), "memory").record


def on_disk(folder: Path) -> Record | None:
    """Returns the record that the next process finds in the file."""
    return understand_file(Journal(str(folder)).read(), "file").record


def end_of(file: Journal) -> int:
    """Returns the offset at which the last entry in the file ends."""
    log = unpack(Path(file.path).read_bytes())
    assert log is not None
    return log.end


def begin_again(memory: Slots, file: Journal) -> Registry:
    """Returns the registry of the next serve under the same supervisor, as `luod.daemon.store.recovery` begins it."""
    held, kept = understand(memory.read(), "memory"), understand_file(Journal(file.directory).read(), "file")
    found = believed(held, kept, "some-boot", "one")
    assert found.record is not None
    if found is kept:
        memory.forget()
    return Registry(found.record, memory, file, Log("test", "error"), number=found.number)


def names(record: Record | None) -> list[str]:
    assert record is not None
    return [row.name for row in record.rows]


def row(name: str) -> OutgoingRow:
    return OutgoingRow(name, 1000)


def test_both_copies_tell_every_change(memory: Slots, file: Journal) -> None:
    registry = Registry(record(1, "a"), memory, file, Log("test"))
    for step in (
        lambda: registry.add(row("b")),
        lambda: registry.set_image(Image(1, False, "panic=1")),
        lambda: registry.remove(row("a")),
        lambda: registry.replace(row("b"), None),
        lambda: registry.add(row("c")),
        lambda: registry.change(lambda each: replace(each, bytes=4096), registry.record.rows),
        registry.begin_generation,
    ):
        step()
        assert found(memory) == registry.record
        assert on_disk(Path(file.directory)) == registry.record


def test_the_changes_of_a_turn_of_the_loop_are_one_entry(memory: Slots, file: Journal) -> None:
    registry = Registry(record(1, "a"), memory, file, Log("test"))
    registry.set_image(None)
    before = registry.record
    later: list[Callable[[], None]] = []
    registry.soon = later.append
    registry.add(row("b"))
    registry.add(row("c"))
    registry.remove(row("b"))
    registry.replace(row("a"), replace(row("a"), bytes=4096))
    assert names(registry.record) == ["a", "c"]
    assert found(memory) == on_disk(Path(file.directory)) == before
    assert later == [registry.write]

    later.pop()()
    registry.write()

    assert found(memory) == on_disk(Path(file.directory)) == registry.record
    log = unpack(Path(file.path).read_bytes())
    assert log is not None
    assert len(log.changes) == 1
    registry.add(row("d"))
    assert later == [registry.write]


def test_a_whole_record_contains_what_was_not_written_yet(memory: Slots, file: Journal) -> None:
    registry = Registry(record(1, "a"), memory, file, Log("test"))
    registry.soon = lambda _write: None
    registry.add(row("b"))
    registry.begin_generation()
    registry.write()
    assert found(memory) == on_disk(Path(file.directory)) == registry.record
    assert registry.record.generation == 1
    assert names(registry.record) == ["a", "b"]


def test_the_rows_of_a_workload_are_found_by_its_name(memory: Slots, file: Journal) -> None:
    registry = Registry(record(1, "a", "b"), memory, file, Log("test"))
    part, over = OutgoingRow("a", 1000, 3), IncomingRow("a", 1000)
    registry.add(part)
    registry.add(over)
    registry.add(IncomingRow("a", 1000, 2))
    assert {row.name for row in registry.workload("a")} == {"a", "a#2", "a#3"}
    registry.remove(over)
    registry.remove(part)
    registry.remove(IncomingRow("a", 1000, 2))
    assert [row.direction for row in registry.workload("a")] == ["outgoing"]
    assert registry.workload("a#3") == registry.workload("c") == []


def test_a_change_costs_the_same_among_many(memory: Slots, file: Journal) -> None:
    registry = Registry(record(1, *(f"s{number}" for number in range(1000))), memory, file, Log("test"))
    registry.add(row("first"))
    before = end_of(file)
    registry.add(row("other"))
    assert end_of(file) - before < 200


def test_a_full_log_begins_anew(memory: Slots, file: Journal) -> None:
    registry = Registry(record(1), memory, file, Log("test"))
    for _ in range(5000):
        registry.add(row("n" * 60))
        registry.remove(row("n" * 60))
    registry.add(row("last"))
    assert names(found(memory)) == names(on_disk(Path(file.directory))) == ["last"]
    assert Path(file.path).stat().st_size <= SLOT_SIZE


def test_who_read_it_writes_on(memory: Slots, file: Journal) -> None:
    first = Registry(record(1, "a"), memory, file, Log("test"))
    first.add(row("b"))
    with closing(other(memory)) as again, closing(Journal(file.directory)) as its_file:
        second = begin_again(again, its_file)
        second.add(row("c"))
        second.remove(row("a"))
    assert names(found(memory)) == names(on_disk(Path(file.directory))) == ["b", "c"]


@given(at=st.integers(0, 2 * SLOT_SIZE - 1), garbage=st.binary(min_size=1, max_size=64))
def test_the_file_makes_good_what_is_damaged_in_the_memory(at: int, garbage: bytes) -> None:
    with TemporaryDirectory() as folder, closing(Journal(folder)) as file, closing(Slots.new()) as memory:
        registry = Registry(record(1, "a"), memory, file, Log("test", "error"))
        registry.set_image(None)
        registry.begin_generation()
        registry.add(row("b"))
        os.pwrite(memory.fileno(), garbage[: 2 * SLOT_SIZE - at], at)
        with closing(other(memory)) as again:
            second = begin_again(again, file)
            assert second.record == registry.record
            second.add(row("c"))
        assert names(found(memory)) == ["a", "b", "c"]


def test_a_write_that_was_cut_off_leaves_the_record_before(memory: Slots, file: Journal) -> None:
    registry = Registry(record(1, "a"), memory, file, Log("test"))
    registry.set_image(None)
    changes: list[Callable[[], None]] = [
        lambda: registry.add(row("b" * 60)),
        lambda: registry.set_image(Image(1, False, "")),
    ]
    for change in changes:
        before, whole = registry.record, os.pread(memory.fileno(), 2 * SLOT_SIZE, 0)
        change()
        after = os.pread(memory.fileno(), 2 * SLOT_SIZE, 0)
        changed = [number for number in range(len(whole)) if whole[number] != after[number]]
        for cut in changed:
            os.pwrite(memory.fileno(), after[:cut] + whole[cut:], 0)
            assert found(memory) == before
        os.pwrite(memory.fileno(), after, 0)
        assert found(memory) == registry.record


def test_what_an_older_log_left_behind_is_not_read_on(memory: Slots, file: Journal) -> None:
    registry = Registry(record(1, "a"), memory, file, Log("test"))
    for round in range(3):
        registry.set_image(None)
        for number in range(10 - 3 * round):
            registry.add(row(f"{round}.{number}"))
        assert found(memory) == registry.record


def test_the_fullest_registry_has_room(memory: Slots, file: Journal) -> None:
    """If it had not, no change would be possible any more."""
    uid, kinds = 2**32 - 2, tuple(KINDS)
    rows = tuple(
        IncomingRow(
            f"{number:063d}", uid, None, 2**63, 86400.123456, 86400.123456, kinds, IncomingState.CARRYING_OVER, 2**63
        )
        for number in range(MOST_SESSIONS)
    )  # fmt: skip
    update = Departure("f" * 8, 2**31, True, 99999.999999, 99999.999999)
    held = tuple(Held(uid, "n" * 63, (HeldFile(10**9 + n, "x" * LABEL_BYTES),)) for n in range(FILES))
    full = Record(FORMAT, 2**31, "x" * 36, rows, Image(2**31, True, "\\" * 2047), 2**31, update, update, held=held)
    registry = Registry(full, memory, file, Log("test"))
    for _ in range(2):
        registry.begin_generation()
        assert found(memory) == registry.record
    assert os.fstat(memory.fileno()).st_size == 2 * SLOT_SIZE


@pytest.mark.parametrize(
    "body",
    [
        b'{"format":7,"boot":1,"boot_id":"b","more":1}',
        b'{"format":7,"boot":1,"boot_id":"b","rows":{}}',
        *(
            b'{"format":7,"boot":1,"boot_id":"b","rows":[%s]}' % row
            for row in (
                b'["outgoing","a",0,null,0,0.0,0.0,[],"declared",false,1]',
                b'["incoming","a",0,null,0,0.0,0.0,[],"waiting",false]',
                b'["incoming","a",0,null,0,0.0,0.0,[],"waiting",1,1]',
                b'["outgoing","a",0,null,0,0.0,0.0,[],"declared",1]',
                b'[["outgoing"],"a",0,null,0,0.0,0.0,[],"declared",false]',
                b"[]",
                b'["outgoing","a",0,null,0,0.0,0.0,[],"waiting",false]',
                b'["outgoing","a",true,null,0,0.0,0.0,[],"declared",false]',
                b'["sideways","a",0,null,0,0.0,0.0,[],"declared",false]',
                b'["outgoing","a"]',
                b'"outgoing"',
            )
        ),
    ],
)
def test_a_record_of_other_members_or_types_has_no_meaning(body: bytes) -> None:
    assert FORMAT == 7
    with pytest.raises(entries.Meaningless):
        entries.read_whole(body)


@pytest.mark.parametrize("body", [b"{}", b"[1]", b'[["outgoing",1]]', b'[["sideways","a"]]', b"[[]]", b"[", b"\xff"])
def test_changes_of_other_types_have_no_meaning(body: bytes) -> None:
    with pytest.raises(entries.Meaningless):
        entries.read_changes(body)


def test_the_file_is_for_nobody_else(memory: Slots, file: Journal) -> None:
    registry = Registry(record(1), memory, file, Log("test"))
    registry.add(row("a"))
    asyncio.run(registry.sync())
    assert sorted(path.name for path in Path(file.directory).iterdir()) == ["registry", "registry.reserve"]
    assert {path.stat().st_mode & 0o777 for path in Path(file.directory).iterdir()} == {0o600}


def test_a_file_that_broke_off_tells_what_was_before(memory: Slots, file: Journal) -> None:
    registry = Registry(record(1, "a"), memory, file, Log("test"))
    registry.set_image(None)
    before = end_of(file)
    registry.add(row("b"))
    whole = Path(file.path).read_bytes()
    for end in range(before, end_of(file)):
        Path(file.path).write_bytes(whole[:end])
        assert names(on_disk(Path(file.directory))) == ["a"]


@pytest.mark.parametrize("contents", [b"", b"{}", b"luodreg1" + bytes(100), pack(1, b"{}", whole=True)])
def test_a_damaged_file_is_none(tmp_path: Path, contents: bytes) -> None:
    (tmp_path / "registry").write_bytes(contents)
    assert on_disk(tmp_path) is None


def test_a_file_that_cannot_be_written_keeps_nobody_from_a_session(
    tmp_path: Path, memory: Slots, capfd: pytest.CaptureFixture[str]
) -> None:
    registry = Registry(record(1), memory, Journal(str(tmp_path / "gone")), Log("test"))
    registry.add(row("a"))
    assert names(found(memory)) == ["a"]
    assert "registry-file" in capfd.readouterr().err
    with pytest.raises(OSError, match="gone"):
        asyncio.run(registry.sync())


def test_a_disk_that_is_full_for_a_while_costs_nothing_afterwards(memory: Slots, tmp_path: Path) -> None:
    """The file begins again, with the changes that could not be written."""
    folder = tmp_path / "state"
    folder.mkdir()
    registry = Registry(record(1), memory, Journal(str(folder)), Log("test", "error"))
    folder.rename(tmp_path / "away")
    registry.add(row("a"))
    (tmp_path / "away").rename(folder)
    registry.add(row("b"))
    assert names(on_disk(folder)) == ["a", "b"]
    registry.close()


DEPARTURE = Departure("some-update", 3, False, 1.5, 0.25)


@pytest.fixture
def registry(memory: Slots, file: Journal) -> Registry:
    rows = (
        OutgoingRow("vm", 1000, state=OutgoingState.DECLARED),
        OutgoingRow("vm", 1000, 3, state=OutgoingState.DECLARED),
        OutgoingRow("plain", 1000),
        IncomingRow("old", 1000, state=IncomingState.RESUMED),
    )
    return Registry(Record(FORMAT, 2, "some-boot", rows), memory, file, Log("test", "error"))


def depart(registry: Registry) -> None:
    """Departs as an update whose participants are all ready does."""
    rows = [row for row in registry.record.outgoing if row.declared]
    ready = {row.name: replace(row, state=OutgoingState.READY) for row in rows}
    registry.depart(DEPARTURE, ready)


def test_what_departs_is_marked_in_the_memory_that_jumps(registry: Registry, memory: Slots) -> None:
    depart(registry)
    assert found(memory) == registry.record
    ready = {row.name for row in registry.record.outgoing if row.state is OutgoingState.READY}
    assert ready == {"vm", "vm#3"}
    arrived = {row.name: arrived_row(row, DEPARTURE).state for row in registry.record.outgoing}
    assert arrived == dict.fromkeys(("vm", "vm#3", "plain"), IncomingState.WAITING)


def test_who_stays_takes_every_mark_back_and_forgets_what_was_frozen(registry: Registry) -> None:
    depart(registry)
    assert [row.name for row in registry.stay()] == ["vm#3"]
    assert registry.record.departure is None
    assert [row.name for row in registry.record.rows] == ["vm", "plain", "old"]
    assert [row.state for row in registry.record.outgoing] == [OutgoingState.DECLARED, OutgoingState.UNDECLARED]
    assert registry.stay() == ()
    assert registry.incoming("old") == IncomingRow("old", 1000, state=IncomingState.RESUMED)


def test_what_luod_forwarded_outlives_an_update_that_is_cancelled(registry: Registry) -> None:
    forwarded = OutgoingRow("old", 1000, 1, state=OutgoingState.CARRIED_OVER)
    registry.add(forwarded)
    assert {row.name for row in registry.stay()} == {"vm#3"}
    assert registry.outgoing("old#1") == forwarded


def test_what_luod_forwarded_is_not_torn_by_another_update() -> None:
    row = OutgoingRow("vm", 1000, 2, state=OutgoingState.CARRIED_OVER)
    assert arrived_row(row, DEPARTURE).state is IncomingState.WAITING


def test_without_the_mark_of_this_very_update_what_is_judged_is_torn() -> None:
    ready = OutgoingRow("vm", 1000, state=OutgoingState.READY)
    torn, waiting = IncomingState.TORN, IncomingState.WAITING
    assert arrived_row(ready, None).state is torn
    assert arrived_row(replace(ready, state=OutgoingState.DECLARED), DEPARTURE).state is torn
    assert arrived_row(replace(ready, generation=2), DEPARTURE).state is torn
    assert arrived_row(replace(ready, generation=3), DEPARTURE).state is waiting
    assert arrived_row(ready, DEPARTURE).state is waiting
    assert arrived_row(OutgoingRow("plain", 1000), None).state is waiting
