"""The wait for the process that calls reboot(2): nothing but its end means that there is no kexec. No machine.

`gate` and a harmless command are in place of the process that would call reboot(2).
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from luod.daemon.log import Log
from luod.daemon.processes.child import Child
from luod.daemon.updates import reboot_process
from luod.daemon.updates.reboot_process import RebootProcess, until_ended
from luod.ipc.types.phases import Way
from luod.linux import has_ended, pid_of


def started(monkeypatch: pytest.MonkeyPatch, *command: str, way: Way = "direct") -> RebootProcess:
    """Returns a reboot process that executes `command` where reboot(2) or systemctl would be called."""
    monkeypatch.setattr(reboot_process, "Child", lambda *_, **how: Child("luod.daemon.processes.gate", command, **how))
    return RebootProcess(way)


def test_an_error_in_the_wait_is_no_end(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(reboot_process, "_AGAIN_SECONDS", 0.0)
    turns: Iterator[bool | Exception] = iter([OSError(23, "too many open files"), False, ValueError("a defect"), True])
    late: list[str] = []

    async def ended(_seconds: float) -> bool:
        turn = next(turns)
        if isinstance(turn, Exception):
            raise turn
        return turn

    def search() -> None:
        late.append("searched")
        raise OSError(12, "no memory")

    asyncio.run(until_ended(ended, 0.0, search, Log("serve", "error")))

    assert next(turns, None) is None
    assert late == ["searched"]
    assert capfd.readouterr().err.count("jump-not-awaited") == 3


def test_from_its_release_to_its_end_it_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> list[bool]:
        process = started(monkeypatch, "/bin/true")
        seen = [process.under_way]
        process.go(None)
        seen.append(process.under_way)
        assert await process.ended(30.0)
        seen.append(process.under_way)
        await process.close()
        return seen

    assert asyncio.run(body()) == [False, True, False]


def test_it_is_known_when_the_process_waits_at_its_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """From then on it needs no disk."""

    async def body() -> bool | None:
        process = started(monkeypatch, "/bin/false")
        os.kill(pid_of(process.pidfd) or 0, signal.SIGSTOP)
        waiting = asyncio.ensure_future(process.at_gate())
        await asyncio.wait((waiting,), timeout=0.1)
        early = waiting.done()
        os.kill(pid_of(process.pidfd) or 0, signal.SIGCONT)
        await asyncio.wait_for(waiting, 60.0)
        assert not has_ended(process.pidfd)
        await process.close()
        return early

    assert asyncio.run(body()) is False


def test_one_that_was_not_released_is_not_under_way_when_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> bool:
        process = started(monkeypatch, "/bin/false")
        await process.close()
        return process.under_way

    assert asyncio.run(body()) is False


@pytest.mark.parametrize(
    ("way", "report", "answers"),
    [("systemd", "", [True, False]), ("systemd", r"0\tsystemctl kexec\tmasked", []), ("direct", "", [])],
)
def test_systemd_is_asked_after_the_end_of_a_process_that_leaves_no_report(
    monkeypatch: pytest.MonkeyPatch, way: Way, report: str, answers: list[bool]
) -> None:
    """It may have been killed after systemd took its request."""
    monkeypatch.setattr(reboot_process, "_AGAIN_SECONDS", 0.0)
    left = [*answers]
    monkeypatch.setattr("luod.daemon.systemd.units.may_end_kernel", lambda: left.pop(0))

    async def body() -> list[bool]:
        process = started(monkeypatch, "/bin/sh", "-c", f"printf '{report}'; kill -KILL $$", way=way)
        process.go(None)
        seen = []
        for _ in range(max(1, len(answers))):
            seen.append(await process.ended(30.0))
            assert process.under_way is not seen[-1]
        await process.close()
        return seen

    assert asyncio.run(body()) == ([not may_end for may_end in answers] or [True])
    assert left == []
