"""The process that writes to the disk in place of serve: no order is waited for longer than its limit. No machine."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from luod.daemon.store.copies import understand_file
from luod.daemon.store.entries import whole
from luod.daemon.store.journal import pack
from luod.daemon.store.journal_file import Journal
from luod.daemon.store.schema import begun_record
from luod.daemon.updates.disk_process import DiskLate, DiskProcess
from luod.errors import Refused
from luod.linux import pid_of

_SECONDS = 60.0
"""For a step that ends, on a busy host."""


def with_process(folder: Path, body: Callable[[DiskProcess], Awaitable[None]]) -> None:
    """Runs `body` with a process for the state directory `folder`, which ends then."""

    async def run() -> None:
        process = DiskProcess(str(folder))
        try:
            await body(process)
        finally:
            assert await process.close(_SECONDS)

    asyncio.run(run())


def send(process: DiskProcess, number: signal.Signals) -> None:
    pid = pid_of(process.pidfd)
    assert pid is not None
    os.kill(pid, number)


def test_the_registrys_file_is_the_log_that_it_was_given(tmp_path: Path) -> None:
    record = begun_record(7, generation=3)

    async def body(process: DiskProcess) -> None:
        for number in (1, 2):
            await process.write(pack(number, whole(record), whole=True), _SECONDS)
        assert process.written
        await process.sync(_SECONDS)

    with_process(tmp_path, body)
    told = understand_file(Journal(str(tmp_path)).read(), "file")
    assert told.record == record
    assert (told.number, told.rest) == (2, False)


def test_what_is_not_done_in_time_is_named_and_no_order_follows(tmp_path: Path) -> None:
    """A stopped process answers as little as one that a disk blocks."""

    async def body(process: DiskProcess) -> None:
        await process.sync(_SECONDS)
        send(process, signal.SIGSTOP)
        with pytest.raises(DiskLate, match=r"sync\(2\) did not end within 0\.2 s"):
            await process.sync(0.2)
        with pytest.raises(DiskLate):
            await process.write(b"", _SECONDS)
        assert not process.written

    with_process(tmp_path, body)


def test_an_order_waits_within_its_limit_for_the_one_before(tmp_path: Path) -> None:
    async def body(process: DiskProcess) -> None:
        await process.sync(_SECONDS)
        send(process, signal.SIGSTOP)
        process.begin_sync()
        with pytest.raises(DiskLate, match=r"sync\(2\) did not end within 0\.2 s"):
            await process.write(b"", 0.2)

    with_process(tmp_path, body)


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    async def body(process: DiskProcess) -> None:
        with pytest.raises(FileNotFoundError, match="gone"):
            await process.write(pack(1, whole(begun_record(1)), whole=True), _SECONDS)
        await process.sync(_SECONDS)

    with_process(tmp_path / "gone", body)


def test_a_process_that_was_killed_is_not_waited_for(tmp_path: Path) -> None:
    async def body(process: DiskProcess) -> None:
        await process.sync(_SECONDS)
        send(process, signal.SIGKILL)
        with pytest.raises(Refused, match="has ended"):
            await process.sync(_SECONDS)

    with_process(tmp_path, body)
