"""`luoctl qemu` in a machine: launchers of guests, seen from outside."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from luod.testing import eventually, require_tool
from luod.testing.machine import Program
from tests.agents.qemu.guests import CountingGuest
from tests.daemon.host import Luod

MORE = 5
"""How many numbers a guest counts on before a test goes on."""


def qemu() -> str:
    """Returns the path of the QEMU of this machine."""
    return require_tool("qemu-system-x86_64", package="qemu-system-x86")


class Launcher:
    """A launcher of the guest, which ends with the boot of its machine at the latest."""

    def __init__(self, luod: Luod, guest: CountingGuest, *arguments: str) -> None:
        python = luod.python()
        self.luod = luod
        self.guest = guest
        self.program: Program = luod.machine.spawn(
            python.module("luod.ctl.main", "qemu", *arguments),
            env={**python.environment, "PATH": os.environ["PATH"]},
            forked=True,
        )

    @property
    def said(self) -> str:
        return self.program.stderr

    def says(self, text: str) -> None:
        """Waits until it has said this."""
        self._seen(lambda: text in self.said, f"says {text!r}")

    def counts_on(self) -> int:
        """Waits until the guest has counted on for a while. Returns the last number, after none was lost."""
        before = len(self.guest.numbers())
        self._seen(lambda: len(self.guest.numbers()) >= before + MORE, f"counts past {before + MORE}")
        return self.guest.assert_nothing_is_lost()

    def ended(self) -> int:
        """Waits for its end. Returns its exit status."""
        return self.program.wait(timeout=60)

    def qemu_pid(self) -> int:
        pid = self.program.pid
        (child,) = self.luod.machine.read(f"/proc/{pid}/task/{pid}/children").split()
        return int(child)

    def _seen(self, check: Callable[[], bool], what: str) -> None:
        try:
            eventually(check, describe=f"{self.guest.name} {what}")
        except AssertionError as error:
            raise AssertionError(f"{error}; its launcher said: {self.said}") from None


def counting_guest(folder: Path, name: str = "vm") -> CountingGuest:
    """Returns a guest with a disk, in a folder of its own."""
    (folder / name).mkdir()
    guest = CountingGuest(name, folder / name)
    guest.make_disk()
    return guest


def run(luod: Luod, guest: CountingGuest, *more: str, program: str | None = None) -> Launcher:
    """Starts the guest, and returns when it takes part in updates."""
    launcher = _start(luod, guest, [program or qemu(), *guest.arguments(), *more])
    launcher.says("takes part in updates")
    return launcher


def run_all(luod: Luod, guests: Sequence[CountingGuest]) -> list[Launcher]:
    """Starts the guests at the same time, and returns when all take part in updates."""
    launchers = [_start(luod, guest, [qemu(), *guest.arguments()]) for guest in guests]
    for launcher in launchers:
        launcher.says("takes part in updates")
    return launchers


def _start(luod: Luod, guest: CountingGuest, command: Sequence[str]) -> Launcher:
    return Launcher(luod, guest, "run", "--name", guest.name, "--", *command)


def restore(luod: Luod, guest: CountingGuest, *options: str) -> Launcher:
    """Restores the guest, and returns when it takes part in updates."""
    launcher = Launcher(luod, guest, "restore", guest.name, *options)
    launcher.says("takes part in updates")
    return launcher


def update(luod: Luod, launchers: Sequence[Launcher]) -> None:
    """Does an update, after the guests have counted on, and starts luod in the next kernel."""
    for launcher in launchers:
        launcher.counts_on()
    luod.load()
    luod.update()
    luod.start()
