"""The machine of these tests: a Debian sid with systemd as PID 1 and luod's packages.

It is an emulated machine, or with `--luod-machine kernel` the project's kernel in QEMU. `make test-systemd` builds the
packages, the kernel, the root directories (a second one has QEMU) and the disk image, and passes the last three in
LUOD_SYSTEMD_ROOT, LUOD_SYSTEMD_QEMU_ROOT and LUOD_SYSTEMD_IMAGE.

When a test fails, the machine's journal is kept in a file, whose path the report has, with its end.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final

import pytest

from luod.errors import MachineError
from luod.testing import Machine, eventually
from luod.testing.kernel.machine import KernelMachine
from tests.systemd.emulated import EmulatedSystemd

ROOT: Final = "LUOD_SYSTEMD_ROOT"
QEMU_ROOT: Final = "LUOD_SYSTEMD_QEMU_ROOT"
IMAGE: Final = "LUOD_SYSTEMD_IMAGE"
SOCKET: Final = "/run/luod/luod.sock"
BOOT_SECONDS: Final = 300.0
"""systemd and luod may start on emulated processors, on a machine that may be busy."""
SECURITY: Final = "systemd-analyze security luod"
"""A property of a test's report: what systemd-analyze says about luod's unit. The end of the run shows it."""
JOURNALS: Final = Path("build/systemd-journals")
_JOURNAL_TAIL: Final = 60
"""Lines of the journal in a failure's text."""


class SystemdHost:
    """A machine on which systemd runs luod."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def sh(self, command: str, *, check: bool = True, seconds: float = 120.0) -> str:
        """Runs a shell command as root, and returns what it printed, errors included. With `check` it must succeed."""
        done = self.machine.run(["sh", "-c", f"exec 2>&1; {command}"], check=False, timeout=seconds)
        assert not check or done.returncode == 0, f"`{command}` ended with {done.returncode}: {done.text}"
        return done.text

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
            raise

    def until_ready(self) -> None:
        """Waits until luod answers, after a boot."""
        self.until("luoctl status", "state", "luod answers")

    def start_guests(self, *names: str) -> None:
        """Starts VMMs as services, `vmm@NAME`, and waits until they take part in updates."""
        self.sh("cp /usr/share/doc/python3-luod/examples/vmm@.service /etc/systemd/system/ && systemctl daemon-reload")
        self.sh(f"systemctl enable --now {' '.join(f'vmm@{name}' for name in names)}")
        self.until_take_part(len(names))

    def until_take_part(self, number: int) -> None:
        self.until("luoctl status", f"participants  {number}", "the VMMs take part")

    def update(self, way: str, *, guests: int) -> None:
        """Updates by a way, and waits in the next kernel until so many guests take part."""
        self.sh("luoctl load --kernel /boot/vmlinuz")
        with self.machine.expect_jump(timeout=300):
            self.sh(f"luoctl update {way}", check=False, seconds=300)
        self.until_take_part(guests)

    def pid(self, unit: str) -> int:
        """Returns the main process of a service, 0 without one."""
        return int(self.sh(f"systemctl show --property MainPID --value {unit}"))

    @contextlib.contextmanager
    def stopped_guest(self, name: str) -> Iterator[None]:
        """Stops the VMM of a guest for a block, so that an update waits for its vote."""
        pid = self.pid(f"vmm@{name}")
        self.sh(f"kill -STOP {pid}")
        try:
            yield
        finally:
            self.sh(f"kill -CONT {pid}", check=False)

    def sessions(self) -> set[str]:
        return set(self.sh("luoctl list --names").split())

    def resumed_at(self, name: str) -> int:
        """Returns the count at which a guest resumed in this boot."""
        said = self.until(f"journalctl -b -u vmm@{name} -o cat --no-pager", "resumes at", f"the guest {name} resumes")
        (count,) = re.findall(r"resumes at (\d+)", said)
        return int(count)

    def create(self, name: str) -> str:
        """Creates a session with varlinkctl, and returns the link of the fd that the command got."""
        call = f"""varlinkctl --exec call {SOCKET} io.luod.Sessions.Create '{{"name":"{name}"}}'"""
        return self.sh(f"{call} -- readlink /proc/self/fd/3")

    def journal(self) -> str:
        """Returns the journal of all boots, oldest first."""
        return self.sh("journalctl --no-pager --output short-iso", check=False)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "real_kernel(reason): the test is not run in the emulated machine")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects the tests for a real kernel in the emulated machine: `make test-systemd` runs them on one."""
    here = Path(__file__).parent
    ours = [item for item in items if here in item.path.parents]
    there = [item for item in ours if item.get_closest_marker("real_kernel") is not None and "[emulated" in item.name]
    if there:
        config.hook.pytest_deselected(items=there)
        items[:] = [item for item in items if item not in there]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, value in report.user_properties:
            if name == SECURITY:
                terminalreporter.section(name)
                terminalreporter.write_line(str(value))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keeps the journal of a machine in which a test failed."""
    report = yield
    host = getattr(item, "funcargs", {}).get("host")
    if report.failed and report.when != "teardown" and isinstance(host, SystemdHost):
        with contextlib.suppress(MachineError):  # it has ended: its log is in the failure
            text = host.journal()
            JOURNALS.mkdir(parents=True, exist_ok=True)
            place = JOURNALS / (re.sub(r"[^\w.-]+", "-", item.nodeid) + ".log")
            place.write_text(text)
            end = "\n".join(text.splitlines()[-_JOURNAL_TAIL:])
            report.sections.append((f"end of the journal, which is in {place.resolve()}", end))
    return report


def _built(variable: str) -> str:
    path = os.environ.get(variable)
    if path is None or not Path(path).exists():
        pytest.fail(f"{variable} names nothing to boot: run `make test-systemd`")
    return path


def disk_image() -> str:
    """Returns the path of the disk image of the real kernel's machine."""
    return _built(IMAGE)


def boot(kind: str, *, root: str = ROOT) -> Machine:
    """Boots a machine of `kind`, as `--luod-machine` names it. The caller owns it.

    `root` is the environment variable with the root directory of an emulated one.
    """
    if kind == "kernel":
        return KernelMachine(disk=disk_image(), timeout=BOOT_SECONDS)
    return EmulatedSystemd(_built(root), timeout=BOOT_SECONDS)


@pytest.fixture(scope="module")
def host(machine_kind: str) -> Iterator[SystemdHost]:
    """Yields a booted machine, for the tests of a module."""
    with boot(machine_kind) as machine:
        host = SystemdHost(machine)
        host.until_ready()
        yield host
