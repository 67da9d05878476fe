"""Which copy of the registry is believed, over any sequence of changes, deaths, disk faults and damage."""

from __future__ import annotations

import asyncio
import os
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luod.daemon.log import Log
from luod.daemon.store import registry as registry_module
from luod.daemon.store.copies import Told, believed, current, newer, of_this_machine, understand, understand_file
from luod.daemon.store.doubts import read_file
from luod.daemon.store.journal import SLOT_SIZE, Slots, pack, unpack
from luod.daemon.store.journal_file import Journal, room
from luod.daemon.store.registry import Registry
from luod.daemon.store.schema import FORMAT, OLDEST_FORMAT, Departure, OutgoingRow, Record, Row
from luod.frozen import replace
from luod.linux import Fd
from luod.testing.waiting import eventually_async

BOOT = "this-boot"
QUIET = Log("test", "error")


class Disk(Journal):
    """A journal on a disk whose writes can be made to fail. `failed`: how many did."""

    full = False
    failed = 0

    def append(self, entry: bytes) -> bool:
        if self.full:
            self.failed += 1
            self.close()
            raise OSError(28, "No space left on device")
        return super().append(entry)

    def _begin(self, entry: bytes) -> None:
        if self.full:
            self.failed += 1
            raise OSError(28, "No space left on device")
        super()._begin(entry)


class Life:
    """A registry over deaths of serve and the supervisor, with a model: its record, and the last one on the disk."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.instances, self.full = folder, 0, False
        self.memory = Slots.new()
        self.on_disk: Record | None = None
        self.begin(())

    def begin(self, rows: tuple[Row, ...]) -> None:
        """Begins another instance, as another supervisor does."""
        self.instances += 1
        self.memory.close()
        self.memory = Slots.new()
        record = Record(FORMAT, 1, BOOT, rows, instance=f"instance-{self.instances}")
        self.registry = Registry(record, self.memory, self.disk(), QUIET)
        self.registry.begin_generation()
        self.written()

    def disk(self) -> Disk:
        disk = Disk(str(self.folder))
        disk.full = self.full
        return disk

    def written(self) -> None:
        if not self.full:
            self.on_disk = self.registry.record

    def change(self, name: str) -> None:
        row = self.registry.row("outgoing", name)
        if row is None:
            self.registry.add(OutgoingRow(name, 1000))
        else:
            self.registry.remove(row)
        self.written()

    def begin_log(self) -> None:
        self.registry.begin_generation()
        self.written()

    def disk_fails(self) -> None:
        self.full = True
        assert isinstance(self.registry.file, Disk)
        self.registry.file.full = True

    def disk_works(self) -> None:
        self.full = False
        assert isinstance(self.registry.file, Disk)
        self.registry.file.full = False

    def serve_dies(self) -> None:
        before = self.registry.record
        self.registry.file.close()
        self.memory = Slots(Fd(os.dup(self.memory.fileno())))
        held, kept = understand(self.memory.read(), "memory"), understand_file(Journal(str(self.folder)).read(), "file")
        found = believed(held, kept, BOOT, before.instance)
        assert found is held
        assert found.record == before
        self.registry.close()
        self.registry = Registry(found.record, self.memory, self.disk(), QUIET, number=found.number)
        self.registry.write_file()
        self.written()

    def keep_dies(self) -> None:
        self.registry.file.close()
        kept = understand_file(Journal(str(self.folder)).read(), "file")
        assert kept.record == self.on_disk
        self.begin(() if kept.record is None else kept.record.rows)

    def close(self) -> None:
        self.registry.close()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("change"), st.sampled_from("abcdef")),
        st.tuples(st.sampled_from(("begin_log", "disk_fails", "disk_works", "serve_dies", "keep_dies"))),
    ),
    max_size=40,
)


@given(steps=STEPS)
def test_a_serve_finds_the_last_record_whatever_the_disk_did(steps: list[tuple[str, ...]]) -> None:
    with TemporaryDirectory() as folder, closing(Life(Path(folder))) as life:
        for step, *arguments in steps:
            getattr(life, step)(*arguments)
        life.serve_dies()


def written(folder: Path, record: Record, *, changes: int = 1) -> Told:
    """Returns the contents of a registry's file after `changes` changes."""
    with closing(Slots.new()) as memory:
        registry = Registry(record, memory, Journal(str(folder)), QUIET)
        for _ in range(changes):
            registry.begin_generation()
        registry.file.close()
    return understand_file(Journal(str(folder)).read(), "file")


