"""serve writes nothing to the state directory while guests are restored, for a limited time. No machine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from luod.daemon.log import Log
from luod.daemon.run_state import Run, RunState
from luod.daemon.store.doubts import read_file
from luod.daemon.store.journal import Slots
from luod.daemon.store.journal_file import Journal
from luod.daemon.store.registry import Registry
from luod.daemon.store.schema import IncomingRow, begun_record
from luod.daemon.store.states import IncomingState
from luod.daemon.store.write_hold import WriteHold
from luod.daemon.updates import waiting_guests
from luod.daemon.updates.waiting_guests import WaitingGuests

QUIET = Log("test", "error")
ONE, TWO = IncomingRow("one", 0), IncomingRow("two", 0)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """Yields a registry with two sessions that guests wait for, during the hold."""
    for name in ("run", "state"):
        (tmp_path / name).mkdir()
    hold = WriteHold(str(tmp_path / "run"))
    hold.begin(restoring=True)
    file = Journal(str(tmp_path / "state"), hold)
    with closing(Registry(begun_record(1, (ONE, TWO)), Slots.new(), file, QUIET)) as registry:
        yield registry


def at_once(monkeypatch: pytest.MonkeyPatch, *, answered: float = 0.0, quiet: float = 60.0) -> None:
    monkeypatch.setattr(waiting_guests, "_ANSWERED_SECONDS", answered)
    monkeypatch.setattr(waiting_guests, "_QUIET_SECONDS", quiet)


def watched(registry: Registry, body: Callable[[Run], None]) -> None:
    async def run() -> None:
        state = Run(QUIET)
        with closing(WaitingGuests(registry, state)):
            body(state)

    asyncio.run(run())


def test_the_hold_ends_with_the_last_incoming_session(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A VMM whose guest has resumed still has to finish its session."""
    at_once(monkeypatch)

    def body(_run: Run) -> None:
        for row in (ONE, TWO):
            registry.become(registry.become(row, IncomingState.RETRIEVED), IncomingState.RESUMED)
        for row in (ONE, TWO):
            assert registry.file.hold.restoring
            registry.remove(row)
        assert not registry.file.hold.holds

    watched(registry, body)


def test_the_last_answer_leaves_before_serve_writes(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once(monkeypatch, answered=60.0)

    def body(_run: Run) -> None:
        for row in (ONE, TWO):
            registry.lose(row)
        assert registry.file.hold.restoring

    watched(registry, body)


def test_sessions_that_are_never_claimed_do_not_hold_for_ever(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch, quiet=0.0)
    watched(registry, lambda _run: None)
    assert not registry.file.hold.holds


def test_a_later_claim_begins_the_hold_again(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once(monkeypatch)

    def body(_run: Run) -> None:
        registry.file.hold.end()
        registry.become(ONE, IncomingState.RETRIEVED)
        assert registry.file.hold.restoring

    watched(registry, body)


def test_an_update_ends_the_hold_and_none_begins_meanwhile(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once(monkeypatch)

    async def run() -> None:
        state = Run(QUIET)
        for step in (RunState.CHECKING, RunState.STARTING):
            state.enter(step)
        with closing(WaitingGuests(registry, state)) as guests:
            guests.stop()
            registry.become(ONE, IncomingState.RETRIEVED)
        assert not registry.file.hold.holds

    asyncio.run(run())


def test_a_hold_of_an_update_is_left_alone(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once(monkeypatch)

    def body(_run: Run) -> None:
        registry.file.hold.begin("a disk hangs")
        for row in (ONE, TWO):
            registry.lose(row)
        assert registry.file.hold.why == "a disk hangs"

    watched(registry, body)


def test_during_the_hold_the_runtime_directory_has_every_change(registry: Registry, tmp_path: Path) -> None:
    """A luod that was killed altogether has nothing else (H12)."""
    registry.become(registry.become(ONE, IncomingState.RETRIEVED), IncomingState.RESUMED)

    assert not (tmp_path / "state" / "registry").exists()
    told = read_file(Journal(str(tmp_path / "state"), WriteHold(str(tmp_path / "run"))))
    assert told.record == registry.record

    registry.file.hold.end()

    assert list((tmp_path / "run").iterdir()) == []
    told = read_file(Journal(str(tmp_path / "state"), WriteHold(str(tmp_path / "run"))))
    assert told.record == registry.record


def test_a_damaged_file_in_the_runtime_directory_makes_that_on_the_disk_doubtful(
    registry: Registry, tmp_path: Path
) -> None:
    registry.file.hold.end()
    registry.write_file()
    (tmp_path / "run" / "registry").write_bytes(b"damaged")

    told = read_file(Journal(str(tmp_path / "state"), WriteHold(str(tmp_path / "run"))))

    assert told.record == registry.record
    assert told.rest
