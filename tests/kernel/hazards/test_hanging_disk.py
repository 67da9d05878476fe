"""A disk that hangs for real: sync(2) does not return, and its process can be neither killed nor waited for (H16)."""

from __future__ import annotations

from pathlib import Path
from time import monotonic

from luod.daemon.updates import disk_writes
from luod.testing import Machine, eventually
from tests.daemon.host import Luod
from tests.daemon.participant import Participant, begin, jump_with, prepare

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
