"""The disk of the state directory hangs while guests are paused, or wait for their sessions in the next kernel."""

from __future__ import annotations

import signal
from pathlib import Path
from time import monotonic

import pytest

from luod.daemon.updates import disk_writes
from luod.testing import Machine, eventually
from tests.daemon.host import Luod, states
from tests.daemon.participant import UPDATES, Operator, Participant, begin, prepare, start
from tests.library import Vmm, start_vmm

_SLACK_SECONDS = 15.0
"""For a busy machine, beyond luod's own limits."""
_RECORD = disk_writes._RECORD_SECONDS
_LIMIT = _RECORD + disk_writes._TAKE_BACK_SECONDS + _SLACK_SECONDS


class Disk:
    """The disk of the state directory."""

    def __init__(self, luod: Luod, source: Path) -> None:
        self._program = start_vmm(
            luod.machine, luod.python(), "hanging_disk", (str(source), luod.state_directory)
        ).program
        self._program.ask(False)

    def hang(self) -> None:
        self._program.ask(True)

    def waiting(self) -> int:
        """Returns how many calls hang."""
        found: int = self._program.ask(True)
        return found

    def go_on(self) -> None:
        self._program.ask(False)


@pytest.fixture
def luod(machine: Machine, tmp_path: Path) -> Luod:
    """Returns luod, not started."""
    return Luod(machine, state_directory=tmp_path / "state")


@pytest.fixture
def disk(luod: Luod, tmp_path: Path) -> Disk:
    disk = Disk(luod, tmp_path / "disk")
    luod.start()
    return disk


def frozen(luod: Luod, one: Participant) -> Operator:
    """Begins an update up to the moment at which the guest is paused."""
    operator = begin(luod)
    prepare(one)
    one.freeze(one.expect("freezing")["generation"])
    return operator


def carries(luod: Luod, one: Participant, disk: Path) -> None:
    """Makes an update, and checks that the session reaches the next kernel."""
    operator = Operator(luod)
    operator.update()
    one.expect("preparing")
    one.vote("preparing")
    generation = one.expect("freezing")["generation"]
    one.freeze(generation)
    with luod.machine.expect_jump():
        one.vote("freezing")
    after = Luod(luod.machine, state_directory=disk)
    after.start()
    assert states(start(after)) == {"incoming one": "waiting", f"incoming one#{generation}": "waiting"}


def carried(luod: Luod, tmp_path: Path) -> tuple[Luod, Disk]:
    """Carries the session "one" into the next kernel. Returns luod, started there after its disk has begun to hang."""
    one = Participant(luod, "one")
    frozen(luod, one)
    with luod.machine.expect_jump():
        one.vote("freezing")
    after = Luod(luod.machine, state_directory=tmp_path / "state of the next kernel")
    disk = Disk(after, tmp_path / "disk")
    disk.hang()
    after.start()
    return after, disk


def restored(luod: Luod) -> Vmm:
    """Returns a VMM that has retrieved the session "one"."""
    vmm = start(luod)
    for name in ("one", "one#1"):
        vmm.call("retrieve_session", name=name, slot=name)
    return vmm


def resuming(vmm: Vmm) -> None:
    vmm.call("method", method=UPDATES + "Resuming", parameters={"names": ["one"]})


def finish(vmm: Vmm) -> None:
    for name in ("one#1", "one"):
        vmm.call("finish", session=name, discard=True)


def until_on_the_disk(luod: Luod) -> None:
    """Waits until the state directory has what the runtime directory had meanwhile."""
    meanwhile = ["ls", "/run/luod/registry", "/run/luod/timeline"]
    eventually(lambda: not luod.machine.run(meanwhile, check=False).text, describe="luod writes to the disk again")


def until_written(luod: Luod) -> None:
    eventually(lambda: luod.status()["state_directory"] == [], describe="luod writes to the disk again")


def test_a_guest_resumes_if_the_disk_hangs_before_the_kexec(luod: Luod, disk: Disk, tmp_path: Path) -> None:
    one = Participant(luod, "one")
    operator = frozen(luod, one)
    disk.hang()
    began = monotonic()

    one.vote("freezing")
    cancelled = one.expect("jumping", "cancelled")

    assert monotonic() - began < _LIMIT
    reason = f"the write of luod's registry to {luod.state_directory} did not end within {_RECORD:g} s"
    assert cancelled["reason"] == reason
    assert operator.until("cancelled")["reason"] == reason
    other: Vmm = luod.vmm()
    other.call("create", name="other", slot="s")  # luod answers meanwhile
    assert states(other) == {"outgoing one": "held", "outgoing other": "held"}
    (problem,) = luod.status()["state_directory"]
    assert "a disk hangs" in problem["what"]
    assert luod.luoctl_json("timeline")["timeline"]["reason"] == reason
    for ignored, told in (
        (["contents-undeclared"], "state-directory"),
        (["contents-undeclared", "state-directory"], ""),
    ):
        findings = [word for name in ignored for word in ("--ignore-finding", name)]
        refused = luod.luoctl("update", *findings, check=False)
        assert refused.returncode == 4
        assert told in refused.stderr.decode()
        assert "a disk hangs" in refused.stderr.decode()
    assert disk.waiting()
    disk.go_on()
    until_written(luod)
    other.call("release", session="s")
    carries(luod, one, tmp_path / "disk")


