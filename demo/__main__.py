"""`make demo`: boots an emulated machine and shows, with times, how three VMMs live through a kernel update."""

from __future__ import annotations

import os
import sys
import tempfile

from demo.scenario import Guest, can_become, run
from luod.errors import LuodError
from luod.testing import EmulatedMachine, Host

MEBIBYTES = 64
OTHER_UID = 1000
DEVICE = "0000:01:00.0"


def boot() -> EmulatedMachine:
    """Returns a machine with a device, or one without where there is no FUSE for it."""
    if os.access("/dev/fuse", os.R_OK | os.W_OK):
        return EmulatedMachine(arguments=("--vfio", DEVICE))
    print("This uid may not use /dev/fuse, so the machine has no devices.")
    return EmulatedMachine()


def main() -> int:
    print(f"A live update on an emulated machine: three VMMs, {MEBIBYTES} MiB each, one with a device, one kexec.")
    try:
        with tempfile.TemporaryDirectory(prefix="luod-demo-") as state, boot() as machine:
            # Such as the way in which the device is opened, on a host without FUSE.
            for line in machine.log().splitlines():
                print(line)
            other = OTHER_UID if can_become(machine, OTHER_UID) else None
            if other is None:
                print("Only one uid can be mapped here, so all VMMs run under it.")
            guests = (Guest("vm-alice", None), Guest("vm-bob", other), Guest("vm-carol", None, DEVICE))
            host = Host(machine, state_directory=state)
            host.forked = False  # its timeline shows luod's start
            outcome = run(host, guests, mebibytes=MEBIBYTES, updates=1, tell=print)
    except LuodError as error:
        print(f"the demo failed: {error}\n  {error.hint}", file=sys.stderr)
        return 1
    print(f"Done: {outcome.bytes_carried >> 20} MiB carried between processes that never met.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
