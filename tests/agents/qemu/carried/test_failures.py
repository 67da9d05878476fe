"""Nothing of a guest is lost that was ready, wherever an update, QEMU or the agent ends."""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from luod.linux import Fd
from luod.testing import eventually, require_tool
from luod.testing.host import SOCKET
from luod.testing.machine import Program
from tests.agents.qemu.carried.launchers import MORE, Launcher, counting_guest, qemu, restore, run, update
from tests.agents.qemu.guests import CountingGuest
from tests.agents.qemu.monitor import tell
from tests.daemon.host import Luod, preserve_two, states, until_followed
from tests.daemon.participant import Operator, Participant, begin, start, started_jump

ALICE = 1000


def sessions(luod: Luod) -> dict[str, str]:
    return states(start(luod))


def cancelled_in_preparing(luod: Luod, other: Participant, operator: Operator) -> None:
    other.expect("preparing")
    other.vote("preparing", "veto", "a backup runs")
    operator.until("cancelled")


def cancelled_in_freezing(luod: Luod, other: Participant, operator: Operator) -> None:
    other.expect("preparing")
    other.vote("preparing")
    other.expect("freezing")
    other.vote("freezing", "veto", "its device would not stop")
    operator.until("cancelled")


def cancelled_in_jumping(luod: Luod, other: Participant, operator: Operator) -> None:
    other.expect("preparing")
    other.vote("preparing")
    generation = other.expect("freezing")["generation"]
    other.freeze(generation)
    jump = started_jump(luod)
    luod.machine.signal(jump, signal.SIGSTOP)
    other.vote("freezing")
    other.expect("jumping")
    luod.machine.signal(jump, signal.SIGKILL)
    operator.until("cancelled")


@pytest.mark.parametrize("cancelled", [cancelled_in_preparing, cancelled_in_freezing, cancelled_in_jumping])
def test_after_a_cancelled_update_the_guest_goes_on_in_the_same_qemu_and_the_next_update_carries_it(
    luod: Luod, tmp_path: Path, cancelled: Callable[[Luod, Participant, Operator], None]
) -> None:
    guest = counting_guest(tmp_path)
    launcher = run(luod, guest)
    other = Participant(luod, "other")
    pid = launcher.qemu_pid()
    for _ in range(2):
        cancelled(luod, other, begin(luod))
        other.expect("cancelled")
        launcher.counts_on()
        assert launcher.qemu_pid() == pid
    other.vmm.program.kill()
    other_is_gone(luod)
    update(luod, [launcher])
    restore(luod, guest).counts_on()


def other_is_gone(luod: Luod) -> None:
    luod.luoctl("release", "other")


def test_qemu_killed_ends_its_launcher_and_releases_its_session(luod: Luod, tmp_path: Path) -> None:
    launcher = run(luod, counting_guest(tmp_path))
    luod.machine.signal(launcher.qemu_pid(), signal.SIGKILL)
    assert launcher.ended() == 128 + signal.SIGKILL
    assert sessions(luod) == {}


def test_a_guest_that_ends_ends_its_launcher_with_the_status_of_qemu(luod: Luod, tmp_path: Path) -> None:
    monitor = tmp_path / "monitor"
    launcher = run(luod, counting_guest(tmp_path), "-monitor", f"unix:{monitor},server=on,wait=off")
    tell(monitor, "quit")
    assert launcher.ended() == 0
    assert sessions(luod) == {}


def test_sigterm_ends_the_guest(luod: Luod, tmp_path: Path) -> None:
    launcher = run(luod, counting_guest(tmp_path))
    launcher.program.signal(signal.SIGTERM)
    assert launcher.ended() == 0
    assert sessions(luod) == {}


