"""Verbs act on a workload: on all its sessions, NAME and NAME#GENERATION, or not at all."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from luod.testing import eventually
from luod.testing.tools import for_root
from tests.daemon.host import Luod, states, until_deadline, until_no_session
from tests.daemon.participant import Participant, begin, jump_with, prepare

ALICE = 1000
BOB = 1001
BOTH = {"incoming vm": "waiting", "incoming vm#1": "waiting"}


@pytest.fixture
def arrived(luod: Luod) -> Luod:
    """Starts luod after a kexec that preserved the workload "vm", in two sessions."""
    one = Participant(luod, "vm")
    begin(luod)
    prepare(one)
    one.expect("freezing")
    one.freeze(1)
    jump_with(luod, one)
    return luod


def test_reap_takes_all_of_a_workload(arrived: Luod) -> None:
    answer = arrived.answer("discard", "vm")
    assert (answer["status"], answer["session"]) == (0, "vm")
    said = "finished; files discarded: 1, devices reset: 0"
    assert answer["report"] == f"vm#1: {said} / vm: {said}"
    assert states(arrived.vmm()) == {}


@pytest.mark.parametrize("verb", ["discard", "carry-over", "release"])
def test_a_part_of_a_workload_is_refused_with_the_name_to_use(arrived: Luod, verb: str) -> None:
    answer = arrived.answer(verb, "vm#1")
    assert (answer["status"], answer["error"]) == (4, "Refused")
    assert "'vm'" in answer["hint"]
    assert states(arrived.vmm()) == BOTH
    # Beside the workload itself it is a part of that.
    assert arrived.answer(verb, "vm", "vm#1")["status"] == 0


@pytest.mark.parametrize(
    ("call", "left"), [("release_named", {}), ("replace_named", {"outgoing vm": "held"}), ("discard", {})]
)
def test_what_was_carried_over_of_a_workload_ends_with_its_session(
    arrived: Luod, call: str, left: dict[str, str]
) -> None:
    """Otherwise the next kernel has the state of a frozen guest beside the memory of another."""
    vmm = arrived.vmm()
    assert arrived.answer("carry-over", "vm")["status"] == 0
    assert states(vmm) == {"outgoing vm": "held", "outgoing vm#1": "held"}
    vmm.call(call, name="vm")
    assert states(vmm) == left


def test_a_workload_is_described_with_all_of_its_sessions(arrived: Luod) -> None:
    shown = arrived.luoctl("--json", "show", "vm").stdout.splitlines()
    assert [json.loads(line)["name"] for line in shown] == ["vm", "vm#1"]
    (part,) = arrived.luoctl("--json", "show", "vm#1").stdout.splitlines()
    assert json.loads(part)["generation"] == 1


@pytest.mark.parametrize("verb", ["discard", "carry-over", "release"])
@pytest.mark.parametrize("part", ["vm", "vm#1"])
def test_who_has_one_session_of_a_workload_has_all_of_it(arrived: Luod, verb: str, part: str) -> None:
    vmm = arrived.vmm()
    vmm.call("retrieve_session", name=part, slot="s")
    answer = arrived.answer(verb, "vm")
    assert (answer["status"], answer["error"]) == (4, "Refused")
    assert states(vmm) == BOTH | {f"incoming {part}": "retrieved"}


def test_past_the_restore_deadline_no_part_is_reaped_under_a_vmm_and_all_are_when_it_ends(
    arrived: Luod, tmp_path: Path
) -> None:
    policy = tmp_path / "luod.toml"
    policy.write_text("restore-deadline = 1000\n")
    arrived.stop()
    arrived.start("--config", str(policy))
    watcher, vmm = arrived.vmm(), arrived.vmm()
    vmm.call("retrieve_session", name="vm", slot="s")
    policy.write_text("restore-deadline = 0.001\n")
    arrived.machine.signal(arrived.supervisor_pid, signal.SIGHUP)
    until_deadline(arrived)
    assert states(watcher) == BOTH | {"incoming vm": "retrieved"}
    vmm.call("retrieve_session", name="vm#1", slot="frozen")
    vmm.program.kill()
    until_no_session(watcher)


def test_what_a_vmm_leaves_of_its_workload_past_the_deadline_is_reaped(arrived: Luod, tmp_path: Path) -> None:
    policy = tmp_path / "luod.toml"
    policy.write_text("restore-deadline = 1000\n")
    arrived.stop()
    arrived.start("--config", str(policy))
    vmm = arrived.vmm()
    vmm.call("retrieve_session", name="vm", slot="s")
    policy.write_text("restore-deadline = 0.001\n")
    arrived.machine.signal(arrived.supervisor_pid, signal.SIGHUP)
    until_deadline(arrived)
    vmm.call("finish", session="s", discard=True)
    until_no_session(vmm)


def test_an_outgoing_session_of_a_dead_vmm_is_released_by_luoctl(luod: Luod) -> None:
    one = Participant(luod, "vm")
    answer = luod.answer("release", "vm")
    assert (answer["status"], answer["error"]) == (4, "Refused")
    assert "answers for it" in answer["message"]
    one.vmm.program.kill()
    for verb in ("discard", "carry-over"):
        answer = luod.answer(verb, "vm")
        assert answer["error"] == "NoSuchSession"
        assert "luoctl release" in answer["hint"]

    def released() -> dict[str, Any] | None:
        answer = luod.answer("release", "vm")
        return answer if answer["status"] != 4 else None

    answer = eventually(released, describe="the session of the dead VMM is released")
    assert (answer["status"], answer["report"]) == (0, "released vm")
    assert states(luod.vmm()) == {}
    assert luod.answer("release", "vm")["error"] == "NoSuchSession"


def test_a_release_says_that_another_process_has_the_session_open(luod: Luod) -> None:
    vmm = luod.vmm()
    vmm.call("create", name="vm", slot="s")
    answer = luod.answer("release", "vm")
    assert (answer["status"], answer["error"]) == (4, "Refused")
    assert "has it open" in answer["message"]
    answer = luod.answer("release", "--force", "vm")
    assert "another process has vm open" in answer["report"]


def test_where_there_are_both_directions_a_release_wants_to_know_which(arrived: Luod) -> None:
    vmm = arrived.vmm()
    vmm.call("create", name="vm", slot="new")
    answer = arrived.answer("release", "vm")
    assert (answer["status"], answer["error"]) == (4, "Refused")
    assert arrived.answer("release", "--incoming", "vm")["report"] == "released vm#1, vm"
    assert states(vmm) == {"outgoing vm": "held"}
    vmm.program.kill()
    eventually(lambda: arrived.answer("release", "vm")["status"] != 4, describe="the last fd of the dead VMM is closed")
    assert states(arrived.vmm()) == {}


def test_a_user_releases_its_own_and_learns_of_no_others(luod: Luod) -> None:
    for_root("for several users in one machine")
    alice = luod.vmm(ALICE)
    alice.call("create", name="vm", slot="s")
    alice.program.kill()
    answers = []
    for user, name in ((BOB, "vm"), (BOB, "nobodys"), (ALICE, "vm")):
        python = luod.python(user)
        command = python.module("luod.ctl.main", "--json", "release", name)
        result = luod.machine.run(command, env=python.environment, user=user, check=False)
        answers.append(json.loads(result.stdout.splitlines()[-1]))
    assert answers[0]["error"] == answers[1]["error"] == "NoSuchSession"
    assert answers[0]["message"] == answers[1]["message"].replace("nobodys", "vm")
    assert answers[2]["report"] == "released vm"
