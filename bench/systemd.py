"""`python -m bench.systemd [--update] [--runs N]`: what luod adds to the start of a VMM's service after an update.

`make bench-systemd` builds the machines and runs it: systemd as PID 1 in the emulated machine, whose programs run on
the host's processors, and on Linux in QEMU, whose processors are emulated. Two services keep a memfd through each
`luoctl update --systemd`: `by-luod` has its session from luod, `alone` has that of LUOSession= from PID 1. The figure
is the time between the moments at which they have their memfd again, in one boot of the new kernel. systemd recognises
no session of the emulated machine, so `alone` gets a new one there in each boot and makes its memfd.

`by-luod` is ordered after luod.service, as vmm@.service is, or after luod.socket: then its program starts beside luod
and waits in the socket.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import report
from luod.testing import Machine, eventually
from luod.testing.kernel.machine import KernelMachine
from tests.systemd.emulated import EmulatedSystemd

WHERE = "unit of systemd"
RUNS = 3
ORDERS = ("luod.service", "luod.socket")
"""Units after which a VMM's unit may start."""
_EMULATED = "emulated"
_KERNEL = "Linux in QEMU"
_ROOT = "LUOD_SYSTEMD_ROOT"
_IMAGE = "LUOD_SYSTEMD_IMAGE"
_PROGRAM = "/opt/unit_guest.py"
_SECONDS = 300.0
"""For a boot, and for each answer of the machine: it is emulated."""
_UNITS = {
    "by-luod": """
[Unit]
Wants=luod.service
After={order}
IgnoreOnIsolate=yes

[Service]
ExecStart=/usr/bin/python3 /opt/unit_guest.py luod by-luod
TimeoutStopSec=2s

[Install]
WantedBy=multi-user.target
""",
    "alone": """
[Unit]
IgnoreOnIsolate=yes

[Service]
ExecStart=/usr/bin/python3 /opt/unit_guest.py alone state
LUOSession=state
FileDescriptorStorePreserve=yes
FileDescriptorStoreMax=4
TimeoutStopSec=2s

[Install]
WantedBy=multi-user.target
""",
}
_HAS = re.compile(r"has (\w+) ([0-9.]+) ([0-9.]+)")
_STAMPS = ("ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic")


@dataclass(frozen=True)
class Start:
    """The start of a service in seconds since PID 1's: its process is made, it runs its first statement, it has its
    memfd.
    """

    made: float
    began: float
    has: float


@dataclass(frozen=True)
class Boot:
    """A boot after an update. `luod`: luod's process is made, and luod answers. `booted`: systemd has started all."""

    by_luod: Start
    alone: Start
    luod: tuple[float, float]
    booted: float

    @property
    def added(self) -> float:
        return self.by_luod.has - self.alone.has