def test_a_launcher_that_is_killed_leaves_no_qemu_and_the_name_to_the_next(luod: Luod, tmp_path: Path) -> None:
    guest = counting_guest(tmp_path)
    launcher = run(luod, guest)
    pid = launcher.qemu_pid()
    launcher.program.kill()
    eventually(lambda: not luod.machine.signal(pid, 0), describe="QEMU has ended")
    guest.console.unlink()
    run(luod, guest).counts_on()


def test_a_second_launcher_of_a_running_guest_is_refused(luod: Luod, tmp_path: Path) -> None:
    guest = counting_guest(tmp_path)
    launcher = run(luod, guest)
    second = Launcher(luod, guest, "run", "--name", guest.name, "--", qemu(), *guest.arguments())
    assert second.ended() == 4
    assert f"is with process {launcher.program.pid}, which is its agent" in second.said
    launcher.counts_on()


def test_of_two_launchers_that_start_a_guest_at_once_one_starts_no_qemu(luod: Luod, tmp_path: Path) -> None:
    """luod has no session of it yet, and QEMU's locks of the disk do not hold on every storage."""
    guest = counting_guest(tmp_path)
    command = ("start", guest.name, "--arguments", str(written(tmp_path, guest.arguments())))
    both = [Launcher(luod, guest, *command) for _ in range(2)]
    refused = eventually(
        lambda: next((each for each in both if each.program.returncode is not None), None), describe="one has ended"
    )
    (launcher,) = [each for each in both if each is not refused]
    assert refused.ended() == 4
    assert f"is with process {launcher.program.pid}, which is its agent" in refused.said
    launcher.counts_on()


def test_luod_killed_while_the_guest_is_frozen_continues_it_and_the_next_luod_carries_it(
    luod: Luod, tmp_path: Path
) -> None:
    """All of luod, so that only the launcher has the guest's session open."""
    guest = counting_guest(tmp_path)
    launcher = run(luod, guest)
    other = Participant(luod, "other")
    begin(luod)
    other.expect("preparing")
    other.vote("preparing")
    other.expect("freezing")
    launcher.says("frozen")
    luod.kill_both()
    other.vmm.program.kill()
    launcher.counts_on()
    luod.start()
    until_followed(luod, 1)
    update(luod, [launcher])
    restore(luod, guest).counts_on()


def test_a_launcher_killed_while_luod_starts_the_next_kernel_leaves_the_guest_to_it(luod: Luod, tmp_path: Path) -> None:
    guest = counting_guest(tmp_path)
    launcher = run(luod, guest)
    other = Participant(luod, "other")
    operator = begin(luod)
    other.expect("preparing")
    other.vote("preparing")
    other.freeze(other.expect("freezing")["generation"])
    jump = started_jump(luod)
    luod.machine.signal(jump, signal.SIGSTOP)
    other.vote("freezing")
    other.expect("jumping")
    # Until then its death cancels the update.
    operator.until("jumping")
    launcher.says("waits for the next kernel")
    launcher.program.kill()
    with luod.machine.expect_jump():
        luod.machine.signal(jump, signal.SIGCONT)
    guest.assert_nothing_is_lost()
    luod.start()
    restore(luod, guest).counts_on()


def test_qemu_killed_while_its_guest_is_frozen_cancels_the_update(luod: Luod, tmp_path: Path) -> None:
    launcher = run(luod, counting_guest(tmp_path))
    other = Participant(luod, "other")
    operator = begin(luod)
    other.expect("preparing")
    other.vote("preparing")
    other.expect("freezing")
    launcher.says("frozen")
    luod.machine.signal(launcher.qemu_pid(), signal.SIGKILL)
    operator.until("cancelled")
    other.expect("cancelled")
    assert launcher.ended() == 128 + signal.SIGKILL
    assert sessions(luod) == {"outgoing other": "held"}


