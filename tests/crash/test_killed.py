"""luod and its clients are killed with SIGKILL at every call that changes state, one boot for each.

This is before the kexec and after it. Everything that a living process still needed exists afterwards, and a torn
session is never used as a whole one.

Each test takes every Nth call, up to the first boot without a call to kill at; together they cover all. Losses that are
inevitable, since only the killed process had the file, are named in `excused`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from luod.testing import Machine
from tests.crash.endurance import DISK, JUMP, SERVE, SUPERVISOR, VMM, Endurance, Killing, Lived, build_killer


@dataclass(frozen=True)
class Row:
    """`shares`: how many tests share the calls of `who`; each of them kills a process in `least` boots or more."""

    who: str
    victims: tuple[str, ...]
    shares: int
    excused: Callable[[Lived], bool] = lambda lived: False
    least: int = 1


def in_flight(lived: Lived) -> bool:
    """Returns whether the supervisor died with the kernel's answer: no other process had the session yet (H6)."""
    return ": sendmsg" in lived.killed and bool(lived.notes("retrieving"))


def was_retrieved(lived: Lived) -> bool:
    """Returns whether all holders of the session are dead."""
    return lived.before_death("retrieving")


def was_resumed(lived: Lived) -> bool:
    """Returns whether the guest may have run, so it must not be resumed again (H12)."""
    return lived.before_death("resuming")


ROWS = {
    "serve": Row(SERVE, (SERVE,), 12),
    "supervisor": Row(SUPERVISOR, (SUPERVISOR,), 5, in_flight),
    "supervisor and serve": Row(SUPERVISOR, (SUPERVISOR, SERVE), 5, in_flight),
    "the process that jumps": Row(JUMP, (JUMP,), 1),
    "supervisor and serve, in the jump": Row(JUMP, (SUPERVISOR, SERVE), 1),
    "the process that writes to the disk": Row(DISK, (DISK,), 2),
    "serve, while that writes": Row(DISK, (SERVE,), 2),
    "supervisor and serve, while that writes": Row(DISK, (SUPERVISOR, SERVE), 2),
    "VMM": Row(VMM, (VMM,), 6, was_resumed),
    "VMM and serve": Row(VMM, (VMM, SERVE), 6, was_resumed),
    "serve and VMM": Row(SERVE, (SERVE, VMM), 12, was_resumed),
    "all at once": Row(SERVE, (SERVE, SUPERVISOR, VMM), 12, was_retrieved),
}


@pytest.fixture(scope="session")
def killer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_killer(tmp_path_factory.mktemp("killer"))


@pytest.mark.parametrize(("case", "share"), [(case, share) for case in ROWS for share in range(ROWS[case].shares)])
def test_a_guest_lives_on(machine: Machine, tmp_path: Path, killer: str, case: str, share: int) -> None:
    row = ROWS[case]
    endurance = Endurance(machine, tmp_path, killer)
    before, call, killed = endurance.live(), 1 + share, 0
    while True:
        lived = endurance.live(Killing(row.who, call, row.victims))
        try:
            check(row, before, lived, f"{case}, killed at {lived.killed or 'no call'}")
        except AssertionError as error:
            error.add_note(endurance.errors())
            raise
        before = lived
        if not lived.killed:
            break
        killed += 1
        call += row.shares
    assert killed >= row.least
    # The registry was carried through all boots.
    assert endurance.boots() == machine.boot


def check(row: Row, before: Lived, lived: Lived, when: str) -> None:
    """Checks that the guest of the boot before continues, once at most, and no NAME#GENERATION outlived its update."""
    assert not lived.notes("outlived"), f"{when}: it outlived its update: {lived.notes('outlived')}"
    resumed = lived.notes("resumed")
    assert len(resumed) <= 1, f"{when}: it was resumed twice: {lived.diary}"
    if not resumed:
        assert row.excused(lived) or not before.took_part, f"{when}: it is lost: {lived.diary}"
        return
    (contents,) = resumed
    assert len(contents) == 2, f"{when}: it was resumed from a half: {lived.diary}"
    assert contents[0] == contents[1], f"{when}: it was resumed from a mix: {lived.diary}"
    assert contents[0]["id"] == before.guest, f"{when}: another guest was resumed: {before.diary}, {lived.diary}"
