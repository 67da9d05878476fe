"""`python -m luod.daemon.updates.reboot` waits at its gate, calls reboot(2), and writes why that returned.

The order at its gate is the count of loads of the image that it may start, empty if that is unknown.

It is a process of its own, since reboot(2) may hang for as long as a process is in a session's ioctl (docs/hazards.md,
H17). It imports little: guests are paused when it starts. It does not touch the disk, which may hang:
`luod.daemon.updates.disk` has called sync(2) before. `luod.daemon.updates.reboot_process` is serve's side.
"""

from __future__ import annotations

import sys

from luod import kexec
from luod.daemon.processes import gate
from luod.daemon.updates import reboot_report
from luod.errors import KernelRefused


def main() -> int:
    order = gate.wait_for_order()
    if order is None:
        return 0
    try:
        # serve's count: this process would also count an image that another process has loaded since (H19).
        kexec.jump(loads=int(order) if order else None, sync=False)
    except KernelRefused as error:
        reboot_report.write(error.errno or 0, error.call, error.meaning)
    return 1


if __name__ == "__main__":
    sys.exit(main())