def test_a_qemu_that_cannot_load_the_state_leaves_it_for_another_try(luod: Luod, tmp_path: Path) -> None:
    guest = counting_guest(tmp_path)
    update(luod, [run(luod, guest)])
    before = guest.assert_nothing_is_lost()
    failing = tmp_path / "failing"
    failing.write_text(f'#!/bin/sh\ncase "$*" in *-incoming*) exit 9;; esac\nexec {qemu()} "$@"\n')
    failing.chmod(0o755)
    for _ in range(2):
        attempt = Launcher(luod, guest, "restore", guest.name, "--qemu", str(failing))
        assert attempt.ended() == 1
        assert "QEMU ended with status 9" in attempt.said
    assert guest.assert_nothing_is_lost() == before
    restore(luod, guest).counts_on()


def test_a_guest_that_waits_is_not_started_from_the_beginning(luod: Luod, tmp_path: Path) -> None:
    guest = counting_guest(tmp_path)
    update(luod, [run(luod, guest)])
    second = Launcher(luod, guest, "run", "--name", guest.name, "--", qemu(), *guest.arguments())
    assert second.ended() == 4
    assert f"luoctl qemu restore {guest.name}" in second.said
    restore(luod, guest).counts_on()


def test_restore_all_leaves_sessions_of_other_programs_to_them(luod: Luod, tmp_path: Path) -> None:
    """`plain` has one session, and `frozen` has two, as a guest has."""
    guest = counting_guest(tmp_path)
    launcher = run(luod, guest)
    plain, frozen = Participant(luod, "plain"), Participant(luod, "frozen")
    launcher.counts_on()
    begin(luod)
    for other in (plain, frozen):
        other.expect("preparing")
        other.vote("preparing")
    generation = frozen.expect("freezing")["generation"]
    frozen.freeze(generation)
    with luod.machine.expect_jump():
        for other in (plain, frozen):
            other.vote("freezing")
    luod.start()

    everyone = Launcher(luod, guest, "restore", "--all")

    everyone.says("frozen: is no guest of QEMU, and is left to its own program")
    everyone.says("vm: takes part in updates")
    assert sessions(luod)["incoming plain"] == "waiting"
    assert sessions(luod)[f"incoming frozen#{generation}"] == "waiting"
    eventually(
        lambda: [shown["process"] for shown in luod.answers("show", "frozen")] == [None, None],
        describe="no process has the sessions of frozen",
    )
    assert not everyone.program.returncode
    everyone.counts_on()


def test_root_restores_and_releases_no_guest_of_another_user(luod: Luod, tmp_path: Path) -> None:
    """A session says which program restores it."""
    guest = counting_guest(tmp_path)
    preserve_two(luod, ALICE)
    first = Launcher(luod, guest, "run", "--name", guest.name, "--", qemu(), *guest.arguments())
    assert (first.ended(), sessions(luod)) == (4, {"outgoing vm": "held", "outgoing other": "held"})
    luod.jump()
    waiting = {"incoming vm": "waiting", "incoming other": "waiting"}
    one = Launcher(luod, guest, "restore", guest.name)
    assert one.ended() == 4
    assert f"is of the user with uid {ALICE}" in one.said
    assert sessions(luod) == waiting
    assert Launcher(luod, guest, "restore", "--all").ended() == 0
    assert sessions(luod) == waiting


def test_a_guest_whose_launcher_was_killed_after_it_ran_has_ended(luod: Luod, tmp_path: Path) -> None:
    guest = counting_guest(tmp_path)
    update(luod, [run(luod, guest)])
    launcher = restore(luod, guest)
    launcher.program.kill()
    second = Launcher(luod, guest, "restore", guest.name)
    assert second.ended() == 7
    assert "left no session of vm" in second.said


