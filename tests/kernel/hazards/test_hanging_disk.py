"""A disk that hangs for real: a process that writes to it can be neither killed nor waited for (H16, H30)."""

from __future__ import annotations

from pathlib import Path
from time import monotonic

from luod.daemon.updates import disk_writes
from luod.testing import Machine, eventually
from tests.daemon.host import Luod, states
from tests.daemon.participant import UPDATES, Participant, begin, jump_with, prepare, start

_DISKS = """
set -e
for name in lower upper; do mkdir -p /run/$name; done
truncate -s 64M /run/image && mkfs.ext4 -q /run/image
mount -o loop /run/image /run/lower
truncate -s 16M /run/lower/image && mkfs.ext4 -q /run/lower/image
mount -o loop /run/lower/image /run/upper
sync
"""
_HANG = "fsfreeze -f /run/lower && dd if=/dev/zero of=/run/upper/dirty bs=64k count=4 status=none"
_GO_ON = "fsfreeze -u /run/lower"
_STATE_DIRECTORY = "/run/lower/state"
_FROZEN_STATE = f"""
set -e
mkdir /run/lower
truncate -s 64M /run/image && mkfs.ext4 -q /run/image
mount -o loop /run/image /run/lower
install -d -m 0700 {_STATE_DIRECTORY} && install -m 0600 /dev/null {_STATE_DIRECTORY}/lock
fsfreeze -f /run/lower
"""
"""Makes a state directory that a luod has used before, and to which each write hangs."""
_SLACK_SECONDS = 60.0
"""For an emulated processor, beyond luod's own limit."""


def test_guests_resume_though_sync_never_returns(shared: Machine, tmp_path: Path) -> None:
    """A write to a file system of which the disk is a file of a frozen file system waits until that is thawed."""
    shared.run(["sh", "-c", _DISKS])
    luod = Luod(shared, state_directory=tmp_path / "state")
    luod.start()
    one = Participant(luod, "one")
    operator = begin(luod)
    prepare(one)
    one.freeze(one.expect("freezing")["generation"])
    shared.run(["sh", "-c", _HANG])
    began = monotonic()

    one.vote("freezing")
    cancelled = one.expect("jumping", "cancelled")

    assert monotonic() - began < disk_writes._SYNC_SECONDS + _SLACK_SECONDS
    assert cancelled["reason"] == f"sync(2) did not end within {disk_writes._SYNC_SECONDS:g} s"
    assert operator.until("cancelled")["reason"] == cancelled["reason"]
    assert luod.luoctl_json("timeline")["timeline"]["reason"] == cancelled["reason"]
    (problem,) = luod.status()["state_directory"]
    assert "sync(2), has not ended" in problem["what"]
    shared.run(["sh", "-c", _GO_ON])
    eventually(lambda: luod.status()["state_directory"] == [], describe="the process in sync(2) ends")
    operator.update()
    prepare(one)
    one.freeze(one.expect("freezing")["generation"])
    jump_with(luod, one)


def test_guests_are_restored_though_no_write_to_the_state_directory_returns(machine: Machine, tmp_path: Path) -> None:
    luod = Luod(machine, state_directory=tmp_path / "state")
    luod.start()
    one = Participant(luod, "one")
    begin(luod)
    prepare(one)
    one.freeze(one.expect("freezing")["generation"])
    with machine.expect_jump():
        one.vote("freezing")
    machine.run(["sh", "-c", _FROZEN_STATE])
    after = Luod(machine, state_directory=Path(_STATE_DIRECTORY))

    after.start()
    vmm = start(after)
    for name in ("one", "one#1"):
        vmm.call("retrieve_session", name=name, slot=name)
    vmm.call("method", method=UPDATES + "Resuming", parameters={"names": ["one"]})

    machine.run(["sh", "-c", _GO_ON])
    assert states(vmm) == {"incoming one": "resumed", "incoming one#1": "resumed"}
    for name in ("one#1", "one"):
        vmm.call("finish", session=name, discard=True)
    registry = f"{_STATE_DIRECTORY}/registry"
    eventually(
        lambda: machine.run(["cat", registry], check=False).stdout, describe="the state directory has a registry"
    )
