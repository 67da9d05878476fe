"""`luoctl wait`, with something that answers as luod would."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.ctl.test_luoctl import STATUS, asked, error_of, luoctl
from tests.ctl.test_timeline import TOLD
from tests.impostor import Answer, Impostor, reply

DESCRIBED = {
    "name": "vm",
    "owner": 0,
    "direction": "outgoing",
    "state": "held",
    "bytes": 0,
    "generation": None,
    "update": None,
    "preparing_seconds": 0.0,
    "freezing_seconds": 0.0,
    "process": None,
    "participant": None,
}


def in_state(state: str, **members: Any) -> Answer:
    return Answer(reply({**STATUS, "state": state, **members}))


def timeline(**members: Any) -> Answer:
    return Answer(reply({"timeline": {**TOLD, **members}}))


def running(state: str) -> Answer:
    return timeline(state=state, ended=None, now=4.5)


def test_ready_is_when_luod_answers(tmp_path: Path) -> None:
    with Impostor(tmp_path, in_state("idle")) as impostor:
        assert asked(impostor, "wait").returncode == 0
    late = luoctl("--admin-socket", "/nowhere", "wait", "--timeout", "0.1")
    assert (late.returncode, late.stdout) == (8, "")
    assert late.stderr == "luoctl: after 0.1 s: there is no luod at /nowhere\n"
    assert error_of(luoctl("--json", "--admin-socket", "/nowhere", "wait", "--timeout", "0.1"))["error"] == "TimedOut"


def test_a_luod_that_is_broken_is_not_waited_for(tmp_path: Path) -> None:
    with Impostor(tmp_path, in_state("broken")) as impostor:
        result = asked(impostor, "wait", "--for", "restored")
    assert result.returncode == 10
    assert "start the guests from the beginning" in result.stderr


@pytest.mark.parametrize(("end", "status"), [("done", 0), ("cancelled", 5)])
def test_an_update_is_waited_for_and_its_end_is_told(tmp_path: Path, end: str, status: int) -> None:
    phases = [in_state("preparing"), running("preparing"), in_state("freezing"), running("freezing")]
    with Impostor(tmp_path, *phases, in_state("idle"), timeline(state=end)) as impostor:
        result = asked(impostor, "wait", "--for", "update")
    assert result.returncode == status
    assert end in result.stdout
    with Impostor(tmp_path, in_state("idle")) as impostor:
        result = asked(impostor, "--json", "wait", "--for", "update")
    assert json.loads(result.stdout) == {"version": 1, "condition": "update", "update": None}


def test_restored_is_when_no_incoming_session_is_left(tmp_path: Path) -> None:
    answers = [in_state("restoring", waiting=1, retrieved=1), in_state("restoring", waiting=0, retrieved=1)]
    with Impostor(tmp_path, *answers, in_state("idle", waiting=0, retrieved=0)) as impostor:
        assert asked(impostor, "wait", "--for", "restored").returncode == 0
        assert len(impostor.calls) == 3


def test_a_participant_is_waited_for_by_the_name_of_its_session(tmp_path: Path) -> None:
    answers = [
        reply(error="io.luod.Sessions.NoSuchSession"),
        reply({"sessions": [DESCRIBED]}),
        reply({"sessions": [{**DESCRIBED, "participant": "qemu"}]}),
    ]
    with Impostor(tmp_path, *map(Answer, answers)) as impostor:
        assert asked(impostor, "wait", "--for", "participant", "vm").returncode == 0
        assert len(impostor.calls) == 3
    with Impostor(tmp_path, Answer(answers[1])) as impostor:
        late = asked(impostor, "wait", "--for", "participant", "vm", "--timeout", "0.0001")
    assert (late.returncode, late.stderr) == (8, "luoctl: after 0.0001 s: session vm has no participant\n")


@pytest.mark.parametrize("arguments", [["--for", "participant"], ["vm"], ["--for", "soon"], ["--timeout", "0"]])
def test_a_condition_that_does_not_exist_is_usage(arguments: list[str]) -> None:
    assert luoctl("wait", *arguments).returncode == 2


def test_with_an_id_the_end_of_an_update_is_waited_for_through_the_kexec(tmp_path: Path) -> None:
    phases = [in_state("jumping"), running("jumping"), in_state("restoring"), running("restoring")]
    with Impostor(tmp_path, *phases, in_state("idle"), timeline(state="done")) as impostor:
        result = asked(impostor, "--json", "wait", "--update", TOLD["update"])

    said = json.loads(result.stdout)
    assert (result.returncode, said["condition"], said["update"]) == (0, "end", TOLD["update"])
    assert "done" in said["outcome"]
    assert "1 session torn: vm-2" in said["outcome"]


@pytest.mark.parametrize(
    ("state", "members", "status", "words"),
    [
        (
            "idle",
            {"state": "cancelled", "reason": "a veto"},
            5,
            "cancelled, --skip-unready: a veto; the old kernel runs on",
        ),
        ("idle", {"update": "00000000"}, 7, "luod knows no update 9f2c01ab; the last one is 00000000, done"),
        ("idle", {"state": "jumping", "arrived": None}, 9, "nothing of the update reached this kernel: the"),
        ("preparing", {"state": "freezing", "arrived": None}, 9, "nothing of the update reached this kernel"),
        ("idle", {"state": "restoring"}, 9, "without a kexec of luod before its sessions were restored"),
        ("broken", {"state": "restoring"}, 10, "could not take over"),
    ],
)
def test_each_other_end_of_an_update_has_a_status(
    tmp_path: Path, state: str, members: dict[str, Any], status: int, words: str
) -> None:
    with Impostor(tmp_path, *[in_state(state), timeline(**members)] * 2) as impostor:
        result = asked(impostor, "wait", "--update", "9f2c01ab", "--timeout", "30")

    assert result.returncode == status
    assert words in result.stdout + result.stderr


def test_an_update_that_is_cancelled_between_two_reads_is_not_taken_for_another_boot(tmp_path: Path) -> None:
    reads = [in_state("idle"), running("freezing"), in_state("idle"), timeline(state="cancelled")]
    with Impostor(tmp_path, *reads) as impostor:
        assert asked(impostor, "wait", "--update", "9f2c01ab").returncode == 5


def test_sessions_that_are_left_at_the_timeout_are_counted(tmp_path: Path) -> None:
    with Impostor(tmp_path, in_state("restoring", waiting=3), running("restoring")) as impostor:
        late = asked(impostor, "wait", "--update", "9f2c01ab", "--timeout", "0.0001")
    assert late.returncode == 8
    assert "incoming sessions: 3 waiting" in late.stderr


def test_an_update_and_another_condition_are_usage() -> None:
    assert luoctl("wait", "--update", "9f2c01ab", "--for", "restored").returncode == 2


def test_a_luod_that_is_stopped_does_not_hold_the_wait_beyond_its_timeout(tmp_path: Path) -> None:
    with Impostor(tmp_path, Answer(hold=True)) as impostor:
        began = time.monotonic()
        late = asked(impostor, "wait", "--timeout", "0.1")
    assert (late.returncode, "did not answer in time" in late.stderr) == (8, True)
    assert time.monotonic() - began < 10


def test_an_update_whose_luod_ended_during_the_kexec_ends_as_the_next_luod_says(tmp_path: Path) -> None:
    jumping = Answer(reply({"state": "jumping", "update": TOLD["update"], "way": "direct"}, continues=True))
    cancelled = timeline(state="cancelled", reason="reboot(2) returned")
    with Impostor(tmp_path, jumping, in_state("jumping"), running("jumping"), in_state("idle"), cancelled) as impostor:
        result = asked(impostor, "update")
    assert result.returncode == 5
    assert "reboot(2) returned; the old kernel runs on" in result.stdout


def test_a_luod_with_too_many_connections_is_asked_again(tmp_path: Path) -> None:
    crowded = Answer(reply(error="io.luod.TooManyConnections"))
    with Impostor(tmp_path, crowded, in_state("idle", waiting=0)) as impostor:
        assert asked(impostor, "wait", "--for", "restored").returncode == 0
        assert len(impostor.calls) == 2