def test_a_guest_that_another_agent_has_is_neither_restored_nor_started(luod: Luod, tmp_path: Path) -> None:
    """Also one that is paused: `cont` at its own monitor would make it the second guest on the same memory."""
    guest = counting_guest(tmp_path)
    monitor = tmp_path / "monitor"
    command = [*guest.arguments(), "-monitor", f"unix:{monitor},server=on,wait=off"]
    update(luod, [run(luod, guest, *command[-2:])])
    before = guest.assert_nothing_is_lost()
    first = Launcher(luod, guest, "restore", guest.name, "--paused")
    first.says("is paused")
    file = written(tmp_path, command)

    for action in (
        ("restore", guest.name),
        ("restore", guest.name, "--paused"),
        ("start", guest.name, "--arguments", str(file)),
        ("run", "--name", guest.name, "--", qemu(), *command),
    ):
        second = Launcher(luod, guest, *action)
        assert second.ended() == 4, action
        assert f"is with process {first.program.pid}, which is its agent" in second.said
    assert guest.assert_nothing_is_lost() == before
    tell(monitor, "cont")
    first.says("takes part in updates")
    first.counts_on()


RESUMED = """
import signal, sys
from luod.client import Client
with Client(sys.argv[1]) as client:
    client.restore("vm").resume()
    print("resumed", file=sys.stderr, flush=True)
    signal.pause()
"""


def test_a_guest_that_another_program_resumed_is_started_again_only_after_its_end(luod: Luod, tmp_path: Path) -> None:
    guest = counting_guest(tmp_path)
    update(luod, [run(luod, guest)])
    python = luod.python()
    other = luod.machine.spawn([python.executable, "-c", RESUMED, SOCKET], env=python.environment, forked=True)
    eventually(lambda: "resumed" in other.stderr, describe="the other program resumed the guest")
    start_it = ("start", guest.name, "--arguments", str(written(tmp_path, guest.arguments())))
    resumed = {f"incoming {guest.name}": "resumed", f"incoming {guest.name}#1": "resumed"}

    refused = Launcher(luod, guest, *start_it)
    assert (refused.ended(), sessions(luod)) == (4, resumed)
    assert f"is with process {other.pid}" in refused.said

    other.kill()
    guest.console.unlink()
    again = Launcher(luod, guest, *start_it)
    again.says("is lost, and starts from the beginning")
    again.says("takes part in updates")
    again.counts_on()


def written(folder: Path, arguments: Sequence[str]) -> Path:
    """Returns a file with the command line of a unit's guest."""
    file = folder / "vm.args"
    file.write_text(shlex.join([qemu(), *arguments]))
    return file


def test_a_balloon_that_was_plugged_in_is_a_veto_that_names_it(luod: Luod, tmp_path: Path) -> None:
    monitor = tmp_path / "monitor"
    launcher = run(luod, counting_guest(tmp_path), "-monitor", f"unix:{monitor},server=on,wait=off")
    tell(monitor, "device_add virtio-balloon-pci,id=b")
    operator = begin(luod)
    assert "virtio-balloon-pci" in operator.until("cancelled")["reason"]
    launcher.counts_on()


def test_a_device_that_was_plugged_in_after_preparing_is_a_veto_and_the_guest_goes_on(
    luod: Luod, tmp_path: Path
) -> None:
    monitor = tmp_path / "monitor"
    launcher = run(luod, counting_guest(tmp_path), "-monitor", f"unix:{monitor},server=on,wait=off")
    other = Participant(luod, "other")
    operator = begin(luod)
    other.expect("preparing")
    until_ready(operator)
    tell(monitor, "device_add virtio-rng-pci,id=r")
    other.vote("preparing")
    assert "the device r (virtio-rng-pci) was plugged in" in operator.until("cancelled")["reason"]
    launcher.counts_on()


@pytest.mark.parametrize(
    ("phase", "words"),
    [
        ("preparing", "QEMU did not say whether its guest can be carried within"),
        ("freezing", "QEMU did not pause the guest within"),
    ],
)
def test_a_qemu_that_hangs_is_a_veto_with_words_and_the_guest_goes_on(
    luod: Luod, tmp_path: Path, phase: str, words: str
) -> None:
    launcher = run(luod, counting_guest(tmp_path))
    other = Participant(luod, "other")
    if phase == "preparing":
        luod.machine.signal(launcher.qemu_pid(), signal.SIGSTOP)
    operator = begin(luod, deadline=4)
    other.expect("preparing")
    if phase == "freezing":
        until_ready(operator)
        luod.machine.signal(launcher.qemu_pid(), signal.SIGSTOP)
    other.vote("preparing")
    assert words in operator.until("cancelled")["reason"]
    luod.machine.signal(launcher.qemu_pid(), signal.SIGCONT)
    launcher.counts_on()


