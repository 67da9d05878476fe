"""The files that a machine's processes find in /dev, /run, /proc and /sys: a private /dev with the node, new tmpfses.

Runs inside the machine's namespaces, before its init starts. The host's own /dev, /run and /sys stay as they are.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from luod.emulator.machine import cgroups, stub
from luod.emulator.machine.namespaces import (
    MS_MOVE,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REMOUNT,
    bind,
    mount,
    read_only,
)
from luod.emulator.trap import kexec_state
from luod.emulator.trap.process.placeholder import Identity
from luod.emulator.trap.process.procfs import identify
from luod.linux import MS_BIND, Fd
from luod.uapi import liveupdate

KERNEL_IMAGE: Final = "/run/luoemu/bzImage"
KERNEL_IMAGE_NO_VFIO: Final = "/run/luoemu/bzImage-no-vfio"
"""In machines with devices: an image of a kernel without handlers for them."""
_COMMAND_LINE: Final = "/run/luoemu/cmdline"
_BOOT_ID: Final = "/run/luoemu/boot_id"
_NEW_ID: Final = "/proc/sys/kernel/random/uuid"
"""The kernel makes one for each reader."""
_PROFILE: Final = "/run/luoemu/profile"
_SYSCTLS: Final = "/proc/sys/kernel"
_HOSTS: Final = ".host"
"""The directory in /proc/sys/kernel with the host's settings, on a host without kexec."""
_STAGING: Final = "/run/luoemu/staging"
_MASKED: Final = (
    "something covers a part of this host's /proc, as in a container; start that with --security-opt unmask=ALL "
    "(Podman) or --security-opt systempaths=unconfined (Docker)"
)
_NOT_TAKEN_OVER: Final = frozenset({"liveupdate", "shm", "mqueue", "pts", "ptmx", "vfio", "iommu"})
"""Entries of the host's /dev that the machine has of its own. It has the last two only with devices."""


@dataclass(frozen=True)
class DeviceNode:
    """The mounted FUSE node: the fd of /dev/fuse, which the holder owns, and the node's st_dev."""

    fuse: Fd
    number: int


def furnish(command_line: str, profile: str, images: Mapping[str, tuple[str, ...]]) -> list[Fd]:
    """Makes a new /run and /dev, and files for /proc/cmdline and the state of kexec. Returns fds of the latter, in the
    order of `kexec_state.NAMES`.

    `profile` is its name for programs (`luod.liveupdate.declared`). `images` are kernel images to write, each path with
    the formats that the kernel in it speaks. Raises OSError when a mount is refused.
    """
    mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    os.makedirs(os.path.dirname(KERNEL_IMAGE))
    for path, formats in images.items():
        _write(path, stub.bzimage(formats=formats))
    _write(_COMMAND_LINE, os.fsencode(command_line) + b"\n")
    with open(_NEW_ID, "rb") as new:
        _write(_BOOT_ID, new.read())
    _write(_PROFILE, f"{profile}\n".encode())
    for name in kexec_state.NAMES:
        _write(f"{kexec_state.DIRECTORY}/{name}", f"{kexec_state.SYSCTLS.get(name, 0)}\n".encode())
    cgroups.show()
    _make_dev()
    if os.path.isdir("/sys/kernel"):
        if not os.path.exists("/sys/kernel/kexec_loaded"):
            rebuild("/sys/kernel", extra=("kexec_loaded",))
        bind("/run/luoemu/kexec_loaded", "/sys/kernel/kexec_loaded")
    return [Fd(os.open(f"{kexec_state.DIRECTORY}/{name}", os.O_RDWR | os.O_CLOEXEC)) for name in kexec_state.NAMES]


