"""`make demo`: boots an emulated machine and tells, with times, how two VMMs live through a kernel update."""

from __future__ import annotations

import sys
import tempfile

from demo.scenario import Guest, can_become, run
from luod.errors import LuodError
from luod.testing import EmulatedMachine, Host

MEBIBYTES = 64
OTHER_UID = 1000


def main() -> int:
    print("A live update on an emulated machine: two VMMs, 64 MiB each, one kexec.")
    try:
        with tempfile.TemporaryDirectory(prefix="luod-demo-") as state, EmulatedMachine() as machine:
            for (
                line
            ) in machine.log().splitlines():  # such as which way the device is opened, where FUSE is not to be had
                print(line)
            other = OTHER_UID if can_become(machine, OTHER_UID) else None
            if other is None:
                print("Only one uid can be mapped here, so both VMMs run under it.")
            guests = (Guest("vm-alice", None), Guest("vm-bob", other))
            outcome = run(Host(machine, state_directory=state), guests, mebibytes=MEBIBYTES, updates=1, tell=print)
    except LuodError as error:
        print(f"the demo failed: {error}\n  {error.hint}", file=sys.stderr)
        return 1
    print(f"Done: {outcome.bytes_carried >> 20} MiB carried between processes that never met.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
