"""`luoctl check --json` is the plan of an update: what it would carry, of whom, and which blackout to expect."""

from __future__ import annotations

import os

from tests.daemon.host import Luod
from tests.daemon.participant import UPDATES, Participant, begin, jump_with, prepare, start


def test_the_plan_has_participants_sessions_and_their_bytes(luod: Luod) -> None:
    Participant(luod, "one")
    start(luod).call("create", name="other", slot="s")
    luod.load()

    plan = luod.answer("check", "--kernel", luod.machine.kernel)

    assert [(each["name"], each["bytes"], each["participant"]) for each in plan["sessions"]] == [
        ("one", 4096, "one"),
        ("other", 0, None),
    ]
    (participant,) = plan["participants"]
    assert (participant["name"], participant["sessions"], participant["bytes"]) == ("one", ["one"], 4096)
    assert (participant["standing"], plan["bytes"], plan["torn"], plan["blackout"]) == ("awaited", 4096, [], None)
    assert plan["running"] == os.uname().release


def test_a_refused_plan_has_its_reason_as_a_line_for_people(luod: Luod) -> None:
    start(luod).call("create", name="other", slot="s")
    luod.load()
    refused = luod.luoctl("--json", "check", check=False)
    assert refused.returncode == 4
    assert refused.stderr.decode().startswith("luoctl: update refused: Linux ")
    assert refused.stderr.endswith(b"(contents-undeclared)\n")
    assert refused.stderr.count(b"\n") == 1


def test_the_blackout_of_the_last_update_is_what_to_expect(luod: Luod) -> None:
    one = Participant(luod, "one")
    begin(luod)
    prepare(one)
    one.expect("freezing")
    jump_with(luod, one)
    vmm = start(luod)
    vmm.call("retrieve_session", name="one", slot="one")
    vmm.call("method", method=UPDATES + "Resuming", parameters={"names": ["one"]})
    vmm.call("finish", session="one", discard=True)
    luod.luoctl("wait", "--for", "restored", "--timeout", "60")

    plan = luod.answer("check", "--kernel", luod.machine.kernel)

    seconds = luod.luoctl_json("timeline")["timeline"]["blackout"]
    assert plan["blackout"] == {"updates": 1, "expected": seconds, "longest": seconds}
    assert "blackout of the last 1 update: " in luod.luoctl("check", "--kernel", luod.machine.kernel).text


def test_the_status_has_the_bytes_that_sessions_keep_before_and_after_an_update(luod: Luod) -> None:
    one = Participant(luod, "one")
    assert (luod.status()["outgoing_bytes"], luod.status()["incoming_bytes"]) == (4096, 0)
    begin(luod)
    prepare(one)
    one.expect("freezing")
    jump_with(luod, one)
    assert (luod.status()["outgoing_bytes"], luod.status()["incoming_bytes"]) == (0, 4096)
