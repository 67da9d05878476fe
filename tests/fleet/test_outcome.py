"""What became of a host is judged by what it says itself; Ansible only says whether it was there."""

from __future__ import annotations

import pytest

from luod.fleet import text
from luod.fleet.ansible import Recap
from luod.fleet.outcome import Report, Seen, judge, stopped_at
from luod.ipc.types.admin import SessionTimes, UpdateTimes

FAILED = Recap(1, True, "guest-1 vetoes")


@pytest.mark.parametrize(
    ("seen", "recap", "standing"),
    [
        (Seen(2, 0, 0), Recap(2, False), "updated"),
        (Seen(2, 1, 0), FAILED, "incomplete"),
        (Seen(2, 0, 1), FAILED, "incomplete"),
        (Seen(1, 0, 0), FAILED, "refused"),
        (Seen(1, 0, 0), Recap(0, False), "unchanged"),
        (Seen(1, 0, 0), None, "untouched"),
        (None, FAILED, "lost"),
    ],
)
def test_the_standing_of_a_host(seen: Seen | None, recap: Recap | None, standing: str) -> None:
    assert judge("h", seen, recap).standing == standing


def test_the_roll_out_stopped_where_hosts_failed_and_others_are_untouched() -> None:
    done, refused, after = (
        judge("a", Seen(2, 0, 0), FAILED),
        judge("b", Seen(1, 0, 0), FAILED),
        judge("c", Seen(1, 0, 0), None),
    )
    assert stopped_at([done, refused, after]) == ("b",)
    assert stopped_at([done, refused]) == ()


def test_the_text_has_a_line_for_each_host_and_the_blackouts_of_guests() -> None:
    sessions = tuple(SessionTimes(f"guest-{n}", 0, 4096, "ready", blackout=float(n)) for n in (1, 2, 3))
    told = UpdateTimes("9f2c01ab", 1, False, 0.0, "done", blackout=3.0, sessions=sessions)
    hosts = (
        judge("a", Seen(2, 0, 0, timeline=told), Recap(2, False)),
        judge("b", Seen(1, 0, 0, loaded=True), FAILED, "veto"),
        judge("c", Seen(1, 0, 0), None),
    )
    report = Report(0.0, 61.0, "update.yml", 2, hosts, stopped_at(hosts))
    assert list(text.lines(report)) == [
        "HOST  STANDING    BLACKOUT  NOTE",
        "a     updated     3 s",
        "b     refused               fault: veto; guest-1 vetoes; a kernel is left loaded",
        "c     untouched",
        "",
        "1 host updated: it runs the next kernel with all its guests",
        "1 host refused: it runs its old kernel with all its guests, and Ansible failed",
        "1 host untouched: the roll-out ended before it",
        "the roll-out stopped at b",
        "blackout of 3 guests: 2 s in the middle, 3 s at most",
        "the roll-out took 1 min 1 s; ansible-playbook ended with status 2",
    ]
