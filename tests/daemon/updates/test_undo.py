"""What a cancelled update leaves on the machine: no image, and nothing to undo for the next luod."""

from __future__ import annotations

import signal
from pathlib import Path

from luod.testing import eventually
from tests.daemon.host import Luod, until_loaded
from tests.daemon.participant import Participant, begin, prepare

LOADED = "/sys/kernel/kexec_loaded"
_LOAD = """
import sys
from luod import kexec
with open(sys.argv[1], "rb") as kernel:
    kexec.load(kernel, None, "")
"""


def until_unloaded(luod: Luod) -> None:
    eventually(lambda: luod.machine.read(LOADED).strip() == b"0", describe="no image is loaded")


def left(luod: Luod) -> bool:
    """Returns whether there is something to undo for another luod."""
    return (Path(luod.state_directory) / "update-undo").exists()


def test_h13_a_cancelled_update_leaves_no_image_that_a_reboot_would_start(luod: Luod) -> None:
    one = Participant(luod, "one")
    operator = begin(luod)
    prepare(one)
    one.expect("freezing")
    until_loaded(luod)

    one.vote("freezing", "veto", "the guest does not stop")
    operator.until("cancelled")

    assert luod.machine.read(LOADED).strip() == b"0"
    assert not left(luod)
    assert luod.status()["kernel_loaded"] is True  # luod has the files, and the next update loads them again


def test_the_next_update_after_that_works(luod: Luod) -> None:
    one = Participant(luod, "one")
    operator = begin(luod)
    one.expect("preparing")
    one.vote("preparing", "veto", "not now")
    operator.until("cancelled")
    one.expect("cancelled")

    operator.update()
    prepare(one)
    one.expect("freezing")
    with luod.machine.expect_jump():
        one.vote("freezing")


def test_a_luod_that_starts_unloads_what_the_update_of_a_killed_one_had_loaded(luod: Luod) -> None:
    one = Participant(luod, "one")
    begin(luod)
    one.expect("preparing")
    until_loaded(luod)
    assert left(luod)

    luod.machine.signal(luod.serve_pid(), signal.SIGKILL)

    until_unloaded(luod)
    eventually(lambda: not left(luod), describe="nothing is left to undo")


def test_an_image_that_another_process_loaded_meanwhile_stays(luod: Luod) -> None:
    one = Participant(luod, "one")
    operator = begin(luod)
    one.expect("preparing")
    until_loaded(luod)
    luod.run_source(_LOAD, luod.machine.kernel)

    one.vote("preparing", "veto", "not now")
    operator.until("cancelled")

    assert luod.machine.read(LOADED).strip() == b"1"


def test_without_systemd_its_way_is_refused_before_anybody_is_asked(luod: Luod) -> None:
    luod.load()

    result = luod.luoctl("update", "--systemd", check=False)

    assert result.returncode == 4
    assert "systemd does not run this machine" in result.stderr.decode()
    assert luod.status()["state"] == "idle"
    assert luod.status()["way"] == "direct"
