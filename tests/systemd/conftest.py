"""The machine of these tests: a Debian sid with systemd and luod's packages, on the project's kernel, in QEMU.

`make test-systemd` builds the packages, the kernel and the disk image, and passes the image in LUOD_SYSTEMD_IMAGE.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from luod.testing import eventually
from luod.testing.kernel.machine import KernelMachine

IMAGE: Final = "LUOD_SYSTEMD_IMAGE"
BOOT_SECONDS: Final = 300.0
"""systemd and luod start on emulated processors, on a machine that may be busy."""


class SystemdHost:
    """A machine on which systemd runs luod."""

    def __init__(self, machine: KernelMachine) -> None:
        self.machine = machine

    def sh(self, command: str, *, check: bool = True, seconds: float = 120.0) -> str:
        """Runs a shell command as root, and returns what it printed, errors included."""
        return self.machine.run(["sh", "-c", f"exec 2>&1; {command}"], check=check, timeout=seconds).text

    def write(self, path: str, text: str, *, mode: int = 0o644) -> None:
        """Writes a file of root's, and makes its directory."""
        self.sh(f"mkdir -p {Path(path).parent} && rm -f {path}")
        self.machine.write(path, text.encode(), mode=mode)

    def until(self, command: str, word: str, what: str) -> str:
        """Runs a command until it prints `word`, and returns what it printed. `what` is awaited by that."""

        def printed() -> str:
            said = self.sh(command, check=False)
            return said if word in said else ""

        try:
            return eventually(printed, within=BOOT_SECONDS, describe=f"{what}: `{command}` prints {word!r}")
        except AssertionError as error:
            error.add_note(self.sh(command, check=False))
            error.add_note(self.journal())
            raise

    def until_ready(self) -> None:
        """Waits until luod answers, after a boot."""
        self.until("luoctl status", "state", "luod answers")

    def journal(self) -> str:
        return self.sh("journalctl --boot --no-pager --output short-monotonic | tail -n 60", check=False)


@pytest.fixture(scope="module")
def host() -> Iterator[SystemdHost]:
    """Yields a booted machine, for the tests of a module."""
    image = os.environ.get(IMAGE)
    if image is None or not Path(image).is_file():
        pytest.fail(f"{IMAGE} names no disk image: run `make test-systemd`")
    with KernelMachine(disk=image, timeout=BOOT_SECONDS) as machine:
        host = SystemdHost(machine)
        host.until_ready()
        yield host