def record(**fields: object) -> Record:
    return replace(Record(FORMAT, 1, BOOT, instance="one"), **fields)


def test_copies_with_the_same_entries_are_decoded_once(tmp_path: Path) -> None:
    with closing(Slots.new()) as memory, closing(Journal(str(tmp_path))) as file:
        registry = Registry(record(), memory, file, QUIET)
        registry.begin_generation()
        registry.add(OutgoingRow("a", 1))
        held = understand(memory.read(), "memory")
        assert understand_file(file.read(), "file", held).record is held.record
        registry.add(OutgoingRow("b", 1))
        kept = understand_file(file.read(), "file", held)
    assert kept.record == registry.record != held.record
    assert kept.number == held.number + 1


DAMAGED = understand(None, "memory")


def test_a_file_of_another_instance_is_never_newer(tmp_path: Path) -> None:
    kept = written(tmp_path, record(instance="before"), changes=9)
    held = Told(record(), 1)
    assert kept.number > held.number
    assert not newer(held, kept)
    assert believed(held, kept, BOOT, "one") is held


def test_a_file_of_another_boot_is_never_newer(tmp_path: Path) -> None:
    kept = written(tmp_path, record(boot_id="before"), changes=9)
    assert not newer(Told(record(), 1), kept)


def test_a_file_that_knows_more_of_the_same_registry_is_believed(tmp_path: Path) -> None:
    kept = written(tmp_path, record(), changes=2)
    assert believed(Told(record(), 1), kept, BOOT, "one") is kept


@pytest.mark.parametrize(
    ("fields", "stands_in"), [({}, True), ({"instance": "before"}, False), ({"boot_id": "before"}, False)]
)
def test_only_a_file_of_the_same_registry_stands_in_for_a_damaged_memory(
    tmp_path: Path, fields: dict[str, str], stands_in: bool
) -> None:
    kept = written(tmp_path, record(**fields))
    assert believed(DAMAGED, kept, BOOT, "one") is kept if stands_in else believed(DAMAGED, kept, BOOT, "one") == Told()


@pytest.mark.parametrize(
    ("number", "kind", "age"), [(OLDEST_FORMAT - 1, "format", "an older"), (FORMAT + 1, "newer-format", "a newer")]
)
def test_another_format_is_named(number: int, kind: str, age: str) -> None:
    content = pack(1, b'{"format":%d,"something":[]}' % number, whole=True)
    told = understand_file(content, "/state/registry")
    assert told.fault is not None
    assert told.fault.kind == kind
    assert f"has format {number}, which {age} luod wrote" in told.fault.what
    assert "/state/registry" in told.fault.what


def test_another_machine_is_named() -> None:
    told = Told(record(machine="a" * 32, boot_id="before"))
    other = of_this_machine(told, BOOT, "b" * 32)
    assert other.record is None
    assert other.fault is not None
    assert not other.fault.risk
    assert of_this_machine(told, BOOT, "a" * 32) is told
    assert of_this_machine(told, BOOT, "") is told
    assert of_this_machine(told, "before", "b" * 32) is told


def test_a_file_of_another_machine_that_was_jumping_is_a_risk() -> None:
    told = Told(record(machine="a" * 32, boot_id="before", departure=Departure("u", 1, False, 0.0, 0.0)))
    fault = of_this_machine(told, BOOT, "b" * 32).fault
    assert fault is not None
    assert fault.risk


@pytest.mark.parametrize("content", [b"", b"{}", bytes(4096), b"luodreg1" + bytes(100), pack(1, b"{}", whole=True)])
def test_damage_is_a_fault_and_no_exception(content: bytes) -> None:
    told = understand_file(content, "file")
    assert told.record is None
    assert told.fault is not None
    assert told.fault.kind == "damaged"


@given(content=st.binary(max_size=200))
def test_any_bytes_are_understood_or_a_fault(content: bytes) -> None:
    assert understand_file(content, "file").fault is not None
    whole = pack(1, content, whole=True)
    assert understand_file(whole, "file").fault is not None


def test_no_file_is_no_fault() -> None:
    assert understand_file(None, "file") == Told()