def mount_device() -> DeviceNode:
    """Mounts a FUSE node on /dev/liveupdate. Raises OSError where the host does not allow it."""
    # Opened inside the user namespace that mounts: the kernel compares the two.
    fuse = Fd(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    try:
        _write(liveupdate.DEVICE, b"")
        options = f"fd={fuse.fileno()},rootmode=100600,user_id=0,group_id=0,allow_other,default_permissions"
        mount("luoemu", liveupdate.DEVICE, "fuse", MS_NOSUID | MS_NODEV | MS_NOEXEC, options)
        return DeviceNode(fuse, identify(os.fsencode(liveupdate.DEVICE))[0])
    except OSError:
        fuse.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(liveupdate.DEVICE)
        raise


def stand_in() -> Identity:
    """Puts a socket on /dev/liveupdate, which the host's kernel does not open (`trap.seccomp.opening`)."""
    with socket.socket(socket.AF_UNIX) as name:
        name.bind(liveupdate.DEVICE)
    os.chmod(liveupdate.DEVICE, 0o600)
    return identify(os.fsencode(liveupdate.DEVICE))


def mount_proc(*, root: bool) -> None:
    """Mounts the /proc of the caller's PID namespace. `root`: protects the host's settings from the machine's root.

    Raises OSError where the host does not allow it, with a remedy.
    """
    try:
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    except PermissionError as error:
        raise OSError(error.errno, f"/proc cannot be mounted in a user namespace: {_MASKED}") from None
    bind(_COMMAND_LINE, "/proc/cmdline")
    if root:
        # In a user namespace the host's own root owns these. Here only a read-only mount protects them.
        for path in ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus"):
            read_only(path)
    missing = tuple(name for name in kexec_state.SYSCTLS if not os.path.exists(f"{_SYSCTLS}/{name}"))
    if missing and os.path.isdir(_SYSCTLS):  # a host without kexec
        _add(_SYSCTLS, missing)
    for name in kexec_state.SYSCTLS:
        if os.path.exists(f"{_SYSCTLS}/{name}"):
            bind(f"{kexec_state.DIRECTORY}/{name}", f"{_SYSCTLS}/{name}")
    # Programs recognise a new boot by it.
    bind(_BOOT_ID, f"{_SYSCTLS}/random/boot_id")


def _make_dev() -> None:
    rebuild("/dev", without=_NOT_TAKEN_OVER)
    os.mkdir("/dev/shm")
    mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    os.mkdir("/dev/pts")
    mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620")
    os.symlink("pts/ptmx", "/dev/ptmx")
    os.mkdir("/dev/mqueue")
    with contextlib.suppress(OSError):  # not in every kernel
        mount("mqueue", "/dev/mqueue", "mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC)


def rebuild(directory: str, *, without: frozenset[str] = frozenset(), extra: tuple[str, ...] = ()) -> None:
    """Puts a tmpfs in place of `directory`, with everything in it bound to its old place, and `extra` empty files.

    Where root may make device nodes, they are new ones: a hundred mounts would take 10 ms, and as long to be removed.
    """
    os.mkdir(_STAGING)
    mount("tmpfs", _STAGING, "tmpfs", MS_NOSUID, "mode=755")
    for entry in os.scandir(directory):
        if entry.name in without:
            continue
        copy = os.path.join(_STAGING, entry.name)
        with contextlib.suppress(FileNotFoundError):  # gone since it was listed
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                os.symlink(os.readlink(entry.path), copy)
                continue
            if _is_device(status.st_mode) and _make_node(entry.path, copy, status):
                continue
            if stat.S_ISDIR(status.st_mode):
                os.mkdir(copy)
            else:
                _write(copy, b"")
            bind(entry.path, copy, recursive=True)
    for name in extra:
        _write(os.path.join(_STAGING, name), b"")
    mount(_STAGING, directory, flags=MS_MOVE)
    os.rmdir(_STAGING)


def _is_device(mode: int) -> bool:
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


def _has_attributes(path: str) -> bool:
    try:
        return bool(os.listxattr(path, follow_symlinks=False))
    except OSError as error:
        return error.errno != errno.ENOTSUP


def _make_node(of: str, copy: str, status: os.stat_result) -> bool:
    """Makes a node of the same device, owner and mode. Returns False where a bound one is needed."""
    if _has_attributes(of):  # such as the list of users that logind gives access
        return False
    try:
        os.mknod(copy, status.st_mode, status.st_rdev)
    except OSError:
        return False  # in a user namespace, or a container
    os.chown(copy, status.st_uid, status.st_gid)
    os.chmod(copy, stat.S_IMODE(status.st_mode))
    return True


def _add(directory: str, names: tuple[str, ...]) -> None:
    """Puts a read-only tmpfs in place of `directory`, with these empty files, and links to everything that was in it.

    It takes two mounts. One for each of a hundred settings, as `rebuild` makes them, took 70 ms.
    """
    os.mkdir(_STAGING)
    mount("tmpfs", _STAGING, "tmpfs", MS_NOSUID, "mode=755")
    os.mkdir(f"{_STAGING}/{_HOSTS}")
    bind(directory, f"{_STAGING}/{_HOSTS}", recursive=True)
    for name in os.listdir(directory):
        os.symlink(f"{_HOSTS}/{name}", f"{_STAGING}/{name}")
    for name in names:
        _write(f"{_STAGING}/{name}", b"")
    mount(_STAGING, directory, flags=MS_MOVE)
    os.rmdir(_STAGING)
    mount("none", directory, flags=MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID)


def _write(path: str, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
