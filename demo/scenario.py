"""The main job, from outside a machine: VMMs keep their memory, and a device, over live updates by luod.

`run` takes any machine of `luod.testing` that has booted, and reports each step through `tell`. The demo and a test use
it. It raises AssertionError with the difference when a byte is lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luod.errors import MachineError
from luod.testing import Host, Machine, Program
from luod.testing.host import SOCKET
from luod.testing.interpreter import interpreter_for

Tell = Callable[[str], None]
Answer = dict[str, Any]
"""An answer of `demo.vmm`."""
DEVICES = "/sys/bus/pci/devices"
PACKAGE = Path(__file__).resolve().parent
"""The package, for the interpreters in the machine."""


@dataclass(frozen=True)
class Guest:
    """A VMM of the story. `uid` None is that of the machine's init. `device` is the address of its device."""

    name: str
    uid: int | None
    device: str | None = None


@dataclass(frozen=True)
class Outcome:
    """The measurements of a run of the scenario. Times in seconds."""

    guests: int
    bytes_carried: int
    updates: int
    jump_seconds: tuple[float, ...]


class Story:
    """Runs luod and the guests in one machine, boot after boot."""

    def __init__(self, host: Host, guests: tuple[Guest, ...], mebibytes: int, tell: Tell) -> None:
        self._host = host
        self.guests = [guest for guest in guests if guest.device is None or self._has(guest.device)]
        self._mebibytes = mebibytes
        self._tell = tell
        self._started = time.monotonic()
        for guest in guests:
            if guest not in self.guests:
                # A kernel that knows memfds only would refuse it: for devices there are only posted series so far.
                self.say(f"{guest.name} is left out: this machine has no device {guest.device} to preserve")

    def _has(self, device: str) -> bool:
        return self._host.machine.run(["test", "-e", f"{DEVICES}/{device}"], check=False).returncode == 0

    def say(self, text: str) -> None:
        self._tell(f"{time.monotonic() - self._started:6.2f} s  boot {self._host.machine.boot}  {text}")

    def start_luod(self) -> None:
        for guest in self.guests:
            if guest.device is not None:
                # Before the first open of /dev/liveupdate, in every boot.
                self._host.machine.write(f"{DEVICES}/{guest.device}/driver_override", b"vfio-pci")
                self._host.machine.write("/sys/bus/pci/drivers_probe", guest.device.encode())
        self._host.start()
        self.say("luod is up")

    def spawn(self, guest: Guest) -> Program:
        python = self._host.python(guest.uid)
        path = f"{python.environment['PYTHONPATH']}:{python.readable(PACKAGE).parent}"
        environment = {**python.environment, "PYTHONPATH": path}
        command = python.module("demo.vmm", SOCKET)
        return self._host.machine.spawn(command, env=environment, user=guest.uid, forked=True)

    def fill(self) -> dict[str, Answer]:
        """Has every guest preserve its memory and its device. Returns their answers by name."""
        answers = {}
        vmms = [(guest, self.spawn(guest)) for guest in self.guests]
        for guest, vmm in vmms:
            question = {"do": "start", "name": guest.name, "mebibytes": self._mebibytes, "device": guest.device}
            answer = answers[guest.name] = vmm.ask(question)
            preserved = f"{self._mebibytes} MiB, sha256 {answer['sha256'][:12]}…"
            if guest.device is not None:
                preserved += f", and {guest.device}, which adds up 1 MiB by DMA: {answer['sum']}"
            self.say(f"{guest.name} (uid {answer['uid']}) preserved {preserved}")
        return answers

    def update(self) -> float:
        """Loads the next kernel and starts it. Returns the seconds from the command to the next init."""
        self._host.load()
        self.say("luoctl load: the next kernel is loaded")
        begun = time.monotonic()
        self.say("luoctl update --ignore-finding contents-undeclared: kexec, every process ends here")
        # Like most first VMMs these do not take part in updates; they have written all before.
        self._host.update(ignore=("contents-undeclared",))
        taken = time.monotonic() - begun
        self.say(f"the next kernel runs its init, {taken:.2f} s after luoctl update")
        return taken

    def check(self, before: dict[str, Answer]) -> None:
        """Checks that every guest has its memory again, byte for byte, and its device, as after a reset."""
        names = self.names()
        assert names == sorted(before), f"luod knows {names}, not {sorted(before)}"
        self.say(f"luod found its registry: {_listed(names)} wait in the kernel")
        vmms = [(guest, self.spawn(guest)) for guest in self.guests]
        for guest, vmm in vmms:
            answer = vmm.ask({"do": "resume", "name": guest.name})
            assert answer["sha256"] == before[guest.name]["sha256"], f"{guest.name}: the memory differs"
            found = f"its {answer['bytes'] >> 20} MiB back, every byte the same"
            if guest.device is not None:
                assert answer["commands"] == 0, f"{guest.name}: the device was not reset"
                assert answer["sum"] == before[guest.name]["sum"], f"{guest.name}: the device adds up wrong"
                found += f", and {guest.device}, reset: again {answer['sum']}"
            self.say(f"{guest.name} (uid {answer['uid']}) has {found}, FINISH")
            vmm.end_input()
            vmm.wait()

    def names(self) -> list[str]:
        """Returns the sessions that luod knows."""
        return sorted(session["name"] for session in self._host.luoctl_json("list")["sessions"])


def run(host: Host, guests: tuple[Guest, ...], *, mebibytes: int, updates: int, tell: Tell) -> Outcome:
    """Runs the story: `updates` live updates in a row, each with new memory of `mebibytes` MiB for each guest.

    A guest with a device that the machine does not have is left out.
    """
    story = Story(host, guests, mebibytes, tell)
    jumps = []
    story.start_luod()
    for _ in range(updates):
        before = story.fill()
        jumps.append(story.update())
        story.start_luod()
        story.check(before)
    assert story.names() == [], f"sessions are left: {story.names()}"
    story.say("no session is left")
    count = len(story.guests)
    return Outcome(count, count * (mebibytes << 20) * updates, updates, tuple(jumps))


def _listed(names: list[str]) -> str:
    return ", ".join(names[:-1]) + f" and {names[-1]}" if len(names) > 1 else "".join(names)


def can_become(machine: Machine, uid: int) -> bool:
    """Returns whether a program in `machine` can run under `uid`, with a Python that this uid may use."""
    if interpreter_for(uid) is None:
        return False
    try:
        machine.run(["true"], user=uid)
    except MachineError:
        return False
    return True
