"""Becomes a command as uid 1000 on a host whose /dev/fuse every user may open: `open_fuse.py COMMAND…`.

A copy of the node, in a mount namespace of its own. Run by root.
"""

from __future__ import annotations

import os
import stat
import sys

from luod.emulator.machine.namespaces import CLONE_NEWNS, make_private
from luod.linux import MS_BIND, syscall

USER = 1000

syscall("unshare", CLONE_NEWNS)
make_private()
syscall("mount", b"tmpfs", b"/run", b"tmpfs", 0, None)
os.mknod("/run/fuse", stat.S_IFCHR | 0o600, os.makedev(10, 229))
os.chmod("/run/fuse", 0o666)
syscall("mount", b"/run/fuse", b"/dev/fuse", None, MS_BIND, None)
os.setgroups([])
os.setresgid(USER, USER, USER)
os.setresuid(USER, USER, USER)
os.execvp(sys.argv[1], sys.argv[1:])
