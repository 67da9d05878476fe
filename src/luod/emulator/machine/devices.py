"""The mounts of a machine's devices: /dev/vfio, /dev/iommu, and the parts of /sys with PCI devices and iommu groups.

`mount_all` runs inside the namespaces before init starts. `can_map` and `places` run in `luoemu`. Only machines with
devices import this.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from collections.abc import Sequence
from typing import Final

from luod import linux
from luod.emulator.machine.namespaces import (
    CLONE_NEWNS,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    make_private,
    mount,
)
from luod.emulator.machine.nodes import rebuild
from luod.emulator.model.ports import Errno
from luod.emulator.model.vfio.sysfs.sysfs import Directory, Sysfs
from luod.emulator.trap.devices.devices import DEVICES, HANDED_OUT, Mount
from luod.emulator.trap.devices.files import IOMMU_NAME
from luod.emulator.trap.fuse.server import FuseServer, Request
from luod.emulator.trap.process.procfs import identify
from luod.linux import Fd, syscall
from luod.uapi import fuse as uapi
from luod.uapi import iommufd

_MODULES: Final = ("iommufd", "vfio", "vfio_iommu_type1", "vfio_pci", "vfio_pci_core")
"""The modules of a kernel with such devices."""
_MODPROBE: Final = "/run/modprobe.d"
_HIDDEN: Final = "/run/luoemu/handed-out"
_MNT_DETACH: Final = 2
_MODE: Final = 0o755


def places(sysfs: Sysfs) -> tuple[str, ...]:
    """Returns the paths that the machine has of its own, relative to /sys, such as bus/pci."""
    found = []
    for top in _names(sysfs, ""):
        found += [f"{top}/{name}" for name in _names(sysfs, top)]
    return tuple(found)


def _names(sysfs: Sysfs, path: str) -> tuple[str, ...]:
    node = sysfs.lookup(path)
    return node.names if isinstance(node, Directory) else ()


def mount_all(in_sysfs: Sequence[str]) -> tuple[list[Mount], Fd]:
    """Makes all mounts. Returns them and the directory of HANDED_OUT, which is not mounted anywhere. Raises OSError.

    The caller owns all fds, and passes them on and closes them. The mounts answer only once the supervisor serves them.
    """
    mounts: list[Mount] = []
    try:
        os.mkdir(f"/{DEVICES}")
        mounts.append(_mount(DEVICES, f"/{DEVICES}"))
        os.symlink(f"{os.path.basename(DEVICES)}/{IOMMU_NAME}", iommufd.DEVICE)
        for place in in_sysfs:
            _make_place(f"/sys/{place}")
            mounts.append(_mount(place, f"/sys/{place}"))
        os.mkdir(_HIDDEN)
        _show_modules()
        mounts.append(_mount(HANDED_OUT, _HIDDEN))
        directory = Fd(os.open(_HIDDEN, os.O_PATH | os.O_CLOEXEC))
        syscall("umount2", os.fsencode(_HIDDEN), _MNT_DETACH)
        os.rmdir(_HIDDEN)
    except OSError:
        for mounted in mounts:
            mounted.fuse.close()
        raise
    return mounts, directory


def _show_modules() -> None:
    """Shows the modules in /sys/module, where scripts look for them, and makes modprobe(8) succeed for them."""
    missing = [f"/sys/module/{name}" for name in _MODULES if not os.path.isdir(f"/sys/module/{name}")]
    for path in missing:
        _make_place(path)
        for name, content in (("initstate", "live\n"), ("refcnt", "0\n")):
            with open(f"{path}/{name}", "w", encoding="ascii") as file:
                file.write(content)
    os.makedirs(_MODPROBE, exist_ok=True)
    with open(f"{_MODPROBE}/luoemu.conf", "w", encoding="ascii") as file:
        file.writelines(f"install {name} true\n" for name in _MODULES)


def _make_place(path: str) -> None:
    """Makes a directory in sysfs, where mkdir fails: a tmpfs takes the place of the parent of a missing one."""
    if os.path.isdir(path):
        return
    try:
        os.mkdir(path)
    except PermissionError:
        rebuild(os.path.dirname(path))
        os.mkdir(path)


def _mount(place: str, path: str) -> Mount:
    fuse = _mount_fuse(path)
    try:
        return Mount(place, fuse, identify(os.fsencode(path))[0])
    except OSError:
        fuse.close()
        raise


def _mount_fuse(path: str) -> Fd:
    # Opened inside the user namespace that mounts: the kernel compares the two.
    fuse = Fd(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    options = f"fd={fuse.fileno()},rootmode=40{_MODE:o},user_id=0,group_id=0,allow_other,default_permissions"
    try:
        mount("luoemu", path, "fuse", MS_NOSUID | MS_NODEV | MS_NOEXEC, options)
    except OSError:
        fuse.close()
        raise
    return fuse


class _Greeting(FuseServer):
    """Answers the first request and no other."""

    flags = uapi.FUSE_INIT_EXT | uapi.FUSE_PASSTHROUGH

    def _handle(self, request: Request) -> bytes | None:
        raise Errno(errno.ENOSYS)


def can_map() -> bool:
    """Returns whether this host lets FUSE map a memfd in place of a file. A child with its own mounts tries it.

    It takes Linux 6.9 and CAP_SYS_ADMIN outside of any user namespace.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            syscall("unshare", CLONE_NEWNS)
            make_private()
            server = _Greeting(_mount_fuse("/proc"))
            server.serve()
            memory = linux.memfd("probe", 4096, executable=False)
            request = bytearray(uapi.BACKING_MAP.pack(memory.fileno(), 0, 0))
            status = 0 if fcntl.ioctl(server.fileno(), uapi.FUSE_DEV_IOC_BACKING_OPEN, request) > 0 else 1
        except OSError:
            status = 1
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1] == 0
