"""How many log lines a client can cause, without a log; and what is said of those left out."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from luod.ipc.server.sparing import (
    BURST,
    BURST_OF_ALL,
    CHARACTERS,
    LINES_A_SECOND_OF_ALL,
    RESERVED,
    SECONDS_A_LINE,
    SUMMARIES,
    USERS,
    LeftOut,
    Lines,
    Sparing,
)

ALICE, BOB = 1000, 1001
DAY = 86400
EVENTS = ("created", "released", "lent", "retrieved", "stashed", "stash-dropped", "resuming", "connection-dropped")


def test_a_burst_is_written_whole() -> None:
    lines = Lines()
    assert all(lines.admits(ALICE, "created", 0.0) for _ in range(BURST))
    assert not lines.admits(ALICE, "created", 0.0)


def test_a_day_of_one_users_lines_is_bounded_for_all_events_together() -> None:
    lines = Lines()
    times = range(0, DAY, 60)
    written = sum(lines.admits(ALICE, event, second) for second in times for event in EVENTS for _ in range(10))
    assert written <= len(EVENTS) * (BURST + DAY / SECONDS_A_LINE)


def test_one_user_hides_nothing_of_anothers_nor_one_event_of_another() -> None:
    lines = Lines()
    for _ in range(1000):
        lines.admits(ALICE, "created", 0.0)
    assert lines.admits(BOB, "created", 0.0)
    assert lines.admits(ALICE, "retrieved", 0.0)


def test_many_users_are_bounded_together_and_hide_nothing_of_one_that_is_known() -> None:
    lines = Lines()
    lines.admits(BOB, "created", 0.0)
    written = sum(lines.admits(uid, event, 0.0) for uid in range(100_000, 101_000) for event in EVENTS)
    assert written <= BURST_OF_ALL + USERS * RESERVED
    assert lines.admits(BOB, "created", 1.0)


def test_many_users_for_an_hour_cause_few_lines_each_second() -> None:
    lines = Lines()
    users = range(100_000, 100_400)
    for _ in range(20):
        for uid in users:
            lines.admits(uid, "created", 0.0)
    written = sum(lines.admits(uid, "created", float(second)) for second in range(1, 3600, 10) for uid in users)
    assert written <= 3600 * LINES_A_SECOND_OF_ALL + len(users) * (3600 / 60 + 1)


def test_root_is_bounded_by_what_root_causes_alone() -> None:
    lines = Lines()
    for uid in range(100_000, 101_000):
        lines.admits(uid, "created", 0.0)
    assert sum(lines.admits(0, "created", 0.0) for _ in range(1000)) == BURST


def test_accounts_of_users_that_were_quiet_are_given_to_others() -> None:
    lines = Lines()
    for uid in range(USERS):
        lines.admits(100_000 + uid, "created", 0.0)
    for _ in range(2 * BURST):
        lines.admits(None, "created", 0.0)
    assert lines.admits(BOB, "created", 3600.0)
    assert len(lines._accounts) <= USERS + 2


def test_what_is_left_out_is_counted_once_by_user_and_event() -> None:
    lines = Lines()
    for _ in range(BURST + 7):
        lines.admits(ALICE, "created", 0.0)
    for _ in range(BURST + 2):
        lines.admits(BOB, "released", 0.0)
    assert lines.left_out() == [LeftOut("created", ALICE, 1, 7), LeftOut("released", BOB, 1, 2)]
    assert lines.left_out() == []


def test_very_many_users_are_counted_in_few_lines() -> None:
    lines = Lines()
    for uid in range(400):
        for _ in range(2 * BURST):
            lines.admits(100_000 + uid, "created", 0.0)
    found = lines.left_out()
    assert len(found) <= SUMMARIES + 1
    assert found[-1].users == 400 - SUMMARIES
    written = BURST_OF_ALL + sum(RESERVED for _ in range(400 - BURST_OF_ALL // BURST))
    assert sum(left.lines for left in found) == 400 * 2 * BURST - written


def test_a_line_is_short_whatever_the_client_sent() -> None:
    said: list[dict[str, Any]] = []

    async def run() -> None:
        Sparing(lambda _event, /, **fields: said.append(fields))("refused", of=ALICE, uid=ALICE, reason="x" * 60_000)

    asyncio.run(run())
    assert len(said[0]["reason"]) <= CHARACTERS + 1
    assert said[0]["uid"] == ALICE


def test_a_summary_has_the_user_and_the_level_of_what_it_counts() -> None:
    said: list[tuple[str, str, dict[str, Any]]] = []

    def info(event: str, /, **fields: object) -> None:
        said.append(("info", event, fields))

    def warning(event: str, /, **fields: object) -> None:
        said.append(("warning", event, fields))

    async def run() -> None:
        sparing = Sparing(info)
        for _ in range(BURST + 3):
            sparing("session-lost", of=ALICE, write=warning, name="vm")
        sparing("created", of=ALICE, name="vm")
        sparing.close()

    asyncio.run(run())
    assert Counter(level for level, _event, _fields in said) == {"warning": BURST + 1, "info": 1}
    assert said[-1] == ("warning", "session-lost", {"uid": ALICE, "more": 3})
