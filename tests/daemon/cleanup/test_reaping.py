"""Abandoned incoming sessions are discarded: by the operator, and by luod past the restore deadline."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from luod.testing import Machine, eventually
from tests.daemon.host import Luod, preserve_two, refuse_next_fork, states, until_gone
from tests.daemon.participant import ADMIN, Participant, start

BeginWith = Callable[[str], Luod]


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return tmp_path / "luod.toml"


@pytest.fixture
def begin(machine: Machine, tmp_path: Path, policy: Path) -> BeginWith:
    """Starts luod with this policy after a kexec that preserved the sessions "vm" and "other"."""

    def begin(text: str) -> Luod:
        policy.write_text("")
        luod = Luod(machine, state_directory=tmp_path / "state")
        luod.start("--config", str(policy))
        preserve_two(luod)
        luod.load()
        luod.force_update()
        policy.write_text(text)
        luod.start("--config", str(policy))
        return luod

    return begin


@pytest.fixture
def reaper(tmp_path: Path) -> Callable[..., str]:
    """Returns a policy whose reaper is this shell script."""

    def write(script: str, more: str = "") -> str:
        file = tmp_path / "reaper"
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        return f'reaper = ["{file}", "an argument"]\n{more}\n'

    return write


def test_reaped_on_the_operators_word_it_is_gone_and_the_others_are_as_they_were(begin: BeginWith) -> None:
    luod = begin("")
    watcher = luod.vmm()
    answer = luod.answer("discard", "vm")
    assert (answer["status"], answer["session"]) == (0, "vm")
    assert answer["report"] == "finished; files discarded: 1, devices reset: 0"
    assert states(watcher) == {"incoming other": "waiting"}
    assert watcher.refused("retrieve_session", name="vm", slot="s").kind == "NoSuchSession"
    assert watcher.can_retrieve(b"vm") == "ENOENT"
    watcher.call("retrieve_session", name="other", slot="other")
    watcher.call("create", name="vm", slot="new")


def test_what_is_in_use_is_reaped_only_by_force(begin: BeginWith) -> None:
    luod = begin("")
    vmm = luod.vmm()
    vmm.call("retrieve_session", name="vm", slot="s")
    answer = luod.answer("discard", "vm")
    assert (answer["status"], answer["error"]) == (4, "Refused")
    assert "in use" in answer["message"]
    # A serve that starts again does not know whether the process lives, and so does not touch it either.
    luod.kill_serve()
    assert luod.answer("discard", "vm")["status"] == 4
    assert luod.answer("discard", "--force", "vm")["status"] == 0
    vmm.call("retrieve_session", name="other", slot="other")
    vmm.program.kill()
    eventually(lambda: luod.answer("discard", "other")["status"] != 4, describe="it is discarded")
    assert states(luod.vmm()) == {}


def test_what_is_torn_can_be_reaped(begin: BeginWith, machine: Machine, policy: Path) -> None:
    luod = begin("")
    for name in ("vm", "other"):
        luod.answer("discard", name)
    one = Participant(luod, "one")
    luod.load()
    with machine.expect_jump():
        one.vmm.ask("library", call="jump")
    luod.start()
    watcher = luod.vmm()
    assert states(watcher) == {"incoming one": "torn"}
    assert luod.answer("discard", "one")["status"] == 0
    assert states(watcher) == {}


def test_what_is_not_there_cannot_be_reaped(begin: BeginWith) -> None:
    luod = begin("")
    luod.vmm().call("create", name="new", slot="s")
    for name in ("none", "new"):
        assert luod.answer("discard", name)["error"] == "NoSuchSession"
    # All that are named are tried.
    answer = luod.answer("discard", "none", "vm")
    assert (answer["status"], answer["error"]) == (7, "NoSuchSession")
    assert set(states(luod.vmm())) == {"incoming other", "outgoing new"}


def test_the_operators_reaper_gets_the_session_its_name_and_its_manifest(
    begin: BeginWith, reaper: Callable[..., str], tmp_path: Path
) -> None:
    luod = begin(
        reaper(
            f'echo "$1 $LUOD_SESSION $LUOD_OWNER" >{tmp_path}/got\n'
            f'echo "$LUOD_MANIFEST" >{tmp_path}/manifest\n'
            f"test -e /proc/self/fd/$LUOD_SESSION_FD && echo did it"
        )
    )
    assert luod.answer("discard", "vm")["report"] == "did it"
    assert luod.machine.read(f"{tmp_path}/got") == b"an argument vm 0\n"
    (entry,) = json.loads(luod.machine.read(f"{tmp_path}/manifest"))
    assert (entry["token"], entry["name"], entry["kind"], entry["size"]) == (1, "ram", "memfd", 4096)
    assert states(luod.vmm()) == {"incoming other": "waiting"}


@pytest.mark.parametrize(
    ("script", "seconds", "why"),
    [
        ("echo no hands; exit 3", 60, "ended with status 3: no hands"),
        ("kill -9 $$", 60, "ended by signal 9"),
        ("exec sleep 1000", 0.5, "took longer than 0.5 s, and was ended"),
    ],
)
def test_a_reaper_that_fails_leaves_a_session_stuck_seen_and_in_nobodys_way(
    begin: BeginWith, reaper: Callable[..., str], script: str, seconds: float, why: str
) -> None:
    luod = begin(reaper(script, f"reaper-timeout = {seconds}"))
    answer = luod.answer("discard", "vm")
    assert (answer["status"], answer["error"]) == (1, "DiscardFailed")
    assert why in answer["message"]
    vmm = luod.vmm()
    assert states(vmm) == {"incoming other": "waiting", "incoming vm": "stuck"}
    (stuck,) = luod.status()["stuck"]
    assert stuck["name"] == "vm"
    assert why in stuck["reason"]
    assert vmm.refused("retrieve_session", name="vm", slot="s").kind == "Torn"
    # The others go on: theirs is retrieved and finished, and the next update takes place.
    vmm.call("retrieve_session", name="other", slot="other")
    vmm.call("finish", session="other", discard=True)
    luod.load()
    luod.force_update()


def test_a_session_whose_reaper_cannot_be_started_is_as_it_was(begin: BeginWith) -> None:
    luod = begin("")
    tracer, vmm = refuse_next_fork(luod), luod.vmm()
    answer = luod.answer("discard", "vm")
    assert (answer["status"], answer["error"]) == (4, "Busy")
    assert "its reaper could not be started: " in answer["message"]
    vmm.call("retrieve_session", name="vm", slot="s")
    vmm.call("retrieve", session="s", file=1, slot="ram")
    assert luod.answer("discard", "other")["status"] == 0
    tracer.kill()


def test_past_the_restore_deadline_a_reaper_that_cannot_be_started_is_tried_again(
    begin: BeginWith, policy: Path
) -> None:
    luod = begin("")
    tracer, watcher = refuse_next_fork(luod), luod.vmm()
    policy.write_text("restore-deadline = 0.001\n")
    luod.machine.signal(luod.supervisor_pid, signal.SIGHUP)
    until_gone(watcher, "incoming vm")
    until_gone(watcher, "incoming other")
    tracer.kill()
    assert "its reaper could not be started" in luod.terminate()


def test_what_is_stuck_can_be_reaped_again_or_released(
    begin: BeginWith, reaper: Callable[..., str], policy: Path
) -> None:
    luod = begin(reaper("exit 1"))
    assert [luod.answer("discard", name)["status"] for name in ("vm", "other")] == [1, 1]
    luod.kill_serve()
    vmm = luod.vmm()
    assert states(vmm) == {"incoming other": "stuck", "incoming vm": "stuck"}
    vmm.call("release_named", name="other", direction="incoming")
    policy.write_text("")
    luod.kill_serve()
    assert luod.answer("discard", "vm")["status"] == 0
    assert states(vmm) == {}


def test_past_the_restore_deadline_what_nobody_claimed_is_reaped(begin: BeginWith) -> None:
    luod = begin("restore-deadline = 0.5\n")
    watcher = luod.vmm()
    until_gone(watcher, "incoming vm")
    until_gone(watcher, "incoming other")
    assert watcher.can_retrieve(b"vm") == "ENOENT"
    assert luod.status()["state"] == "idle"


def test_past_the_restore_deadline_what_a_living_process_has_is_left_until_that_ends(
    begin: BeginWith, policy: Path
) -> None:
    luod = begin("restore-deadline = 1000\n")
    vmm = luod.vmm()
    vmm.call("retrieve_session", name="vm", slot="s")
    assert 900 < luod.status()["restore_seconds_left"] <= 1000
    policy.write_text("restore-deadline = 0.001\n")
    luod.machine.signal(luod.supervisor_pid, signal.SIGHUP)
    watcher = luod.vmm()
    until_gone(watcher, "incoming other")
    luod.kill_serve()
    assert states(watcher) == {"incoming vm": "retrieved"}
    vmm.call("retrieve", session="s", file=1, slot="ram")
    vmm.program.kill()
    until_gone(watcher, "incoming vm")


def test_what_is_claimed_while_it_waits_for_its_reaper_is_not_reaped(
    machine: Machine, reaper: Callable[..., str], policy: Path, tmp_path: Path
) -> None:
    """Four reapers work at a time, and may take their time. A VMM that comes meanwhile must find its guest."""
    luod = Luod(machine, state_directory=tmp_path / "state")
    policy.write_text("")
    luod.start("--config", str(policy))
    vmm, names = luod.vmm(), ("a", "b", "c", "d", "vm")
    for name in names:
        vmm.call("create", name=name, slot=name)
        vmm.memfd(f"ram {name}")
        vmm.call("preserve", session=name, file=f"ram {name}", token=1)
    luod.load()
    luod.force_update()
    policy.write_text(
        reaper(f"while ! test -e {tmp_path}/enough; do sleep 0.05; done; exit 1", "restore-deadline = 0.1")
    )
    luod.start("--config", str(policy))
    watcher, vmm = luod.vmm(), luod.vmm()
    eventually(lambda: [*states(watcher).values()].count("discarding") == 4, describe="four are being discarded")
    vmm.call("retrieve_session", name="vm", slot="vm")
    (tmp_path / "enough").touch()

    def decided() -> bool:
        seen = states(watcher)
        return seen.pop("incoming vm") != "retrieved" or set(seen.values()) == {"stuck"}

    eventually(decided, describe="the others are stuck, or vm is not retrieved")
    assert states(watcher)["incoming vm"] == "retrieved"
    vmm.call("retrieve", session="vm", file=1, slot="ram")


def test_a_serve_that_starts_past_the_deadline_gives_time_to_claim(begin: BeginWith, policy: Path) -> None:
    """Without a serve, no client could claim them."""
    luod = begin("restore-deadline = 1000\n")
    eventually(lambda: luod.status()["restore_seconds_left"] <= 999, describe="a second has passed")
    policy.write_text("restore-deadline = 1\n")
    luod.kill_serve()
    vmm = luod.vmm()
    assert luod.status()["restore_seconds_left"] > 0
    vmm.call("retrieve_session", name="vm", slot="s")
    until_gone(luod.vmm(), "incoming other")
    assert states(vmm) == {"incoming vm": "retrieved"}


def test_a_deadline_that_a_reload_brings_counts_from_then_on_also_for_the_next_serve(
    begin: BeginWith, policy: Path
) -> None:
    luod = begin("restore-deadline = 1000\n")
    eventually(lambda: luod.status()["restore_seconds_left"] <= 997, describe="three seconds have passed")
    policy.write_text("restore-deadline = 2000\n")
    luod.machine.signal(luod.supervisor_pid, signal.SIGHUP)

    def extended() -> float | None:
        left: float = luod.status()["restore_seconds_left"]
        return left if left >= 1000 else None

    left = eventually(extended, describe="the new deadline is in force")
    assert left > 1998
    luod.kill_serve()
    assert 1998 - 60 < luod.status()["restore_seconds_left"] < left


def test_without_a_deadline_nothing_is_reaped_by_itself(begin: BeginWith) -> None:
    luod = begin("")
    assert luod.status()["restore_seconds_left"] is None
    assert luod.status()["stuck"] == []


def test_a_serve_that_dies_while_a_reaper_works_is_followed_by_one_that_begins_again(
    begin: BeginWith, reaper: Callable[..., str], policy: Path, tmp_path: Path
) -> None:
    luod = begin(reaper(f"echo $$ >{tmp_path}/began\nexec sleep 1000"))
    operator, watcher = start(luod), luod.vmm()
    operator.program.send({"do": "library", "in": [], "call": "method", "method": ADMIN + "Discard",
                           "parameters": {"name": "vm", "force": False}})  # fmt: skip
    began = tmp_path / "began"
    eventually(lambda: states(watcher)["incoming vm"] == "discarding" and began.exists(), describe="the reaper runs")
    policy.write_text("")
    luod.kill_serve()
    until_gone(watcher, "incoming vm")
    pid = (tmp_path / "began").read_text().strip()
    assert luod.machine.run(["test", "-e", f"/proc/{pid}/cwd"], check=False).returncode
