"""A disk that another program lets nobody write to is noticed before the guest is said to run."""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from luod.agents.guests.monitor import taken
from luod.agents.qemu import disk_locks
from luod.errors import QemuEnded, QmpFailed
from luod.linux import Fd

NO_WRITES, WRITES = 201, 101
"""The bytes that QEMU and its tools lock while they let no other program write, and while they write themselves."""


class Monitor:
    """A QEMU with this disk."""

    def __init__(self, disk: Path, *, driver: str = "file", read_only: bool = False) -> None:
        self._answer: Any = [{"node-name": "d", "drv": driver, "file": str(disk), "ro": read_only}]

    async def asked(self, command: str, read: Any, arguments: object = None) -> Any:
        return taken(command, read, self._answer)


class Refusing:
    async def asked(self, command: str, read: Any, arguments: object = None) -> Any:
        raise QmpFailed(command, "unknown")


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_locks, "_PAUSE", 0.0)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(b"\0" * 512)
    return path


@pytest.fixture
def backup(disk: Path) -> Iterator[Fd]:
    with Fd(os.open(disk, os.O_RDWR)) as file:
        yield file


def lock(file: Fd, byte: int, kind: int = fcntl.F_RDLCK) -> None:
    fcntl.fcntl(file.fileno(), fcntl.F_OFD_SETLK, struct.pack("@hhqqi4x", kind, os.SEEK_SET, byte, 1, 0))


def waits(qmp: Any, *arguments: str, ends: bool = False) -> list[str] | None:
    """Returns what the agent says until the guest may run; None if it still waits after some looks."""
    said: list[str] = []
    left = iter(range(3))

    class StillWaits(Exception):
        pass

    def has_ended() -> bool:
        if next(left, None) is None:
            raise StillWaits
        return ends

    try:
        asyncio.run(asyncio.wait_for(disk_locks.free(qmp, arguments, said.append, has_ended), 60))
    except StillWaits:
        assert len(said) == 1
        return None
    return said


@pytest.mark.parametrize("byte", [NO_WRITES, WRITES])
def test_a_guest_waits_while_another_program_writes_to_its_disk_or_lets_nobody_write(
    disk: Path, backup: Fd, byte: int
) -> None:
    lock(backup, byte)
    assert waits(Monitor(disk)) is None
    lock(backup, byte, fcntl.F_UNLCK)
    assert waits(Monitor(disk)) == []


def test_the_operator_is_told_which_disk_it_is(disk: Path, backup: Fd) -> None:
    lock(backup, NO_WRITES)
    said: list[str] = []

    def release() -> bool:
        lock(backup, NO_WRITES, fcntl.F_UNLCK)
        return False

    qmp: Any = Monitor(disk)
    asyncio.run(asyncio.wait_for(disk_locks.free(qmp, (), said.append, release), 60))
    (line,) = said
    assert line.startswith(f"waits, paused: another program has {disk} open and locked.")


def test_a_qemu_that_ends_meanwhile_is_not_waited_for(disk: Path, backup: Fd) -> None:
    lock(backup, NO_WRITES)
    with pytest.raises(QemuEnded, match="before the guest ran"):
        waits(Monitor(disk), ends=True)


@pytest.mark.parametrize(
    "qmp",
    [
        lambda disk: Monitor(disk, read_only=True),
        lambda disk: Monitor(disk, driver="qcow2"),
        lambda disk: Monitor(disk.parent / "gone"),
        lambda disk: Refusing(),
    ],
    ids=["read-only", "not the file itself", "gone", "QEMU does not say"],
)
def test_what_qemu_does_not_lock_is_not_waited_for(disk: Path, backup: Fd, qmp: Any) -> None:
    lock(backup, NO_WRITES)
    assert waits(qmp(disk)) == []


@pytest.mark.parametrize(
    "shared",
    [
        ("-device", "virtio-blk-pci,drive=d,share-rw=on"),
        ("-device", '{"driver":"virtio-blk-pci","drive":"d","share-rw":true}'),
        ("-global", "virtio-blk-pci.share-rw=on"),
    ],
)
def test_a_guest_that_shares_its_disk_does_not_wait_for_others_that_write(
    disk: Path, backup: Fd, shared: tuple[str, ...]
) -> None:
    lock(backup, WRITES)
    assert waits(Monitor(disk), *shared) == []
    lock(backup, NO_WRITES)
    assert waits(Monitor(disk), *shared) is None
