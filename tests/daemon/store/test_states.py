"""The states of a session: docs/design.md has the transitions of the code, and the registry refuses every other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from luod.daemon.log import Log
from luod.daemon.store.journal import Slots
from luod.daemon.store.journal_file import Journal
from luod.daemon.store.registry import Registry
from luod.daemon.store.remains import remaining
from luod.daemon.store.schema import FORMAT, IncomingRow, OutgoingRow, Record, Row
from luod.daemon.store.states import TRANSITIONS, ImpossibleTransition, IncomingState, OutgoingState, State, require
from luod.frozen import replace

DESIGN = (Path(__file__).parents[3] / "docs/design.md").read_text(encoding="utf-8")
STATES: tuple[State, ...] = (*OutgoingState, *IncomingState)


def row(state: State, base: str = "vm") -> Row:
    if isinstance(state, OutgoingState):
        return OutgoingRow(base, 1000, state=state)
    return IncomingRow(base, 1000, state=state)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry = Registry(Record(FORMAT, 1, "boot"), Slots.new(), Journal(str(tmp_path)), Log("test", "debug"))
    yield registry
    registry.close()


def test_the_document_has_the_transitions_of_the_code() -> None:
    (table,) = re.findall(r"\| state of a session \|[^\n]*\n\|[-|]*\n((?:\|[^\n]*\n)+)", DESIGN)
    told = {}
    for line in table.splitlines():
        state, becomes = line.split("|")[1:3]
        told[state.strip(" `")] = set(re.findall(r"`([a-z_]+)`", becomes))
    assert told == {str(state): {str(each) for each in becomes} for state, becomes in TRANSITIONS.items()}


def test_every_state_has_its_transitions() -> None:
    assert set(TRANSITIONS) == set(STATES)


@pytest.mark.parametrize(("was", "becomes"), list(product(STATES, STATES)))
def test_the_registry_makes_possible_transitions_only(
    registry: Registry, capfd: pytest.CaptureFixture[str], was: State, becomes: State
) -> None:
    registry.add(row(was))
    before = registry.record
    if becomes == was or becomes in TRANSITIONS[was]:
        registry.replace(row(was), row(becomes))
        assert [each.state for each in registry.record.rows] == [becomes]
        assert (f"was={was} state={becomes}" in capfd.readouterr().err) == (becomes != was)
    else:
        with pytest.raises(ImpossibleTransition):
            registry.replace(row(was), row(becomes))
        assert registry.record == before


def test_what_is_not_handed_out_any_more_never_is_again() -> None:
    def reached(state: State) -> set[State]:
        found = {state}
        while more := {each for known in found for each in TRANSITIONS[known]} - found:
            found |= more
        return found

    for state in (IncomingState.RESUMED, IncomingState.TORN, IncomingState.DISCARDING):
        assert not reached(state) & {IncomingState.WAITING, IncomingState.TAKEN, IncomingState.RETRIEVED}


def test_a_part_that_is_lost_tears_the_rest_of_its_workload_only(registry: Registry) -> None:
    states = {str(number): state for number, state in enumerate(IncomingState)}
    for number, state in enumerate(IncomingState):
        registry.add(IncomingRow("vm", 1000, number, state=state))
    registry.add(row(IncomingState.WAITING, "other"))
    registry.add(lost := row(IncomingState.RETRIEVED))
    registry.lose(lost)
    torn = {IncomingState.WAITING, IncomingState.TAKEN, IncomingState.RETRIEVED}
    for name, state in states.items():
        now = registry.incoming(f"vm#{name}")
        assert now is not None
        assert now.state is (IncomingState.TORN if state in torn else state)
    assert registry.incoming("vm") is None
    assert registry.incoming("other") == row(IncomingState.WAITING, "other")


def test_what_was_carried_over_is_whole_until_another_session_is_in_its_place(registry: Registry) -> None:
    incoming = IncomingRow("vm", 1000, 3, 4096, 0.5, 0.25, ("memfd",), IncomingState.CARRYING_OVER)
    registry.add(incoming)
    registry.carried_over(incoming)
    carried = OutgoingRow("vm", 1000, 3, 4096, 0.5, 0.25, ("memfd",), OutgoingState.CARRIED_OVER)
    assert registry.record.rows == (carried,)
    assert not carried.ends_with_update
    registry.replaced(carried)
    assert [each.state for each in registry.record.rows] == [OutgoingState.UNDECLARED]


@pytest.mark.parametrize("state", STATES)
def test_what_remains_when_keep_ended_is_reached_by_a_transition(state: State) -> None:
    require(state, remaining(row(state)).state)
    assert remaining(row(state)).state not in (OutgoingState.READY, IncomingState.CARRYING_OVER)


def test_a_session_that_became_another_meanwhile_is_not_taken_for_what_it_was(registry: Registry) -> None:
    before = IncomingRow("vm", 1000)
    registry.add(replace(before, state=IncomingState.RESUMED))
    with pytest.raises(ImpossibleTransition):
        registry.become(before, IncomingState.RETRIEVED)