class Host:
    """The machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def sh(self, command: str, *, check: bool = True) -> str:
        return self.machine.run(["sh", "-c", f"exec 2>&1; {command}"], check=check, timeout=_SECONDS).text

    def until(self, command: str, word: str) -> str:
        def printed() -> str:
            said = self.sh(command, check=False)
            return said if word in said else ""

        return eventually(printed, within=_SECONDS, describe=f"`{command}` prints {word!r}")

    def start(self) -> None:
        """Starts both services, for the first time."""
        self.machine.write(_PROGRAM, Path(__file__).with_name("unit_guest.py").read_bytes())
        self.order(ORDERS[0])
        self.sh(f"python3 -m compileall -q {_PROGRAM}")
        self.sh(f"systemctl enable --now {' '.join(_UNITS)}")
        for name in _UNITS:
            self.until(f"journalctl -b -u {name} -o cat --no-pager", "has preserved")

    def order(self, after: str) -> None:
        """Orders `by-luod` after a unit, from the next boot on."""
        for name, text in _UNITS.items():
            self.machine.write(f"/etc/systemd/system/{name}.service", text.replace("{order}", after).encode())
        self.sh("systemctl daemon-reload")

    def update(self) -> Boot:
        """Updates the host, and reads the times of the new boot."""
        self.until("luoctl status", "participants  1")
        self.sh("luoctl load --kernel /boot/vmlinuz")
        with self.machine.expect_jump(timeout=_SECONDS):
            self.sh("luoctl update --systemd", check=False)
        self.until("systemctl show -p UserspaceTimestampMonotonic", "=")  # the agent runs before systemd answers
        started = self._stamp("", "UserspaceTimestampMonotonic")
        by_luod, alone = (self._started(name, started) for name in _UNITS)
        self.until("systemctl is-system-running --wait || true", "r")  # running, or degraded
        made, active = (self._stamp("luod.service", stamp) - started for stamp in _STAMPS)
        return Boot(by_luod, alone, (made, active), self._stamp("", "FinishTimestampMonotonic") - started)

    def renew(self) -> None:
        """Gives `alone` a session for the next kernel: that of the last one preserves nothing."""
        self.sh("systemctl stop alone && systemctl clean --what=fdstore alone.service && systemctl start alone")
        self.until("journalctl -b -u alone -o cat --no-pager", "has preserved")

    def _started(self, name: str, since: float) -> Start:
        said = self.until(f"journalctl -b -u {name} -o cat --no-pager", "has ")
        found = _HAS.search(said)
        assert found is not None, said
        assert found[1] in ("retrieved", "preserved"), said
        return Start(
            self._stamp(f"{name}.service", _STAMPS[0]) - since, float(found[2]) - since, float(found[3]) - since
        )

    def _stamp(self, unit: str, name: str) -> float:
        """Returns a time of PID 1 in seconds of the monotonic clock."""
        return int(self.sh(f"systemctl show --value -p {name} {unit}")) / 1e6


def table(machine: Machine, where: str, runs: int = RUNS) -> dict[str, float]:
    """Prints the times of `runs` updates in a row for each order, and returns the figures of docs/performance.md.

    systemd is PID 1.
    """
    columns = ("luod made", "ready", "by luod: made", "began", "has", "alone: made", "began", "has", "booted", "added")
    host, measured = Host(machine), dict[str, float]()
    host.until("luoctl status", "state")
    host.start()
    for order in ORDERS:
        print(f"From PID 1's start in the new kernel, {where}, after {order}, in ms, {runs} updates in a row")
        print("  " + "".join(f"{column:>14}" for column in columns))
        host.order(order)
        boots = []
        for _ in range(runs):
            boots.append(boot := host.update())
            host.renew()
            times = [*boot.luod, *_times(boot.by_luod), *_times(boot.alone), boot.booted, boot.added]
            print("  " + "".join(f"{1000 * each:>14.0f}" for each in times), flush=True)
        measured |= figures(boots, where, order)
    return measured


def figures(boots: Sequence[Boot], where: str, order: str) -> dict[str, float]:
    """Returns the figures of docs/performance.md for the machine `where` and one of ORDERS."""
    name = f"luod adds to the memfd of a {WHERE} after {order}, {where}"
    return {
        name: 1000 * statistics.median(boot.added for boot in boots),
        f"{name}, by systemd's boot": statistics.median(boot.added / boot.booted for boot in boots),
    }


def _times(start: Start) -> tuple[float, float, float]:
    return start.made, start.began, start.has


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.systemd", description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--update", action="store_true", help="write the figures into docs/performance.md")
    given = parser.parse_args()
    with EmulatedSystemd(os.environ[_ROOT], timeout=_SECONDS) as machine:
        measured = table(machine, _EMULATED, given.runs)
    with KernelMachine(disk=os.environ[_IMAGE], timeout=_SECONDS) as machine:
        measured |= table(machine, _KERNEL, given.runs)
    for name, value in measured.items():
        print(f"{name}: {value:.3g}")
    report.finish(measured, lambda name: WHERE in name, update=given.update)


if __name__ == "__main__":
    main()
