"""The emulated machine with systemd leaves nothing on the host, however its test ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from luod.testing import eventually
from tests.systemd.bed import PREFIX
from tests.systemd.conftest import boot
from tests.systemd.emulated import EmulatedSystemd

CHECKOUT = Path(__file__).parents[2]
STARTER = """
import time
from tests.systemd.conftest import boot
machine = boot("emulated")
print(machine.pid, flush=True)
time.sleep(1 << 20)
"""


@contextmanager
def starter() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Yields a process that has booted a machine, and the pid of the machine's first process."""
    with subprocess.Popen([sys.executable, "-c", STARTER], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def members(name: str) -> list[int]:
    """Returns the processes in cgroups of a machine."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cgroup"):
        with suppress(OSError):
            if f"/{name}" in place.read_text():
                found.append(int(place.parent.name))
    return found


def cgroups(name: str) -> str:
    """Returns the cgroups of a machine, a path a line."""
    command = 'mount -t cgroup2 cgroup2 /mnt && find /mnt -name "$0"'
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", command, name], check=True, capture_output=True, text=True
    ).stdout


def mounts() -> str:
    return Path("/proc/self/mountinfo").read_text()


def nothing_is_left(name: str) -> None:
    eventually(lambda: not members(name), describe=f"the processes of {name} end")
    eventually(lambda: not cgroups(name), describe=f"{name} is removed")
    assert not list(Path(tempfile.gettempdir()).glob(f"{name}.*"))


def test_a_machine_that_is_closed_leaves_nothing() -> None:
    before = mounts()
    machine = boot("emulated")
    assert isinstance(machine, EmulatedSystemd)
    name = f"{PREFIX}{machine.pid}"
    assert members(name)

    machine.close()

    nothing_is_left(name)
    assert mounts() == before


def test_a_machine_whose_test_is_killed_leaves_nothing() -> None:
    before = mounts()
    with starter() as (process, pid):
        name = f"{PREFIX}{pid}"
        assert members(name)

        process.kill()
        process.wait()

        nothing_is_left(name)
        assert mounts() == before


def test_a_machine_that_is_killed_itself_ends_and_the_next_one_removes_its_cgroup() -> None:
    with starter() as (_process, pid):
        name = f"{PREFIX}{pid}"

        os.kill(pid, signal.SIGKILL)

        eventually(lambda: not members(name), describe="its processes end")
    eventually(lambda: not Path(f"/proc/{pid}").exists(), describe="its parent, which was killed, has waited for it")
    boot("emulated").close()
    assert not cgroups(name)


def test_root_in_the_machine_lacks_what_reaches_past_its_namespaces() -> None:
    names = {"SYS_MODULE": 16, "SYS_RAWIO": 17, "SYS_TIME": 25, "MKNOD": 27}
    with boot("emulated") as machine:
        status = machine.run(["cat", "/proc/1/status"]).text

    (bounding,) = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapBnd:")]
    assert [name for name, number in names.items() if bounding >> number & 1] == []