def test_a_file_that_cannot_be_read_says_why() -> None:
    fault = understand_file(OSError(5, "Input/output error"), "/state/registry").fault
    assert fault is not None
    assert fault.kind == "unreadable"
    assert "/state/registry cannot be read: Input/output error" in fault.what


def test_a_file_that_breaks_off_in_an_entry_may_be_behind(tmp_path: Path) -> None:
    with closing(Slots.new()) as memory:
        registry = Registry(record(), memory, Journal(str(tmp_path)), QUIET)
        registry.begin_generation()
        registry.add(OutgoingRow("a", 1))
        registry.file.close()
    assert not understand_file(Journal(str(tmp_path)).read(), "file").rest
    whole = (tmp_path / "registry").read_bytes()
    log = unpack(whole)
    assert log is not None
    (tmp_path / "registry").write_bytes(whole[: log.end - 1])
    assert understand_file(Journal(str(tmp_path)).read(), "file").rest


def test_a_file_is_kept_aside_and_not_written_to_again(tmp_path: Path) -> None:
    (tmp_path / "registry").write_bytes(b"what nobody understands")
    with closing(Slots.new()) as memory, closing(Journal(str(tmp_path))) as file:
        kept = Path(file.keep_aside("damaged"))
        registry = Registry(record(), memory, file, QUIET)
        for number in range(3):
            registry.begin_generation()
            registry.add(OutgoingRow(f"{number}", 1))
    assert kept.read_bytes() == b"what nobody understands"
    assert kept.name.startswith("registry.damaged-")
    assert understand_file(Journal(str(tmp_path)).read(), "file").record is not None


def test_a_second_file_kept_aside_does_not_replace_the_first(tmp_path: Path) -> None:
    kept = []
    for content in (b"one", b"two"):
        (tmp_path / "registry").unlink(missing_ok=True)
        (tmp_path / "registry").write_bytes(content)
        kept.append(Path(Journal(str(tmp_path)).keep_aside("format")))
    assert [path.read_bytes() for path in kept] == [b"one", b"two"]


def test_logs_take_turns_in_two_files_whose_blocks_are_there(tmp_path: Path) -> None:
    with closing(Slots.new()) as memory, closing(Journal(str(tmp_path))) as file:
        registry = Registry(record(), memory, file, QUIET)
        registry.begin_generation()
        first = {path.stat().st_ino for path in tmp_path.iterdir()}
        for number in range(5):
            registry.begin_generation()
            registry.add(OutgoingRow(f"{number}", 1))
            assert understand_file(Journal(str(tmp_path)).read(), "file").record == registry.record
            assert {path.stat().st_ino for path in tmp_path.iterdir()} == first
        assert all(path.stat().st_blocks * 512 >= room(0) for path in tmp_path.iterdir())


def test_a_log_that_could_not_begin_does_not_hide_later_changes(tmp_path: Path) -> None:
    with closing(Slots.new()) as memory, closing(Disk(str(tmp_path))) as file:
        registry = Registry(record(), memory, file, QUIET)
        registry.begin_generation()
        file.full = True
        registry.begin_generation()
        file.full = False
        registry.add(OutgoingRow("a", 1))
        assert registry.file_error == ""
        assert understand_file(Journal(str(tmp_path)).read(), "file").record == registry.record


def test_a_change_that_cannot_be_appended_begins_a_log_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> int:
        raise OSError(5, "Input/output error")

    with closing(Slots.new()) as memory, closing(Journal(str(tmp_path))) as file:
        registry = Registry(record(), memory, file, QUIET)
        registry.begin_generation()
        with monkeypatch.context() as patch:
            patch.setattr(file, "append", fails)
            registry.add(OutgoingRow("a", 1))
        assert registry.file_error == ""
        assert understand_file(Journal(str(tmp_path)).read(), "file").record == registry.record


def test_a_change_follows_a_directory_that_was_mounted_over(tmp_path: Path) -> None:
    with closing(Slots.new()) as memory, closing(Journal(str(tmp_path / "state"))) as file:
        (tmp_path / "state").mkdir()
        registry = Registry(record(), memory, file, QUIET)
        registry.begin_generation()
        (tmp_path / "state").rename(tmp_path / "below")
        (tmp_path / "state").mkdir()
        registry.add(OutgoingRow("a", 1))
        assert understand_file(Journal(str(tmp_path / "state")).read(), "file").record == registry.record


