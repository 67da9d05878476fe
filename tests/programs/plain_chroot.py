"""Runs a command where the root directory is no mount point: `plain_chroot.py DIRECTORY COMMAND…`, as root.

As after chroot(8) into a directory of a file system. Everything of the host is bound into the root directory, in a
mount namespace whose mounts are shared, as systemd sets them. The status is that of the command, or 99 if the command
changed the mounts of this namespace.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from luod.emulator.machine.namespaces import CLONE_NEWNS, MS_REC, make_private
from luod.linux import MS_BIND, syscall

MS_SHARED = 1 << 20


def mount(source: str, target: Path, kind: str, flags: int) -> None:
    syscall("mount", os.fsencode(source), os.fsencode(target), kind.encode(), flags, None)


def bind_all(source: Path, target: Path, *, without: Path) -> None:
    """Binds the directories in `source` into `target`, but for `without`, which `target` is on."""
    for entry in map(Path, os.scandir(source)):
        if entry.is_symlink():
            (target / entry.name).symlink_to(os.readlink(entry))
        elif entry.is_dir() and entry != without:
            (target / entry.name).mkdir()
            if without.is_relative_to(entry):
                bind_all(entry, target / entry.name, without=without)
            else:
                mount(str(entry), target / entry.name, "", MS_BIND | MS_REC)


def mounts() -> list[list[str]]:
    """Returns the mounts, without the directory that each shows: another program may delete it meanwhile."""
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [line[:3] + line[4:] for line in lines]


def main() -> int:
    directory, command = Path(sys.argv[1]), sys.argv[2:]
    syscall("unshare", CLONE_NEWNS)
    make_private()
    mount("tmpfs", directory, "tmpfs", 0)
    root = directory / "root"
    root.mkdir()
    bind_all(Path("/"), root, without=directory)
    (root / "tmp").mkdir(exist_ok=True)
    mount("none", Path("/"), "", MS_REC | MS_SHARED)
    before = mounts()
    status = subprocess.call(["chroot", str(root), *command])
    return status if mounts() == before else 99


sys.exit(main())
