"""Mounts the cgroup file system in a machine on a host that shows none, such as in a chroot or a container without
/sys.

A machine shows the host's /sys. If no cgroup file system is mounted there, processes cannot read their memory limits,
and luod's library refuses to retrieve while they are unknown. The mount is read-only. Where the host does not allow it,
the limits stay unknown.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

from luod.emulator.machine.namespaces import CLONE_NEWCGROUP, MS_NODEV, MS_NOEXEC, MS_NOSUID, mount, read_only
from luod.linux import syscall

PLACE: Final = "/run/luoemu/cgroup"
_CONTROLLER: Final = "memory"


def show() -> None:
    """Mounts the hierarchy with the memory controller on PLACE, unless one is mounted already."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8", errors="replace") as file:
            controllers = [line.split(":")[1].split(",") for line in file if line.count(":") >= 2]
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            mounted = [line.partition(" - ")[2].split() for line in file]
    except OSError:
        return
    v1 = any(_CONTROLLER in each for each in controllers)
    if v1:
        there = any(fields[0] == "cgroup" and _CONTROLLER in fields[-1].split(",") for fields in mounted if fields)
    else:
        there = any(fields[0] == "cgroup2" for fields in mounted if fields)
    if there:
        return
    os.mkdir(PLACE)
    try:
        _mount(v1)
    except OSError:
        # In a user namespace only the part below the process's own cgroup may be mounted.
        with contextlib.suppress(OSError):
            syscall("unshare", CLONE_NEWCGROUP)
            _mount(v1)


def _mount(v1: bool) -> None:
    kind = "cgroup" if v1 else "cgroup2"
    mount(kind, PLACE, kind, MS_NOSUID | MS_NODEV | MS_NOEXEC, _CONTROLLER if v1 else "")
    read_only(PLACE)
