"""Guests of QEMU live through kernel updates: each counts on where it was paused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.agents.qemu import qemus
from tests.agents.qemu.carried.launchers import Launcher, counting_guest, qemu, restore, run, run_all, update
from tests.agents.qemu.monitor import tell
from tests.daemon.host import Luod


def test_a_guest_counts_on_through_three_updates(luod: Luod, tmp_path: Path) -> None:
    guest = counting_guest(tmp_path)
    launcher = run(luod, guest)
    for _ in range(3):
        update(luod, [launcher])
        launcher = restore(luod, guest)
    assert luod.machine.boot == 4
    launcher.counts_on()


def test_eight_guests_are_restored_by_one_command(luod: Luod, tmp_path: Path) -> None:
    guests = [counting_guest(tmp_path, f"vm-{number}") for number in range(8)]
    update(luod, run_all(luod, guests))
    everyone = Launcher(luod, guests[0], "restore", "--all")
    for everyone.guest in guests:
        everyone.says(f"{everyone.guest.name}: takes part in updates")
        everyone.counts_on()


@pytest.mark.parametrize("which", qemus.WHICH)
def test_a_guest_is_continued_by_another_qemu_and_carried_again(luod: Luod, tmp_path: Path, which: str) -> None:
    guest = counting_guest(tmp_path)
    update(luod, [run(luod, guest)])
    launcher = restore(luod, guest, "--qemu", qemus.path(which))
    assert f"of QEMU {qemus.capabilities(which).version}" in launcher.said
    update(luod, [launcher])
    restore(luod, guest).counts_on()


def test_show_has_how_the_guest_was_started(luod: Luod, tmp_path: Path) -> None:
    guest = counting_guest(tmp_path)
    run(luod, guest)
    about = luod.luoctl_json("show", guest.name)["about"]
    assert about["arguments"] == guest.arguments()
    assert about["machine"].startswith("pc-i440fx-")
    assert about["disks"] == [str(guest.disk)]
    assert about["tokens"] == {"ram": 2, "state": 3}
    assert about["program"]["path"] == qemu()


def test_a_unit_starts_a_guest_once_and_continues_it_after_an_update(luod: Luod, tmp_path: Path) -> None:
    guest = counting_guest(tmp_path)
    file = tmp_path / "vm.args"
    file.write_text(f"# the guest of this test\n{qemu()}\n" + "\n".join(f"'{word}'" for word in guest.arguments()))
    command = ("start", guest.name, "--arguments", str(file))
    launcher = Launcher(luod, guest, *command)
    launcher.says("takes part in updates")
    update(luod, [launcher])
    with file.open("a") as opened:
        opened.write("\n-device virtio-rng-pci\n")
    launcher = Launcher(luod, guest, *command)
    launcher.says(
        "stays as it was started, until it is started from the beginning: added: -device driver=virtio-rng-pci"
    )
    launcher.counts_on()
    assert "goes on in this kernel" in launcher.said


def test_a_guest_that_its_owner_paused_is_paused_in_the_next_kernels(luod: Luod, tmp_path: Path) -> None:
    """QEMU 7.2 would end when it saves a guest that was loaded by `late-block-activate` and has not run."""
    guest = counting_guest(tmp_path)
    monitor = tmp_path / "monitor"
    launcher = run(luod, guest, "-monitor", f"unix:{monitor},server=on,wait=off")
    launcher.counts_on()
    tell(monitor, "stop")
    for _ in range(2):
        luod.load()
        luod.update()
        before = guest.assert_nothing_is_lost()
        luod.start()
        launcher = restore(luod, guest)
        assert guest.assert_nothing_is_lost() == before
    tell(monitor, "cont")
    launcher.counts_on()


def test_a_guest_restored_paused_can_be_looked_at_and_restored_again(luod: Luod, tmp_path: Path) -> None:
    guest = counting_guest(tmp_path)
    monitor = tmp_path / "monitor"
    update(luod, [run(luod, guest, "-monitor", f"unix:{monitor},server=on,wait=off")])
    before = guest.assert_nothing_is_lost()
    looking = Launcher(luod, guest, "restore", guest.name, "--paused")
    looking.says("is paused")
    looking.program.kill()
    again = Launcher(luod, guest, "restore", guest.name, "--paused")
    again.says("is paused")
    assert guest.assert_nothing_is_lost() == before
    tell(monitor, "cont")
    again.says("takes part in updates")
    again.counts_on()
