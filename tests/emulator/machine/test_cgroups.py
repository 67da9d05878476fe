"""A machine on a host that shows no cgroup file system, as in a chroot: its processes still read their limits."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import pytest

from luod.testing.tools import for_root
from tests.emulator.machine.conftest import PLAIN_USER, environment, interpreter, luoemu

Run = Callable[..., "subprocess.CompletedProcess[str]"]

HIDE = """
import ctypes, os, sys
user, *command = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
NEWNS, PRIVATE, DETACH = 0x20000, 1 << 18 | 1 << 14, 2
assert libc.unshare(NEWNS) == 0 and libc.mount(b"none", b"/", None, PRIVATE, None) == 0
def mounted():
    with open("/proc/self/mountinfo") as file:
        return [line.split()[4] for line in file if line.partition(" - ")[2].startswith("cgroup")]
while points := mounted():
    assert libc.umount2(points[-1].encode(), DETACH) == 0, points
if int(user):
    os.setgroups([]); os.setgid(int(user)); os.setuid(int(user))
os.execvp(command[0], command)
"""
ANSWER = "from luod import memory; print(type(memory.chargeable()).__name__, type(memory.free()).__name__)"


@pytest.mark.parametrize("user", [None, PLAIN_USER])
def test_a_machine_on_a_host_without_the_cgroup_file_system_shows_memory_limits(user: int | None) -> None:
    if os.geteuid() != 0:
        for_root("to take a file system out of a mount namespace")
    inside = [*luoemu(user=user), interpreter(user).executable, "-c", ANSWER]
    hiding = [interpreter(None).executable, "-c", HIDE, str(user or 0), *inside]
    done = subprocess.run(
        hiding, capture_output=True, text=True, check=False, env=environment(user), cwd="/", timeout=60
    )
    assert done.returncode == 0, done.stderr
    # No limit, or one that can be read.
    assert "Unknown" not in done.stdout
    assert done.stdout.split()[1] == "Room"


def test_where_the_host_shows_the_cgroup_file_system_nothing_is_mounted(run_machine: Run) -> None:
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        shown = any(line.partition(" - ")[2].startswith("cgroup") for line in file)
    found = run_machine("print(os.path.exists('/run/luoemu/cgroup'))").stdout.strip()
    assert found == str(not shown)
