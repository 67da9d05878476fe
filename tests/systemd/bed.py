"""The emulated machine with a root file system whose PID 1 is systemd: a process that makes it, and cleans up after it.

    python3 bed.py ROOT CONSOLE CHANNEL

ROOT is a directory of scripts/systemd-root, which stays as it is: what the machine writes is in memory. What the
machine says after its journal ended is added to the file CONSOLE. The agent of luod.testing gets the fd CHANNEL in
each boot. The exit status is luoemu's.

luoemu, the one in ROOT, gives the machine mount, PID, network, UTS and IPC namespaces. This process adds a cgroup
namespace and a cgroup, and takes CAP_MKNOD away, so that no unit makes a device. When the process that started it
ends, or luoemu, it ends every process in the cgroup and removes it. If it is killed itself, the kernel kills
luoemu, and the next such process removes the cgroup. It leaves a ^C to the process that started it. It needs root,
and overlay and cgroup2 from the kernel.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NoReturn

from luod.emulator.machine import namespaces
from luod.linux import Fd, syscall
from luod.testing.waiting import eventually

PREFIX: Final = "luod-test-systemd."
_CHANNEL: Final = 3
"""The channel's fd in luoemu and PID 1: a shell can close one digit only."""
_DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty", "fuse")
_PR_CAPBSET_DROP: Final = 24
_CAP_MKNOD: Final = 27
_ENDING_SECONDS: Final = 60.0
_MNT_DETACH: Final = 2

# systemd-shutdown ends a container where it would reboot a machine, so it is told that this is a machine.
_SHUTDOWN: Final = """#!/bin/sh
export container=
exec /usr/lib/systemd/systemd-shutdown.real "$@" --log-target=console
"""

# PID 1 of each boot until it becomes systemd. luoemu has made /dev, /run and /proc by then. systemd-shutdown has
# made the root file system read-only, which overlay changes by mount(2) only, and must not find the host's swap.
# Where the host has limits of memory in the first version of cgroups, luod must find them. The agent is started
# here and not by a unit, which could not give it the channel.
_INIT: Final = """
set -e
mkdir /mnt/boot-$LUOEMU_BOOT
echo $$ >/mnt/boot-$LUOEMU_BOOT/cgroup.procs
exec unshare --cgroup sh -c '
set -e
LIBMOUNT_FORCE_MOUNT2=always mount -o remount,rw /
umount /mnt
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 /sys/fs/cgroup
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs /tmp
mount --bind /dev/null /proc/swaps
if grep -q :memory: /proc/self/cgroup; then
    mkdir /run/memory-limits
    mount -t cgroup -o ro,nosuid,nodev,noexec,memory memory /run/memory-limits
fi
setsid python3 -m luod.testing.agent --channel 3 --power-off </dev/null >/dev/console 2>&1 &
export container=luoemu
exec /usr/lib/systemd/systemd --show-status=no </dev/null >/dev/console 2>&1 3<&-
'
"""


def main() -> int:
    root, console, channel = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    os.setsid()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
    with (
        Fd(os.pidfd_open(os.getppid())) as starter,
        tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}.") as folder,
    ):
        place = Path(folder)
        with _cgroup(place) as group:
            pid = os.fork()
            if pid == 0:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                _become_luoemu(root, console, channel, place, group)
            os.close(channel)  # the test sees its end when the machine ends
            with Fd(os.pidfd_open(pid)) as luoemu:
                poll = select.poll()
                poll.register(starter.fileno(), select.POLLIN)
                poll.register(luoemu.fileno(), select.POLLIN)
                poll.poll()
                signal.pidfd_send_signal(luoemu.fileno(), signal.SIGKILL)  # nothing happens if it has ended
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return status if status >= 0 else 128 - status


@contextlib.contextmanager
def _cgroup(place: Path) -> Iterator[Path]:
    """Yields a new cgroup of version 2, and ends its processes and removes it after the block."""
    syscall("unshare", namespaces.CLONE_NEWNS)
    namespaces.make_private()
    hierarchy = place / "cgroup"
    hierarchy.mkdir()
    namespaces.mount("cgroup2", str(hierarchy), "cgroup2")
    try:
        own = next(line[4:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::/"))
        _sweep(hierarchy / own)
        group = hierarchy / own / f"{PREFIX}{os.getpid()}"
        group.mkdir()
        try:
            yield group
        finally:
            _remove(group)
    finally:
        syscall("umount2", os.fsencode(hierarchy), _MNT_DETACH)


def _sweep(parent: Path) -> None:
    """Removes what processes like this left that were killed: cgroups, and directories to mount on."""
    for left in parent.glob(f"{PREFIX}*"):
        if not Path(f"/proc/{left.name.removeprefix(PREFIX)}").exists():
            _remove(left)
            for folder in Path(tempfile.gettempdir()).glob(f"{left.name}.*"):
                shutil.rmtree(folder)


def _remove(group: Path) -> None:
    """Kills the processes in a cgroup and below it, waits for their end, and removes it."""
    (group / "cgroup.kill").write_text("1")
    eventually(
        lambda: "populated 0" in (group / "cgroup.events").read_text(),
        within=_ENDING_SECONDS,
        describe=f"the processes in {group} end",
    )
    for directory, _, _ in os.walk(group, topdown=False):
        os.rmdir(directory)


def _become_luoemu(root: Path, console: Path, channel: int, place: Path, group: Path) -> NoReturn:
    try:
        namespaces.die_with_parent()
        (group / "cgroup.procs").write_text(str(os.getpid()))
        syscall("unshare", namespaces.CLONE_NEWNS)
        system = _furnish(root, console, place, group)
        syscall("prctl", _PR_CAPBSET_DROP, _CAP_MKNOD, 0, 0, 0)
        os.chroot(system)
        os.chdir("/")
        os.dup2(channel, _CHANNEL)
        if channel != _CHANNEL:
            os.close(channel)
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
        os.execve("/usr/bin/luoemu", ["luoemu", "run", "--", "/bin/sh", "-c", _INIT], environment)
    except OSError as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(125)


def _furnish(root: Path, console: Path, place: Path, group: Path) -> Path:
    """Mounts the machine's root file system, and returns its directory."""
    layer, system = place / "layer", place / "root"
    layer.mkdir()
    namespaces.mount("layer", str(layer), "tmpfs", options="mode=755")
    for part in ("upper", "work"):
        (layer / part).mkdir()
    system.mkdir()
    options = f"lowerdir={root},upperdir={layer}/upper,workdir={layer}/work"
    namespaces.mount("system", str(system), "overlay", options=options)
    namespaces.mount("proc", str(system / "proc"), "proc")
    namespaces.mount("sysfs", str(system / "sys"), "sysfs", namespaces.MS_RDONLY)
    namespaces.mount("dev", str(system / "dev"), "tmpfs", namespaces.MS_NOSUID, "mode=755")
    for name in _DEVICES:
        (system / "dev" / name).touch()
        namespaces.bind(f"/dev/{name}", str(system / "dev" / name))
    (system / "dev/console").touch()
    namespaces.bind(str(console), str(system / "dev/console"))
    namespaces.bind(str(group), str(system / "mnt"))
    (system / "etc/systemd/system/console-getty.service").symlink_to("/dev/null")  # there is no terminal
    shutdown = system / "usr/lib/systemd/systemd-shutdown"
    shutdown.rename(shutdown.with_suffix(".real"))
    shutdown.write_text(_SHUTDOWN)
    shutdown.chmod(0o755)
    return system


if __name__ == "__main__":
    sys.exit(main())