def test_a_veto_lets_guests_resume_at_once_while_the_disk_hangs(luod: Luod, disk: Disk, tmp_path: Path) -> None:
    one = Participant(luod, "one")
    frozen(luod, one)
    disk.hang()
    began = monotonic()

    one.vote("freezing", "veto", "no")

    one.expect("cancelled")
    assert monotonic() - began < _SLACK_SECONDS
    disk.go_on()
    until_written(luod)
    carries(luod, one, tmp_path / "disk")


def test_the_file_has_every_change_that_was_made_while_the_disk_hung(luod: Luod, disk: Disk) -> None:
    """Only the file is left of it when both processes of luod are killed."""
    one = Participant(luod, "one")
    frozen(luod, one)
    disk.hang()
    one.vote("freezing")
    one.expect("jumping", "cancelled")
    other = luod.vmm()
    other.call("create", name="other", slot="s")
    disk.go_on()
    until_written(luod)

    luod.kill_both()
    luod.stop()
    luod.start()

    assert states(luod.vmm()) == {"outgoing one": "dropped", "outgoing other": "dropped"}


@pytest.mark.parametrize("told", ["jumping", "cancelled"])
def test_the_next_serve_answers_while_the_disk_hangs(luod: Luod, disk: Disk, tmp_path: Path, told: str) -> None:
    """It is killed while its guest is paused for the kexec, or after that."""
    one = Participant(luod, "one")
    frozen(luod, one)
    disk.hang()
    one.vote("freezing")
    one.expect("jumping")
    if told == "cancelled":
        one.expect("cancelled")
    eventually(disk.waiting, describe="the write of the registry hangs")
    luod.kill_serve()
    assert one.vmm.refused("next", slot="follow").kind == "DaemonUnreachable"
    eventually(lambda: luod.status()["state"] == "idle", describe="the next serve has cancelled the update")

    one.vmm.call("hang_up", slot="follow")
    assert one.follow()["state"] == "idle"
    assert states(luod.vmm()) == {"outgoing one": "held"}
    disk.go_on()
    until_written(luod)
    one.declare()
    carries(luod, one, tmp_path / "disk")


@pytest.mark.usefixtures("disk")
def test_a_guest_is_restored_though_the_disk_hangs_in_the_next_kernel(luod: Luod, tmp_path: Path) -> None:
    after, disk = carried(luod, tmp_path)
    vmm = restored(after)
    assert not disk.waiting()

    resuming(vmm)
    finish(vmm)

    assert states(vmm) == {}
    disk.go_on()
    until_on_the_disk(after)
    (one,) = after.luoctl_json("timeline")["timeline"]["sessions"]
    assert one["blackout"] > 0
    after.kill_both()
    after.stop()
    after.start()
    assert states(vmm) == {}


@pytest.mark.usefixtures("disk")
def test_a_guest_is_restored_by_the_next_serve_though_the_disk_hangs(luod: Luod, tmp_path: Path) -> None:
    after, disk = carried(luod, tmp_path)
    after.kill_serve()
    vmm = restored(after)
    after.kill_serve()

    resuming(vmm)
    finish(vmm)

    disk.go_on()
    until_on_the_disk(after)
    (one,) = after.luoctl_json("timeline")["timeline"]["sessions"]
    assert one["retrieved"] <= one["resumed"] <= one["gone"]


@pytest.mark.usefixtures("disk")
def test_h12_no_second_guest_resumes_after_all_of_luod_was_killed_while_the_disk_hung(
    luod: Luod, tmp_path: Path
) -> None:
    after, disk = carried(luod, tmp_path)
    one, two = restored(after), restored(after)
    resuming(one)

    after.kill_both()
    after.stop()
    disk.go_on()
    after.start()

    refused = two.refused("method", method=UPDATES + "Resuming", parameters={"names": ["one"]})
    assert "already" in refused.message
    resuming(one)


def test_a_reload_waits_until_guests_have_resumed_and_the_disk_answers(luod: Luod, tmp_path: Path) -> None:
    """It reads the policy from a disk, and keeps a copy of it in the state directory."""
    policy = tmp_path / "luod.toml"
    policy.write_text("")
    disk = Disk(luod, tmp_path / "disk")
    supervisor = luod.start("--config", str(policy))
    one = Participant(luod, "one")
    frozen(luod, one)
    disk.hang()
    policy.write_text("not a policy")

    luod.machine.signal(luod.supervisor_pid, signal.SIGHUP)
    eventually(lambda: supervisor.stderr.count(" supervisor ready") == 2, describe="serve has taken the signal")

    assert luod.status()["policy_error"] is None
    one.vote("freezing")
    one.expect("jumping", "cancelled")
    assert luod.status()["policy_error"] is None
    disk.go_on()
    eventually(lambda: luod.status()["policy_error"], describe="the policy is read")