def test_a_file_that_could_not_be_written_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "_AGAIN_SECONDS", 0.01)

    async def body(registry: Registry, file: Disk) -> None:
        registry.soon = asyncio.get_running_loop().call_soon
        file.full = True
        registry.begin_generation()
        assert registry.file_error
        before = file.failed
        await eventually_async(lambda: file.failed > before, describe="it was tried again, and failed again")
        file.full = False
        await eventually_async(lambda: not registry.file_error, describe="the file is written")

    with closing(Slots.new()) as memory, closing(Disk(str(tmp_path))) as file:
        registry = Registry(record(), memory, file, QUIET)
        registry.begin_generation()
        asyncio.run(body(registry, file))
        assert understand_file(Journal(str(tmp_path)).read(), "file").record == registry.record


@pytest.mark.parametrize(("error", "tells"), [(23, False), (24, False), (12, False), (5, True)])
def test_a_lack_of_files_says_nothing_about_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, tells: bool
) -> None:
    def fails() -> bytes:
        raise OSError(error, os.strerror(error))

    file = Journal(str(tmp_path))
    monkeypatch.setattr(file, "read", fails)
    if tells:
        fault = read_file(file).fault
        assert fault is not None
        assert fault.kind == "unreadable"
    else:
        with pytest.raises(OSError, match=os.strerror(error)):
            read_file(file)


def test_a_log_that_grows_gets_a_larger_reserve(tmp_path: Path) -> None:
    with closing(Slots.new()) as memory, closing(Journal(str(tmp_path))) as file:
        registry = Registry(record(), memory, file, QUIET)
        for number in range(1000):
            registry.add(OutgoingRow(f"session-{number}", 1))
        assert understand_file(Journal(str(tmp_path)).read(), "file").record == registry.record
        assert (tmp_path / "registry.reserve").stat().st_size <= SLOT_SIZE


@pytest.mark.parametrize("left", ["linked", "renamed"])
def test_a_serve_killed_while_the_files_take_turns_is_followed_by_another(tmp_path: Path, left: str) -> None:
    written(tmp_path, record(), changes=3)
    if left == "linked":
        (tmp_path / "registry.old").hardlink_to(tmp_path / "registry")
    else:
        (tmp_path / "registry.reserve").rename(tmp_path / "registry.old")
    told = written(tmp_path, record(generation=5), changes=3)
    assert told.record is not None
    assert told.record.generation == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["registry", "registry.reserve"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_of_another_user_is_not_read(tmp_path: Path) -> None:
    written(tmp_path, record())
    os.chown(tmp_path / "registry", 1000, 1000)
    with pytest.raises(PermissionError, match="it belongs to uid 1000"):
        Journal(str(tmp_path)).read()


@pytest.mark.parametrize(
    "body", [b'{"format":%d,"machine":"\xff"}' % FORMAT, b'{"format":%d,"rows":' % FORMAT + b"[" * 100_000]
)
def test_an_entry_that_no_decoder_can_read_is_damage_and_no_crash(body: bytes) -> None:
    fault = understand(unpack(pack(1, body, whole=True)), "it").fault
    assert fault is not None
    assert fault.kind == "damaged"


def _memory(instance: str, number: int, boot: str = BOOT) -> Told:
    return Told(Record(FORMAT, 1, boot, instance=instance), number)


@pytest.mark.parametrize(
    ("memories", "kept", "used"),
    [
        # the file was written by the newest
        ({"old": _memory("old", 90), "new": _memory("new", 2)}, _memory("new", 2), "new"),
        ({"new": _memory("new", 2), "old": _memory("old", 90)}, _memory("new", 1), "new"),
        # one memory, which was begun again, under both of its names
        ({"old": _memory("new", 2), "new": _memory("new", 2)}, Told(), "new"),
        # damaged ones, and those of another boot, never
        ({"old": Told(), "new": _memory("new", 2)}, _memory("old", 90), "new"),
        ({"old": _memory("old", 90, "another"), "new": _memory("new", 2)}, Told(), "new"),
        # without a file that tells: the one with more
        ({"one": _memory("one", 3), "other": _memory("other", 4)}, Told(), "other"),
        ({"one": _memory("one", 3), "other": _memory("other", 4)}, _memory("third", 9), "other"),
    ],
)
def test_of_several_memories_the_newest_registry_is_used(memories: dict[str, Told], kept: Told, used: str) -> None:
    assert current(memories, kept, BOOT) == used
