"""What an update has done to a host is tried to be undone until it is undone, and shown until then. No machine.

`systemctl` is a program here, which refuses to start a unit, or tells that it has failed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from luod import kexec
from luod.daemon.log import Log
from luod.daemon.store.write_hold import WriteHold
from luod.daemon.systemd.units import STARTING, not_running
from luod.daemon.updates import undo
from luod.daemon.updates.undo import Undo
from luod.errors import KernelRefused
from luod.testing.waiting import eventually_async

BOOT = "11111111-2222-3333-4444-555555555555"
_SYSTEMCTL = """#!/bin/sh
folder={folder}
case "$*" in *start*.service*) echo "$*" >>$folder/started ;; esac
case "$*" in
*start*masked.service*) [ -e $folder/unmasked ] || {{ echo "Unit masked.service is masked." >&2; exit 1; }} ;;
show*)
    while [ "$1" != -- ]; do shift; done
    shift
    for unit; do
        state=$(cat "$folder/$unit" 2>/dev/null || echo active)
        printf 'Id=%s\\nActiveState=%s\\nResult=exit-code\\n\\n' "$unit" "$state"
    done ;;
esac
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "systemctl").write_text(_SYSTEMCTL.format(folder=tmp_path))
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def run(folder: Path, body: Callable[[Undo], Awaitable[None]], *, idle: Callable[[], bool] = lambda: True) -> None:
    async def main() -> None:
        done = Undo(str(folder), BOOT, Log("serve", "debug"), idle, WriteHold())
        try:
            async with asyncio.timeout(30):
                await body(done)
        finally:
            done.close()

    asyncio.run(main())


def recorded(folder: Path) -> list[str]:
    """Returns the units that another luod would start."""
    path = folder / "update-undo"
    return list(json.loads(path.read_text())["units"]) if path.exists() else []


async def until_undone(done: Undo) -> None:
    await eventually_async(lambda: not done.needed, within=30, describe="everything is undone")


def test_a_unit_that_does_not_start_again_is_kept_shown_and_tried_until_it_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(undo, "_AGAIN_SECONDS", 0.05)
    (folder / "db.service").write_text("failed")

    async def body(done: Undo) -> None:
        done.stops(["db.service", "web.service", "masked.service"])
        await done.undo()
        assert recorded(folder) == ["db.service", "masked.service"]
        assert [(each.path, each.what) for each in done.left] == [
            ("db.service", "it has failed (exit-code)"),
            ("masked.service", "Unit masked.service is masked."),
        ]
        assert "systemctl status db.service" in done.left[0].remedy

        (folder / "db.service").write_text("active")
        (folder / "unmasked").touch()
        await until_undone(done)
        assert done.left == ()

    run(folder, body)
    assert not (folder / "update-undo").exists()
    said = capfd.readouterr().err
    assert said.count("units-left") >= 1
    assert "undone" in said


def test_a_unit_that_systemd_has_yet_to_start_is_started_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator who stops it meanwhile does not find it started again."""
    monkeypatch.setattr(undo, "_AGAIN_SECONDS", 0.05)
    (folder / "slow.service").write_text("deactivating\nJob=7")

    async def body(done: Undo) -> None:
        done.stops(["slow.service"])
        await done.undo()
        assert done.needed
        assert done.left == ()

        (folder / "slow.service").write_text("inactive")  # stopped by another
        await until_undone(done)

    run(folder, body)
    assert (folder / "started").read_text().count("slow.service") == 1


def test_units_that_are_left_are_not_forgotten_by_the_next_update(folder: Path) -> None:
    (folder / "db.service").write_text("failed")

    async def body(done: Undo) -> None:
        done.stops(["db.service"])
        await done.undo()

        done.stops(["web.service"])

        assert recorded(folder) == ["db.service", "web.service"]

    run(folder, body)


def test_a_luod_that_starts_in_this_boot_finds_what_is_left(folder: Path) -> None:
    (folder / "db.service").write_text("failed")

    async def first(done: Undo) -> None:
        done.stops(["db.service"])
        await done.undo()

    async def second(done: Undo) -> None:
        assert done.needed
        await done.undo()
        assert [each.path for each in done.left] == ["db.service"]

    run(folder, first)
    run(folder, second)


def test_nothing_is_tried_while_an_update_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(undo, "_AGAIN_SECONDS", 0.02)
    (folder / "db.service").write_text("failed")
    asked: list[bool] = []

    def idle() -> bool:
        asked.append(True)
        return False

    async def body(done: Undo) -> None:
        done.stops(["db.service"])
        await done.undo()
        (folder / "db.service").write_text("active")
        await eventually_async(lambda: len(asked) >= 3, within=30, describe="it has asked three times")
        assert done.needed

    run(folder, body, idle=idle)


def test_an_image_that_stays_loaded_is_kept_shown_and_tried_until_it_is_unloaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel answers EBUSY while another process loads one."""
    monkeypatch.setattr(undo, "_AGAIN_SECONDS", 0.05)
    refusals = [KernelRefused(16, "kexec_file_load", "another kexec call runs")] * 2

    def unload() -> None:
        if refusals:
            raise refusals.pop()

    monkeypatch.setattr(kexec, "loaded", lambda: True)
    monkeypatch.setattr(kexec, "unload", unload)

    async def body(done: Undo) -> None:
        done.loads()
        await done.undo()
        (left,) = done.left
        assert left.what == "the image is still loaded: kexec_file_load: another kexec call runs"
        assert "kexec --unload" in left.remedy
        assert json.loads((folder / "update-undo").read_text())["image"] is True

        await until_undone(done)
        assert done.left == ()

    run(folder, body)


def test_a_unit_that_is_being_started_is_no_failure_and_is_looked_at_again(folder: Path) -> None:
    said = (
        "Id=a.service\nActiveState=inactive\nResult=success\nJob=12\n\nId=b.service\nActiveState=activating\nJob=13\n"
    )

    assert not_running(said) == {"a.service": STARTING, "b.service": STARTING}


def test_a_unit_that_ran_to_its_end_has_run() -> None:
    assert (
        not_running("Id=once.service\nActiveState=inactive\nResult=success\n\nId=db.service\nActiveState=active\n")
        == {}
    )


def test_what_is_to_be_undone_during_a_hold_is_found_by_the_next_serve(folder: Path) -> None:
    """It would take its own image for one of another process by an old count of loads, and leave it (H13)."""
    (folder / "run").mkdir()

    async def main() -> None:
        hold = WriteHold(str(folder / "run"))

        def begun() -> Undo:
            return Undo(str(folder), BOOT, Log("serve", "error"), lambda: True, hold)

        begun().loads()
        first = begun()
        hold.begin()
        first.loaded(7)
        first.stops(["db.service"])

        assert begun()._done == first._done
        assert recorded(folder) == []
        hold.end()
        assert recorded(folder) == ["db.service"]
        assert list((folder / "run").iterdir()) == []

    asyncio.run(main())
