"""An operator who wants an update, whatever dies: loads the kernel and asks luod for it, again and again.

`python3 -m tests.programs.updating ADMIN_SOCKET KERNEL DIARY BEGIN`, inside a machine: it never ends but with the
machine. It waits for what came over the last jump to be finished, and for a participant. It asks luod only once DIARY,
from byte BEGIN on, says that a VMM is `carrying`: each answer is a call more to be killed at. Standard library and luod
only.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from luod.client import Client
from luod.ctl import admin
from luod.errors import LuodError
from luod.testing.waiting import eventually

PAUSE = 0.1


def numbered(socket: str) -> list[str]:
    """Returns the outgoing sessions NAME#GENERATION. No update is under way, so there must be none."""
    listed = Client(socket).sessions()
    return [session.name for session in listed if session.direction == "outgoing" and "#" in session.name]


def main(socket: str, kernel: str, diary: str, begin: str) -> None:
    command_line = Path("/proc/cmdline").read_text(encoding="ascii").strip()
    told = Path(diary)
    eventually(lambda: b'"carrying"' in told.read_bytes()[int(begin) :], within=600, describe="the VMM is carried")
    while True:
        try:
            status = admin.status(socket)
            if status.participants and not status.waiting + status.retrieved + status.torn and status.state == "idle":
                if outlived := numbered(socket):
                    with open(diary, "ab") as notes:
                        notes.write(json.dumps({"outlived": outlived}).encode() + b"\n")
                if not status.kernel_loaded:
                    with open(kernel, "rb") as file:
                        admin.load_kernel(socket, admin.NextKernel(file, None, command_line))
                for progress in admin.update(socket, deadline=None, skip_unready=False, dry_run=False):
                    print(progress.state, progress.reason or "", file=sys.stderr)
        except LuodError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        time.sleep(PAUSE)


if __name__ == "__main__":
    main(*sys.argv[1:])