def test_a_session_that_luod_lost_is_created_again_and_the_operator_is_told(luod: Luod, tmp_path: Path) -> None:
    guest = counting_guest(tmp_path)
    launcher = run(luod, guest)
    luod.kill_both()
    luod.machine.run(["rm", "-r", luod.state_directory])
    luod.start()
    launcher.says("has a new session, since luod had lost the last")
    assert luod.luoctl_json("show", guest.name)["about"]["sessions_lost"] == 1
    update(luod, [launcher])
    restore(luod, guest).counts_on()


def until_ready(operator: Operator) -> None:
    """Waits until the guest is ready in preparing."""
    told = operator.until("preparing")
    while not any((each["name"], each["standing"]) == ("vm", "ready") for each in told["participants"]):
        told = operator.next() or {}


def test_a_command_line_that_cannot_be_carried_starts_nothing(luod: Luod, tmp_path: Path) -> None:
    guest = counting_guest(tmp_path)
    command = [qemu(), *guest.arguments(), "-device", "virtio-balloon-pci"]
    launcher = Launcher(luod, guest, "run", "--name", guest.name, "--", *command)
    assert launcher.ended() == 4
    assert "hint:" in launcher.said
    assert guest.numbers() == []
    assert sessions(luod) == {}


def test_a_guest_that_was_carried_over_is_not_started_from_the_beginning(luod: Luod, tmp_path: Path) -> None:
    guest = counting_guest(tmp_path)
    update(luod, [run(luod, guest)])
    luod.luoctl("carry-over", guest.name)

    refused = Launcher(luod, guest, "run", "--name", guest.name, "--", qemu(), *guest.arguments())

    assert refused.ended() == 4
    assert "was carried over" in refused.said
    assert set(states(start(luod))) == {f"outgoing {guest.name}", f"outgoing {guest.name}#1"}


def test_a_restored_guest_whose_disk_is_locked_waits_and_its_session_is_kept_meanwhile(
    luod: Luod, tmp_path: Path
) -> None:
    """Another program holds the image, such as a backup. The guest did not run, so that another QEMU may have it."""
    guest = counting_guest(tmp_path)
    update(luod, [run(luod, guest)])
    before = guest.assert_nothing_is_lost()
    backup = locked(luod, guest)
    retrieved = {f"incoming {guest.name}": "retrieved", f"incoming {guest.name}#1": "retrieved"}

    first = Launcher(luod, guest, "restore", guest.name)
    first.says(f"waits, paused: another program has {guest.disk} open")
    luod.machine.signal(first.qemu_pid(), signal.SIGKILL)
    assert (first.ended(), sessions(luod)) == (1, retrieved)

    launcher = Launcher(luod, guest, "restore", guest.name)
    launcher.says(f"waits, paused: another program has {guest.disk} open")
    assert guest.assert_nothing_is_lost() == before
    backup.kill()
    launcher.says("takes part in updates")
    launcher.counts_on()
    update(luod, [launcher])
    restore(luod, guest).counts_on()


