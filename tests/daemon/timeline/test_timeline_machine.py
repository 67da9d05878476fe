"""The timeline of the last update: before and after the kexec, when cancelled, and when luod was killed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from luod.testing import Machine, Program, eventually
from tests.daemon.host import Luod
from tests.daemon.participant import UPDATES, Participant, begin, jump_with, prepare, start


def timeline(luod: Luod) -> dict[str, Any]:
    told: dict[str, Any] = luod.luoctl_json("timeline")["timeline"]
    return told


def session(told: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (entry for entry in told["sessions"] if entry["name"] == name)
    return dict(found)


def update(luod: Luod, *participants: Participant, findings: tuple[str, ...] = ()) -> None:
    """Updates into the next kernel. All participants are ready, and the first has frozen state."""
    begin(luod, findings=findings)
    prepare(*participants)
    for participant in participants:
        participant.expect("freezing")
    participants[0].freeze(1)
    jump_with(luod, *participants)


def resume(luod: Luod, *names: str) -> None:
    vmm = start(luod)
    for name in names:
        vmm.call("retrieve_session", name=name, slot=name)
    vmm.call("method", method=UPDATES + "Resuming", parameters={"names": [n for n in names if "#" not in n]})
    for name in names:
        vmm.call("finish", session=name, discard=True)


def test_before_any_update_there_is_nothing_to_tell(luod: Luod) -> None:
    assert luod.luoctl_json("timeline")["timeline"] is None
    assert luod.luoctl("timeline").text == "no update yet"


def test_an_update_is_told_through_the_jump_and_to_its_end(luod: Luod) -> None:
    one, two = Participant(luod, "one"), Participant(luod, "two")
    start(luod).call("create", name="other", slot="s")
    update(luod, one, two, findings=("contents-undeclared",))
    told = timeline(luod)
    assert (told["state"], told["generation"], told["ended"], told["blackout"]) == ("restoring", 1, None, None)
    assert 0 < told["freezing"] < told["jumping"] < told["arrived"] <= told["now"]
    assert told["clock"] in ("tsc", "wall")
    assert [entry["name"] for entry in told["sessions"]] == ["one", "other", "two"]
    first = session(told, "one")
    assert 0 < first["prepared"] <= told["freezing"] < first["frozen"] <= told["jumping"]
    assert (first["standing"], first["bytes"], first["retrieved"], first["resumed"]) == ("ready", 4096, None, None)
    assert session(told, "other")["standing"] == "unasked"

    resume(luod, "one", "one#1")
    timeline(luod)  # what happens before serve has built its recorder is in memory only
    luod.kill_serve()
    resume(luod, "two")
    start(luod).call("release_named", name="other", direction="incoming")
    told = timeline(luod)
    assert told["state"] == "done"
    first, second, other = (session(told, name) for name in ("one", "two", "other"))
    assert told["arrived"] <= first["retrieved"] <= first["resumed"] <= first["gone"]
    assert first["gone"] < second["retrieved"] < second["resumed"] < told["ended"]
    assert first["outcome"] == second["outcome"] == "finished"
    assert other["blackout"] is None
    assert other["outcome"] == "given_up"
    assert first["blackout"] == round(first["resumed"] - told["freezing"], 6)
    assert told["blackout"] == second["blackout"] > first["blackout"]


class Logged(Luod):
    """A luod whose stderr goes to a file, unbuffered and over kexecs."""

    def start(self, *arguments: str) -> Program:
        python = self.python()
        supervisor = python.module("luod.daemon.main", "--state-directory", self.state_directory, *arguments)
        logging = ("sh", "-c", 'exec "$@" 2>>"$0"', f"{self.state_directory}.log")
        command = [*logging, *python.module("luod.testing.started", *supervisor)]
        self.supervisor = self.machine.spawn(command, env=python.environment)
        assert self.supervisor.ask({})["ready"]
        return self.supervisor


def test_the_log_tells_an_update_in_ten_lines_on_both_sides_of_the_jump(machine: Machine, tmp_path: Path) -> None:
    luod = Logged(machine, tmp_path / "state")
    luod.start()
    update(luod, Participant(luod, "one"))
    resume(luod, "one", "one#1")
    update_id = re.compile(r" update=([0-9a-f]{8})\b")
    log = tmp_path / "state.log"
    # The rooms that write the last lines are built after the start, without haste.
    eventually(lambda: " restored " in log.read_text(), describe="the log has the end of the update")
    lines = [line for line in log.read_text().splitlines() if update_id.search(line)]
    assert [line.split()[3] for line in lines] == [
        "starting",
        "preparing",
        "freezing",
        "jumping",
        "arrived",
        "resumed",
        "restored",
    ]
    assert len({match[1] for line in lines if (match := update_id.search(line))}) == 1


def test_a_cancelled_update_is_told_with_its_reason_and_its_blackout(luod: Luod) -> None:
    one, two = Participant(luod, "one"), Participant(luod, "two")
    begin(luod)
    prepare(one, two)
    one.expect("freezing")
    told = timeline(luod)
    assert (told["state"], session(told, "one")["standing"]) == ("freezing", "awaited")
    one.vote("freezing")
    two.vote("freezing", "veto", "a device would not stop")
    one.expect("cancelled")
    told = timeline(luod)
    assert (told["state"], told["reason"]) == ("cancelled", "two vetoes: a device would not stop")
    assert session(told, "one")["frozen"] is not None
    assert (session(told, "two")["standing"], session(told, "two")["reason"]) == ("vetoed", "a device would not stop")
    assert told["blackout"] == session(told, "one")["blackout"] == round(told["ended"] - told["freezing"], 6)
    luod.kill_serve()
    assert timeline(luod) == told


def test_an_update_in_which_luod_is_killed_is_told_as_cancelled(luod: Luod) -> None:
    one = Participant(luod, "one")
    begin(luod)
    one.expect("preparing")
    luod.kill_serve()
    told = timeline(luod)
    assert (told["state"], told["reason"]) == ("cancelled", "luod ended while it was under way")


def test_what_is_refused_before_anybody_is_asked_is_no_update(luod: Luod) -> None:
    assert luod.luoctl("update", check=False).returncode == 4
    assert luod.luoctl_json("timeline")["timeline"] is None
