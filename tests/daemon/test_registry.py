"""The registry's two copies: whole at any moment, and refused when they are not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luod.daemon.held import FILES, LABEL_BYTES
from luod.daemon.log import Log
from luod.daemon.registry import (
    FORMAT,
    MOST_SESSIONS,
    Departure,
    Held,
    HeldFile,
    Image,
    Record,
    Registry,
    RegistryDamaged,
    RegistryFile,
    RegistryMemory,
    Row,
)
from luod.daemon.remains import arrived as arrived_row
from luod.linux import Fd


def record(boot: int, *names: str) -> Record:
    return Record(FORMAT, boot, "some-boot", tuple(Row("outgoing", name, 1000) for name in names))


@pytest.fixture
def memory() -> Iterator[RegistryMemory]:
    memory = RegistryMemory.new()
    yield memory
    memory.close()


def other(memory: RegistryMemory) -> RegistryMemory:
    """The same memory, as the next process or kernel finds it."""
    return RegistryMemory(Fd(os.dup(memory.fileno())))


def test_the_newest_record_is_read(memory: RegistryMemory) -> None:
    for boot in range(1, 6):
        memory.write(record(boot, "a" * boot))
        found = other(memory)
        assert found.read() == record(boot, "a" * boot)
        found.close()


def test_who_read_it_writes_on_behind_the_newest(memory: RegistryMemory) -> None:
    memory.write(record(1))
    memory.write(record(2))
    second = other(memory)
    second.read()
    second.write(record(3))
    assert memory.read() == record(3)
    second.close()


@given(at=st.integers(0, 2**20 - 1), garbage=st.binary(min_size=1, max_size=64))
def test_damage_costs_at_most_the_newest_record(at: int, garbage: bytes) -> None:
    memory = RegistryMemory.new()
    memory.write(record(1, "a"))
    memory.write(record(2, "a", "b"))
    os.pwrite(memory.fileno(), garbage[: 2**20 - at], at)
    assert memory.read() in (record(1, "a"), record(2, "a", "b"))
    memory.close()


def test_a_write_that_was_cut_off_leaves_the_record_before(memory: RegistryMemory) -> None:
    memory.write(record(1, "a"))
    whole = os.pread(memory.fileno(), 2**20, 0)
    memory.write(record(2, "b" * 60))
    after = os.pread(memory.fileno(), 2**20, 0)
    changed = [number for number in range(len(whole)) if whole[number] != after[number]]
    for cut in changed:
        os.pwrite(memory.fileno(), after[:cut] + whole[cut:], 0)
        assert memory.read() == record(1, "a")
    os.pwrite(memory.fileno(), after, 0)
    assert memory.read() == record(2, "b" * 60)


def test_nothing_whole_is_an_error(memory: RegistryMemory) -> None:
    with pytest.raises(RegistryDamaged):
        memory.read()


def test_the_most_sessions_fit(memory: RegistryMemory) -> None:
    row = Row("incoming", "", 2**32 - 2, True, True, 2**31, True, True, 2**63, 99999.999999, 99999.999999)
    rows = tuple(msgspec.structs.replace(row, name=f"{number:063}") for number in range(MOST_SESSIONS))
    update = Departure("f" * 8, 2**31, True, 99999.999999, 99999.999999)
    full = Record(FORMAT, 2**31, "x" * 36, rows, Image(2**31, True, "y" * 2048), 2**31, update, update)
    memory.write(full)
    memory.write(full)
    assert memory.read() == full
    assert os.fstat(memory.fileno()).st_size == 2**20


def test_unknown_fields_are_not_taken() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"direction":"outgoing","name":"a","owner":0,"more":1}', type=Row)


def test_the_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    file = RegistryFile(tmp_path)
    assert file.read() is None
    file.write(record(1, "a"), durable=False)
    file.write(record(2, "b"), durable=True)
    assert file.read() == record(2, "b")
    assert [path.name for path in tmp_path.iterdir()] == ["registry"]
    assert (tmp_path / "registry").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("contents", [b"", b"{}", b"luodreg1" + bytes(100)])
def test_a_damaged_file_is_none(tmp_path: Path, contents: bytes) -> None:
    (tmp_path / "registry").write_bytes(contents)
    assert RegistryFile(tmp_path).read() is None


def test_a_file_that_cannot_be_written_keeps_nobody_from_a_session(
    tmp_path: Path, memory: RegistryMemory, capfd: pytest.CaptureFixture[str]
) -> None:
    registry = Registry(record(1), memory, RegistryFile(tmp_path / "gone"), Log("test"))
    registry.add(Row("outgoing", "a", 1000))
    assert memory.read() == record(1, "a")
    assert "registry-file" in capfd.readouterr().err
    with pytest.raises(OSError, match="gone"):
        registry.sync()


DEPARTURE = Departure("some-update", 3, False, 1.5, 0.25)


@pytest.fixture
def registry(tmp_path: Path, memory: RegistryMemory) -> Registry:
    rows = (
        Row("outgoing", "vm", 1000, judged=True),
        Row("outgoing", "vm#3", 1000, judged=True, generation=3),
        Row("outgoing", "plain", 1000),
        Row("incoming", "old", 1000, resumed=True),
    )
    return Registry(Record(FORMAT, 2, "some-boot", rows), memory, RegistryFile(tmp_path), Log("test", "error"))


def marked(row: Row) -> Row:
    return msgspec.structs.replace(row, ready=row.judged)


def test_what_departs_is_marked_in_the_memory_that_jumps(registry: Registry, memory: RegistryMemory) -> None:
    registry.depart(DEPARTURE, marked)
    assert memory.read() == registry.record
    assert {row.name for row in registry.record.rows if row.ready} == {"vm", "vm#3"}
    arrived = {row.name: arrived_row(row, DEPARTURE) for row in registry.record.rows if row.direction == "outgoing"}
    assert {name: row.torn for name, row in arrived.items()} == {"vm": False, "vm#3": False, "plain": False}
    assert {(row.direction, row.ready, row.judged) for row in arrived.values()} == {("incoming", False, False)}


def test_who_stays_takes_every_mark_back_and_forgets_what_was_frozen(registry: Registry) -> None:
    registry.depart(DEPARTURE, marked)
    assert [row.name for row in registry.stay()] == ["vm#3"]
    assert registry.record.departure is None
    assert [row.name for row in registry.record.rows] == ["vm", "plain", "old"]
    assert not any(row.ready for row in registry.record.rows)
    assert registry.stay() == ()
    assert registry.row("incoming", "old") == Row("incoming", "old", 1000, resumed=True)


def test_without_the_mark_of_this_very_update_what_is_judged_is_torn() -> None:
    ready = Row("outgoing", "vm", 1000, judged=True, ready=True)
    assert arrived_row(ready, None).torn
    assert arrived_row(msgspec.structs.replace(ready, ready=False), DEPARTURE).torn
    assert arrived_row(msgspec.structs.replace(ready, generation=2), DEPARTURE).torn
    assert not arrived_row(msgspec.structs.replace(ready, generation=3), DEPARTURE).torn
    assert not arrived_row(Row("outgoing", "plain", 1000), None).torn


def test_the_fullest_registry_has_room(memory: RegistryMemory) -> None:
    """Where it had not, nobody could change anything any more."""
    uid = 2**32 - 2
    rows = tuple(
        Row("incoming", f"{number:063d}", uid, torn=True, reaped=True, retrieved=True, bytes=2**63, generation=10**9,
            preparing_seconds=86400.123456, freezing_seconds=86400.123456)
        for number in range(MOST_SESSIONS)
    )  # fmt: skip
    held = tuple(Held(uid, "n" * 63, (HeldFile(10**9 + n, "x" * LABEL_BYTES),)) for n in range(FILES))
    image = Image(10**9, True, "\\" * 2047)
    full = Record(FORMAT, 10**9, "b" * 36, rows, image, generation=10**9, held=held)
    memory.write(full)
    assert memory.read() == full