def test_a_restored_guest_that_qemu_refuses_to_continue_waits_in_its_qemu_until_it_does_not(
    luod: Luod, tmp_path: Path
) -> None:
    """Another program has a lock on the disk that the agent does not look for. luod's copy is used up by then."""
    guest = counting_guest(tmp_path)
    update(luod, [run(luod, guest)])
    before = guest.assert_nothing_is_lost()
    with Fd(os.open(guest.disk, os.O_RDWR)) as file:
        forbids_reads = struct.pack("@hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 200, 1, 0)
        fcntl.fcntl(file.fileno(), fcntl.F_OFD_SETLK, forbids_reads)
        launcher = restore(luod, guest)
        assert "Failed to get" in launcher.said
        assert "it stays paused, and this is tried again" in launcher.said
        assert guest.assert_nothing_is_lost() == before
        operator = begin(luod)
        assert "it is paused, and cannot be continued" in operator.until("cancelled")["reason"]
        upgraded = luod.luoctl("qemu", "upgrade", guest.name, "--qemu", qemu(), check=False)
        assert b"it is paused, and cannot be continued" in upgraded.stderr

    launcher.says("goes on: QEMU continues it now")
    launcher.counts_on()
    update(luod, [launcher])
    restore(luod, guest).counts_on()


def locked(luod: Luod, guest: CountingGuest) -> Program:
    """Returns a program that has the guest's disk open, and lets no other write to it."""
    qemu_io = require_tool("qemu-io", package="qemu-utils")
    commands = guest.folder / "commands"
    os.mkfifo(commands)
    program = luod.machine.spawn(["sh", "-c", f"exec {qemu_io} -f raw {guest.disk} 0<>{commands}"])
    eventually(lambda: locks(guest.disk), describe="qemu-io has locked the disk")
    return program


def locks(path: Path) -> bool:
    """Returns whether a process has a lock on the file."""
    number = f":{path.stat().st_ino} "
    return any(number in line for line in Path("/proc/locks").read_text().splitlines())


def test_a_frozen_guest_whose_disk_is_locked_goes_on_after_a_cancelled_update_when_it_is_not(
    luod: Luod, tmp_path: Path
) -> None:
    """QEMU gives its locks up as soon as it has written the state."""
    guest = counting_guest(tmp_path)
    launcher = run(luod, guest)
    other = Participant(luod, "other")
    operator = begin(luod)
    other.expect("preparing")
    other.vote("preparing")
    other.expect("freezing")
    launcher.says("frozen, with")
    backup = locked(luod, guest)
    other.vote("freezing", "veto", "its device would not stop")
    operator.until("cancelled")
    launcher.says("cannot be continued")
    before = guest.assert_nothing_is_lost()

    backup.kill()
    launcher.says("goes on: QEMU continues it now")
    assert launcher.counts_on() > before


def test_a_guest_that_runs_waits_for_a_luod_that_was_killed_and_takes_part_again(luod: Luod, tmp_path: Path) -> None:
    guest = counting_guest(tmp_path)
    monitor = tmp_path / "monitor"
    update(luod, [run(luod, guest, "-monitor", f"unix:{monitor},server=on,wait=off")])
    launcher = Launcher(luod, guest, "restore", guest.name, "--paused")
    launcher.says("is paused")
    luod.kill_both()
    tell(monitor, "cont")
    launcher.says("waits for luod, which has to record that the guest goes on")
    launcher.counts_on()
    luod.start()
    launcher.says("takes part in updates")
    update(luod, [launcher])
    restore(luod, guest).counts_on()


def test_an_agent_whose_lines_cannot_be_printed_carries_its_guest(luod: Luod, tmp_path: Path) -> None:
    guest = counting_guest(tmp_path)
    python = luod.python()
    arguments = ["qemu", "run", "--name", guest.name, "--", qemu(), *guest.arguments()]
    command = shlex.join(python.module("luod.ctl.main", *arguments))
    luod.machine.spawn(
        ["sh", "-c", f"exec {command} 2>/dev/full"], env={**python.environment, "PATH": os.environ["PATH"]}
    )
    until_followed(luod, 1)
    eventually(lambda: len(guest.numbers()) > MORE, describe="the guest counts")
    luod.load()
    luod.update()
    luod.start()
    restore(luod, guest).counts_on()
