"""A session NAME#GENERATION exists only while its update does, however that ends and however late it is created."""

from __future__ import annotations

from tests.daemon.host import Luod, states
from tests.daemon.participant import Operator, Participant, begin, jump_with, prepare, start
from tests.daemon.updates.test_transaction_crash import broken_off, follow_again

ORDINARY = {"outgoing one": "held", "outgoing two": "held"}


def refused(one: Participant, *generations: int) -> None:
    for generation in generations:
        name = f"one#{generation}"
        error = one.vmm.refused("create", name=name, slot="late")
        assert error.kind == "WrongPhase", error
        assert name in error.message
    assert not any("#" in name for name in states(one.vmm))


def test_a_create_that_comes_after_a_cancelled_update_is_refused_and_a_later_update_goes_through(luod: Luod) -> None:
    one, two = Participant(luod, "one"), Participant(luod, "two")
    operator = begin(luod)
    for generation, end in enumerate(("veto", "abort"), 1):
        prepare(one, two)
        one.expect("freezing")
        two.expect("freezing")
        if end == "veto":
            two.vote("freezing", "veto", "not now")
        else:
            operator.abort()
        one.expect("cancelled")
        two.expect("cancelled")
        operator.until("cancelled")
        refused(one, generation)
        assert states(one.vmm) == ORDINARY
        operator.update()
    one.expect("preparing")
    # Nothing is frozen yet: a late Create for an earlier update is not taken for this one's either.
    refused(one, 1, 2, 3)
    one.vote("preparing")
    prepare(two)
    one.expect("freezing")
    one.freeze(3)
    two.expect("freezing")
    jump_with(luod, one, two)
    waiting = {"incoming one": "waiting", "incoming one#3": "waiting", "incoming two": "waiting"}
    assert states(start(luod)) == waiting


def test_a_create_that_comes_to_the_serve_after_the_killed_one_is_refused(luod: Luod) -> None:
    one = Participant(luod, "one")
    begin(luod)
    prepare(one)
    one.expect("freezing")
    luod.kill_serve()
    broken_off(one)
    refused(one, 1, 2)
    assert follow_again(one) == "idle"
    one.declare()
    refused(one, 1, 2)
    operator = Operator(luod)
    operator.update()
    prepare(one)
    one.expect("freezing")
    one.freeze(2)
    jump_with(luod, one)
    assert states(start(luod)) == {"incoming one": "waiting", "incoming one#2": "waiting"}
