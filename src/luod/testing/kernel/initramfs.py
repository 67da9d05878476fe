"""The initramfs of a real-kernel machine: busybox and an /init that mounts the host's root and runs the agent.

It has two megabytes and is built in memory for each machine. Its own settings (the command, the shares) are in /init,
so a kernel that is loaded with the same initramfs boots the same, with any command line. It has no Python and no
packages: those are the host's, over 9p.
"""

from __future__ import annotations

import shlex
import stat
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from luod.errors import MachineUnavailable

HOST_TAG: Final = "host"
"""The 9p mount tag of the host's root, read-only."""
BUSYBOX: Final = Path("/bin/busybox")
PORT: Final = "/dev/vport0p1"
"""The virtio-serial port of the agent: the first of the first controller."""

_APPLETS: Final = ("mount", "mkdir", "ln", "ifconfig", "hostname", "env", "switch_root")
"""The programs of busybox that /init uses. To install all takes 0.2 s in each boot."""
_PT_INTERP: Final = 3
_NEW: Final = "/new"

# The root is an overlay: programs may write anywhere, into memory, and the host's files stay as they are.
_INIT: Final = """\
#!/bin/busybox sh
set -e
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=512000,cache=loose {host} /host
mount -t tmpfs -o mode=755 memory /memory
mkdir /memory/upper /memory/work
mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work root {new}
cd {new}
mount -t proc proc proc
mount -t sysfs sys sys
mount -t cgroup2 cgroup sys/fs/cgroup
mount -t debugfs debug sys/kernel/debug
mount -t devtmpfs dev dev
mkdir -p dev/pts dev/shm dev/mqueue
mount -t devpts -o gid=5,mode=620,ptmxmode=666 pts dev/pts
mount -t tmpfs -o mode=1777 shm dev/shm
mount -t mqueue mqueue dev/mqueue
mount -t tmpfs -o mode=755 run run
{shares}
ln -sf /proc/self/fd dev/fd
ifconfig lo up
hostname luod
# The port is announced by a message on the device's control queue.
until [ -c .{port} ]; do :; done
cd /
exec env -i {environment} switch_root {new} {command}
"""
_SHARE: Final = """\
mkdir -p .{path}
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=none {tag} .{path}
"""


@dataclass(frozen=True)
class Share:
    """A host directory that the machine may write to, at the same path. `tag` is its 9p mount tag."""

    tag: str
    path: str


def initramfs(
    command: Sequence[str], *, environment: Mapping[str, str], shares: Sequence[Share] = (), busybox: Path = BUSYBOX
) -> bytes:
    """Returns an initramfs (cpio, not compressed) with an /init that executes `command` in the host's root.

    `environment` is the command's. Raises MachineUnavailable: busybox is missing, or not linked statically.
    """
    init = _INIT.format(
        host=HOST_TAG,
        new=_NEW,
        port=PORT,
        shares="".join(_SHARE.format(tag=share.tag, path=shlex.quote(share.path)) for share in shares),
        environment=shlex.join(f"{name}={value}" for name, value in environment.items()),
        command=shlex.join(command),
    )
    archive = Archive()
    for folder in ("bin", "dev", "host", "memory", _NEW.strip("/")):
        archive.add(folder, stat.S_IFDIR | 0o755)
    # The kernel opens it for init before anything is mounted.
    archive.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    archive.add("bin/busybox", stat.S_IFREG | 0o755, data=static_busybox(busybox))
    for name in _APPLETS:
        archive.add(f"bin/{name}", stat.S_IFLNK | 0o777, data=b"busybox")
    archive.add("init", stat.S_IFREG | 0o755, data=init.encode())
    return archive.finished()


class Archive:
    """A cpio archive in the newc format (Documentation/driver-api/early-userspace/buffer-format.rst)."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._last_inode = 0

    def add(self, name: str, mode: int, *, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        """Adds an entry. `mode` includes the file type, `device` is for a device node."""
        self._last_inode += 1
        path = name.encode() + b"\0"
        # Inode, mode, uid, gid, links, mtime, size, the file system's device, the node's, name's size, checksum.
        fields = (self._last_inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(path), 0)
        self._data += b"070701" + b"".join(b"%08X" % field for field in fields) + path
        self._pad()
        self._data += data
        self._pad()

    def finished(self) -> bytes:
        """Returns the archive. Nothing may be added afterwards."""
        self.add("TRAILER!!!", 0)
        return bytes(self._data)

    def _pad(self) -> None:
        self._data += bytes(-len(self._data) % 4)


def static_busybox(path: Path = BUSYBOX) -> bytes:
    """Returns the program busybox. Raises MachineUnavailable: it is missing, or not linked statically."""
    try:
        program = path.read_bytes()
    except OSError:
        program = b""
    if program[:4] != b"\x7fELF" or _has_interpreter(program):
        raise MachineUnavailable("needs busybox, of the Debian package busybox-static")
    return program


def _has_interpreter(program: bytes) -> bool:
    """Returns whether a 64-bit ELF program needs a dynamic linker, which the initramfs does not have."""
    (offset,) = struct.unpack_from("<Q", program, 32)
    size, count = struct.unpack_from("<HH", program, 54)
    return any(struct.unpack_from("<I", program, offset + i * size)[0] == _PT_INTERP for i in range(count))
