"""A machine's own namespaces and their mounts. Runs in a process made for it, never in `luoemu`'s.

The mounts are not undone. They end with the last process of the machine.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import socket
import struct
from typing import Final

from luod.emulator.machine import capabilities
from luod.linux import MS_BIND, Fd, syscall

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REMOUNT: Final = 32
MS_MOVE: Final = 8192
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18

_PR_SET_PDEATHSIG: Final = 1
_CAP_NET_ADMIN: Final = 12
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1
_IFREQ: Final = struct.Struct("=16sh22x")

_RESTRICTION: Final = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
"""1 on Ubuntu since 23.10."""


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Calls mount(2). Raises OSError with the target."""
    try:
        syscall("mount", os.fsencode(source), os.fsencode(target), kind.encode(), flags, options.encode())
    except OSError as error:
        raise OSError(error.errno, f"mount {kind or source}", target) from None


def bind(source: str, target: str, *, recursive: bool = False) -> None:
    mount(source, target, flags=MS_BIND | (MS_REC if recursive else 0))


def read_only(target: str) -> None:
    """Makes the mount at `target` read-only in this mount namespace, if it exists."""
    if not os.path.exists(target):
        return
    bind(target, target, recursive=True)
    keep = os.statvfs(target).f_flag & (MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("none", target, flags=MS_REMOUNT | MS_BIND | MS_RDONLY | keep)


def die_with_parent() -> None:
    """Has the kernel kill this process with SIGKILL when its parent ends.

    The kernel forgets that when the process changes its effective uid or gid, or executes a setuid program.
    """
    syscall("prctl", _PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def outlive_parent() -> None:
    """Undoes `die_with_parent`."""
    syscall("prctl", _PR_SET_PDEATHSIG, 0, 0, 0, 0)


def enter(*, share_network: bool) -> bool:
    """Enters new mount, PID (for children), UTS, IPC and network namespaces; without privilege, also a user namespace.

    Without CAP_NET_ADMIN, as in a container with CAP_SYS_ADMIN only, a network namespace needs a user namespace, too;
    and so does init without CAP_SETPCAP, which could not be without capabilities that reach the host.
    Returns True when root here is the host's root. `lo` is up afterwards. Raises OSError EPERM, ENOSPC, EUSERS where
    neither is possible.
    """
    flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | (0 if share_network else CLONE_NEWNET)
    uid, gid = os.geteuid(), os.getegid()
    privileged = _has(capabilities.SETPCAP) and (share_network or _has(_CAP_NET_ADMIN))
    if privileged:
        try:
            syscall("unshare", flags)
        except PermissionError:
            privileged = False
    if not privileged:
        syscall("unshare", flags | CLONE_NEWUSER)
        with contextlib.suppress(FileNotFoundError):
            _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"0 {uid} 1")
        _write("/proc/self/gid_map", f"0 {gid} 1")
    make_private()
    if not share_network:
        _raise_loopback()
    return privileged


def remedy(restriction: str = _RESTRICTION) -> str:
    """Returns how an operator of this host gives a user namespaces. `restriction` is the path of AppArmor's setting."""
    with contextlib.suppress(OSError), open(restriction, encoding="ascii") as file:
        if file.read().strip() == "1":
            return (
                "AppArmor gives user namespaces to programs with a profile only: run luoemu as root, or, as root, "
                "sysctl kernel.apparmor_restrict_unprivileged_userns=0"
            )
    return (
        "run luoemu as root with CAP_SYS_ADMIN, or raise user.max_user_namespaces and lift what else forbids user "
        "namespaces, such as a chroot"
    )


def make_private() -> None:
    """Keeps later mounts inside this mount namespace."""
    try:
        mount("none", "/", flags=MS_REC | MS_PRIVATE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        _make_root_a_mount()


def _make_root_a_mount() -> None:
    """Makes the root directory, which is a plain directory after chroot(2), the root of a mount of its own.

    It cannot be bound to itself in the chroot: its mount may be shared with the host, and the chroot has no path to it
    to make it private. setns(2) leads to the root of the mount namespace. The bind mount goes there, and the chroot
    becomes what a container has.
    """
    here = os.getcwd()
    directory = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    with Fd(os.open("/", directory)) as root, Fd(os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)) as own:
        syscall("setns", own.fileno(), CLONE_NEWNS)
        mount("none", "/", flags=MS_REC | MS_PRIVATE)
        os.fchdir(root.fileno())
        bind(".", "/", recursive=True)
        # Again: from under the mount that now covers the root to its top.
        syscall("setns", own.fileno(), CLONE_NEWNS)
    os.chdir(here)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def _has(capability: int) -> bool:
    with open("/proc/self/status", encoding="ascii", errors="replace") as lines:
        (effective,) = (line.split()[1] for line in lines if line.startswith("CapEff:"))
    return bool(int(effective, 16) >> capability & 1)


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = fcntl.ioctl(control, _SIOCGIFFLAGS, _IFREQ.pack(b"lo", 0))
        name, flags = _IFREQ.unpack(request)
        fcntl.ioctl(control, _SIOCSIFFLAGS, _IFREQ.pack(name, flags | _IFF_UP))
