"""The state machine of an update, alone: every way through it, driven at random and compared with what must hold."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from luod.daemon.updates.transaction import BYTES_A_SECOND, NotAwaited, Transaction
from luod.ipc.types.phases import VotePhase


def begin(count: int, *, skip_unready: bool = False, patience: float = 10.0) -> Transaction:
    names = [(number, f"vm-{number}") for number in range(count)]
    return Transaction.begin(names, patience=patience, skip_unready=skip_unready, now=0.0)


def all_ready(transaction: Transaction, phase: VotePhase) -> Transaction:
    for member in transaction.awaited:
        transaction = transaction.ready(member.id, phase, 1.0)
    return transaction


def test_everybody_ready_twice_and_it_may_jump() -> None:
    update = begin(2)
    with pytest.raises(NotAwaited):
        update.freeze(1.0)
    update = all_ready(update, "preparing").freeze(1.0)
    assert [member.standing for member in update.members.values()] == ["awaited", "awaited"]
    with pytest.raises(NotAwaited):
        update.jump(2.0)
    update = all_ready(update, "freezing").jump(2.0)
    assert update.phase == "jumping"


def test_nobody_is_everybody() -> None:
    assert begin(0).freeze(0.0).jump(0.0).phase == "jumping"


def test_for_whom_memory_is_short_cancels_and_with_force_is_left_behind() -> None:
    assert begin(2).short(1, "no room", 1.0).reason == "no room"
    update = begin(2, skip_unready=True).short(1, "no room", 1.0)
    assert (update.phase, update.members[1].standing, update.members[1].reason) == ("preparing", "lost", "no room")


def test_one_veto_cancels_and_says_whose_and_why() -> None:
    update = begin(2, skip_unready=True).veto(1, "preparing", "disk full", 1.0)
    assert (update.phase, update.reason) == ("cancelled", "vm-1 vetoes: disk full")
    assert update.members[1].standing == "vetoed"


def test_a_veto_in_freezing_is_heard_after_ready() -> None:
    update = all_ready(all_ready(begin(2), "preparing").freeze(1.0), "freezing")
    assert update.veto(0, "freezing", "a device would not stop", 2.0).phase == "cancelled"


def test_a_vote_for_another_phase_is_not_awaited() -> None:
    with pytest.raises(NotAwaited, match="preparing"):
        begin(1).ready(0, "freezing", 1.0)
    with pytest.raises(NotAwaited, match="voted"):
        all_ready(begin(1), "preparing").ready(0, "preparing", 2.0)
    with pytest.raises(NotAwaited, match="no part"):
        begin(1).ready(7, "preparing", 1.0)


def test_silence_past_the_deadline_is_a_veto() -> None:
    update = begin(2).ready(0, "preparing", 1.0)
    assert update.tick(9.999) == update
    late = update.tick(10.0)
    assert late.phase == "cancelled"
    assert late.reason == "no vote in preparing in time from vm-1"


def test_with_force_the_late_and_the_dead_are_lost_and_the_rest_goes_on() -> None:
    update = begin(3, skip_unready=True).gone(2, 1.0).ready(0, "preparing", 1.0).tick(10.0)
    assert {id: member.standing for id, member in update.members.items()} == {0: "ready", 1: "lost", 2: "lost"}
    update = update.freeze(11.0)
    with pytest.raises(NotAwaited, match="without it"):
        update.ready(1, "freezing", 12.0)
    with pytest.raises(NotAwaited, match="without it"):
        update.veto(1, "freezing", "wait for me", 12.0)
    assert update.ready(0, "freezing", 12.0).jump(13.0).members[1].reason == "it did not vote in time"


def test_a_death_cancels_until_it_jumps() -> None:
    update = all_ready(begin(1), "preparing")
    assert update.gone(0, 2.0).reason == "vm-0 is gone"
    jumping = all_ready(update.freeze(2.0), "freezing").jump(3.0)
    assert jumping.gone(0, 4.0) == jumping


def test_the_deadline_grows_with_the_bytes_of_all() -> None:
    update = begin(2)
    assert update.deadline == 10.0
    update = update.declared(0, preparing_bytes=5 * BYTES_A_SECOND, freezing_bytes=2 * BYTES_A_SECOND)
    update = update.declared(1, preparing_bytes=BYTES_A_SECOND, freezing_bytes=0)
    assert update.deadline == 16.0
    for _ in range(2):
        update = update.grant(1.0)
        assert update.granted is not None
        update = update.ready(update.granted.id, "preparing", 2.0)
    assert update.freeze(100.0).deadline == 112.0


def test_the_deadline_does_not_grow_beyond_what_the_machine_has() -> None:
    update = Transaction.begin([(0, "vm")], patience=10.0, skip_unready=False, now=0.0, most_bytes=3 * BYTES_A_SECOND)
    assert update.declared(0, preparing_bytes=2**62, freezing_bytes=2**62).deadline == 13.0


def test_a_observer_cancels_nothing() -> None:
    def begun() -> Transaction:
        return Transaction.begin([(0, "vm"), (1, "idle")], patience=10.0, skip_unready=False, now=0.0, observers=[1])

    with pytest.raises(NotAwaited, match="no session"):
        begun().veto(1, "preparing", "not today", 1.0)
    for update in (begun().gone(1, 1.0), begun().ready(1, "preparing", 1.0)):
        frozen = update.ready(0, "preparing", 1.0).freeze(2.0)
        assert [member.id for member in frozen.awaited] == [0]
        assert frozen.members[1].standing == "lost"
    late = begun().ready(0, "preparing", 1.0).tick(10.0)
    assert (late.phase, late.settled) == ("preparing", True)
    assert begun().tick(10.0).reason == "no vote in preparing in time from vm"
    # Who declares is heard.
    declared = begun().declared(1, preparing_bytes=0, freezing_bytes=0)
    assert declared.veto(1, "preparing", "not today", 1.0).phase == "cancelled"


def test_one_grant_at_a_time_in_the_order_of_asking() -> None:
    update = begin(3)
    for id in (2, 0, 1):
        update = update.declared(id, preparing_bytes=1, freezing_bytes=0)
    order = []
    while update.turn() is not None:
        update = update.grant(1.0)
        assert update.turn() is None
        assert update.granted is not None
        order.append(update.granted.id)
        update = update.ready(order[-1], "preparing", 1.0)
    assert order == [2, 0, 1]


def test_no_ready_before_the_grant_and_no_new_declaration_with_it() -> None:
    update = begin(1).declared(0, preparing_bytes=1, freezing_bytes=0)
    with pytest.raises(NotAwaited, match="no grant"):
        update.ready(0, "preparing", 1.0)
    with pytest.raises(NotAwaited, match="being preserved"):
        update.grant(1.0).declared(0, preparing_bytes=2, freezing_bytes=0)
    assert update.declared(0, preparing_bytes=0, freezing_bytes=0).ready(0, "preparing", 1.0).settled


def test_the_grant_of_one_who_is_lost_goes_on_to_the_next() -> None:
    update = begin(2, skip_unready=True)
    for id in (0, 1):
        update = update.declared(id, preparing_bytes=1, freezing_bytes=0)
    update = update.grant(1.0).gone(0, 2.0)
    turn = update.turn()
    assert turn is not None
    assert turn.id == 1


def test_no_abort_from_the_jump_on_but_the_way_back_if_reboot_returns() -> None:
    jumping = begin(0).freeze(0.0).jump(0.0)
    with pytest.raises(NotAwaited, match="cannot be vetoed any more"):
        jumping.cancel("abort")
    cancelled = jumping.returned("EBUSY")
    assert (cancelled.phase, cancelled.reason) == ("cancelled", "EBUSY")
    assert cancelled.cancel("again") == cancelled
    with pytest.raises(NotAwaited):
        begin(0).returned("early")


class Anything(RuleBasedStateMachine):
    """Any calls in any order. The invariants hold for misbehaving callers, too."""

    members = Bundle("members")
    ORDER = ("preparing", "freezing", "jumping", "cancelled")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.update = begin(0)
        self.ready_in: dict[str, set[int]] = {"preparing": set(), "freezing": set()}
        self.spoke_against = False

    @initialize(target=members, count=st.integers(0, 4), skip_unready=st.booleans())
    def begin(self, count: int, skip_unready: bool) -> object:
        self.update = begin(count, skip_unready=skip_unready)
        return multiple(*range(count))

    def go(self, changed: Transaction) -> None:
        before, self.update = self.update, changed
        assert self.ORDER.index(changed.phase) >= self.ORDER.index(before.phase)
        if before.phase == "cancelled":
            assert changed == before
        for id, member in before.members.items():
            if member.standing == "lost":
                assert changed.members[id].standing == "lost"

    @rule(member=members, phase=st.sampled_from(["preparing", "freezing"]))
    def ready(self, member: int, phase: VotePhase) -> None:
        try:
            changed = self.update.ready(member, phase, self.now)
        except NotAwaited:
            return
        self.ready_in[phase].add(member)
        self.go(changed)

    @rule(member=members, phase=st.sampled_from(["preparing", "freezing"]))
    def veto(self, member: int, phase: VotePhase) -> None:
        try:
            changed = self.update.veto(member, phase, "no", self.now)
        except NotAwaited:
            return
        assert changed.phase == "cancelled"
        self.go(changed)

    @rule(member=members, now=st.integers(0, 2 * BYTES_A_SECOND), later=st.integers(0, BYTES_A_SECOND))
    def declare(self, member: int, now: int, later: int) -> None:
        try:
            changed = self.update.declared(member, preparing_bytes=now, freezing_bytes=later)
        except NotAwaited:
            return
        self.go(changed)

    @rule()
    def grant(self) -> None:
        if self.update.turn() is not None:
            self.go(self.update.grant(self.now))

    @rule(member=consumes(members))
    def gone(self, member: int) -> None:
        self.go(self.update.gone(member, self.now))

    @rule(seconds=st.floats(0, 8))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        late = self.now >= self.update.deadline
        self.go(self.update.tick(self.now))
        if late:
            assert self.update.settled

    @rule(target=members)
    def join(self) -> object:
        member = len(self.update.members)
        try:
            changed = self.update.join(member, f"vm-{member}", self.now)
        except NotAwaited:
            assert self.update.phase != "preparing"
            return multiple()
        self.go(changed)
        return member

    @rule()
    def freeze(self) -> None:
        try:
            changed = self.update.freeze(self.now)
        except NotAwaited:
            return
        self.go(changed)

    @rule()
    def jump(self) -> None:
        try:
            changed = self.update.jump(self.now)
        except NotAwaited:
            return
        self.go(changed)

    @rule()
    def abort(self) -> None:
        try:
            changed = self.update.cancel("abort")
        except NotAwaited:
            assert self.update.phase == "jumping"
            return
        self.go(changed)

    @rule()
    def returned(self) -> None:
        if self.update.phase == "jumping":
            self.go(self.update.returned("EBUSY"))

    @invariant()
    def it_jumps_only_with_everybody_ready_or_knowingly_lost(self) -> None:
        if self.update.phase != "jumping":
            return
        for id, member in self.update.members.items():
            assert member.standing in ("ready", "lost")
            assert member.standing == "lost" or (id in self.ready_in["preparing"] and id in self.ready_in["freezing"])
            assert member.standing == "ready" or self.update.skip_unready

    @invariant()
    def one_grant_at_most_and_only_while_preparing(self) -> None:
        granted = [member for member in self.update.members.values() if member.standing == "granted"]
        assert len(granted) <= 1
        assert not granted or self.update.phase in ("preparing", "cancelled")

    @invariant()
    def a_reason_when_cancelled_and_only_then(self) -> None:
        assert (self.update.reason is not None) == (self.update.phase == "cancelled")


TestAnything = Anything.TestCase
