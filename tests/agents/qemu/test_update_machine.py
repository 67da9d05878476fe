"""A guest of QEMU lives through a kernel update: it counts on where it was paused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from luod.testing import Host, Machine, eventually
from luod.testing.machine import Program
from tests.agents.qemu.guests import CountingGuest


class Guests:
    """luoctl's part: guests that it runs or restores in a machine."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def luoctl(self, *arguments: str) -> Program:
        python = self.host.python()
        path = {"PATH": os.environ["PATH"]}
        return self.host.machine.spawn(
            python.module("luod.ctl.main", "qemu", *arguments), env={**python.environment, **path}
        )

    def run(self, guest: CountingGuest) -> Program:
        return self.luoctl("run", "--name", guest.name, "--", "qemu-system-x86_64", *guest.arguments())


def counts_past(guest: CountingGuest, number: int, program: Program) -> None:
    _seen(lambda: len(guest.numbers()) > number, f"{guest.name} counts past {number}", program)


def takes_part(program: Program) -> None:
    _seen(lambda: "takes part" in program.stderr, "the guest takes part in updates", program)


def _seen(check: Callable[[], bool], what: str, program: Program) -> None:
    try:
        eventually(check, describe=what, within=30)
    except AssertionError as error:
        raise AssertionError(f"{error}; its launcher printed: {program.stderr}") from None


def test_a_guest_counts_on_through_three_updates(machine: Machine, tmp_path: Path) -> None:
    host = Host(machine, state_directory=tmp_path / "luod")
    guest = CountingGuest("vm", tmp_path)
    guest.make_disk()
    host.start()
    program = Guests(host).run(guest)
    for _ in range(3):
        takes_part(program)
        counts_past(guest, guest.assert_nothing_is_lost() + 20, program)
        host.load()
        host.update(ignore=())
        before = guest.assert_nothing_is_lost()
        host.start()
        program = Guests(host).luoctl("restore", guest.name)
        counts_past(guest, before, program)
    takes_part(program)
    guest.assert_nothing_is_lost()
