"""Enters a chroot as a plain user and becomes a command: `chroot_as.py DIRECTORY UID COMMAND…`.

All of the host is bound to DIRECTORY, in a mount namespace of its own. Run by root.
"""

from __future__ import annotations

import os
import sys

from luod.emulator.machine.namespaces import CLONE_NEWNS, MS_REC, make_private
from luod.linux import MS_BIND, syscall

directory, uid = sys.argv[1], int(sys.argv[2])
syscall("unshare", CLONE_NEWNS)
make_private()
syscall("mount", b"/", os.fsencode(directory), None, MS_BIND | MS_REC, None)
os.chroot(directory)
os.chdir("/")
os.setgroups([])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
os.execvp(sys.argv[3], sys.argv[3:])
