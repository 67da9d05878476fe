"""Guests of an unmodified QEMU live through live updates: no number is missing or repeated, and the disk agrees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.agents.qemu.carried.host import MORE, Host, counting, newer_qemu, qemu_arguments

UPDATES = 3
GUESTS = 8


@pytest.mark.parametrize("machine_type", ["pc", "q35"])
def test_a_guest_goes_on_with_the_next_number(host: Host, tmp_path: Path, program: str, machine_type: str) -> None:
    guest = counting(tmp_path)
    host.run(guest, program=program, machine=machine_type)
    before = len(guest.numbers())

    host.update()
    assert host.sessions() == {"vm": "waiting", "vm#1": "waiting"}
    host.restore(guest)

    assert guest.assert_nothing_is_lost() > before


def test_three_updates_in_a_row(host: Host, tmp_path: Path) -> None:
    guest = counting(tmp_path)
    host.run(guest)
    for _ in range(UPDATES):
        host.update()
        host.restore(guest)
    assert host.luod.machine.boot == UPDATES + 1
    assert guest.assert_nothing_is_lost() > UPDATES * MORE


def test_a_guest_that_does_nothing_for_a_while_is_carried_too(host: Host, tmp_path: Path) -> None:
    """A second update finds the memory as the first one left it, with nothing written since."""
    guest = counting(tmp_path)
    host.run(guest)
    host.update()
    agent = host.luoctl_qemu("restore", guest.name)
    host.agents[guest.name] = agent
    host.until_it_counts(guest)
    host.update()
    host.restore(guest)
    guest.assert_nothing_is_lost()


def test_eight_guests_in_one_update(host: Host, tmp_path: Path) -> None:
    guests = [counting(tmp_path, f"vm-{number}", mebibytes=16) for number in range(GUESTS)]
    for guest in guests:
        host.run(guest)

    host.update()
    assert set(host.sessions().values()) == {"waiting"}
    host.restore_all(guests)

    for guest in guests:
        guest.assert_nothing_is_lost()


@pytest.mark.parametrize("machine_type", ["pc", "q35"])
def test_a_newer_qemu_takes_the_guest_over_in_the_same_jump(host: Host, tmp_path: Path, machine_type: str) -> None:
    """The machine type's short name is another machine in the newer QEMU: the guest stays on the one it began with."""
    guest = counting(tmp_path)
    host.run(guest, machine=machine_type)
    older = qemu_arguments(host.qemu_pid(guest), host.luod)

    host.update()
    host.restore(guest, "--qemu", newer_qemu())

    newer = qemu_arguments(host.qemu_pid(guest), host.luod)
    assert machine_of(newer) == machine_of(older) != machine_type
    guest.assert_nothing_is_lost()
    host.update()
    host.restore(guest)
    assert newer_qemu() in qemu_arguments(host.qemu_pid(guest), host.luod)
    guest.assert_nothing_is_lost()


def machine_of(arguments: Sequence[str]) -> str:
    """Returns the machine type that QEMU was started with."""
    types = [word.partition("type=")[2].partition(",")[0] for word in arguments if "type=pc" in word]
    assert types, arguments
    return types[-1]
