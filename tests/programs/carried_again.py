"""Init of an emulated machine: preserves memory, jumps, retrieves it, writes to it and preserves it again, three times.

Prints the seals of what came back, and "whole" or "torn", for each boot.
"""

from __future__ import annotations

import fcntl
import os

from luod.errors import KernelRefused
from luod.kexec import jump, load
from luod.linux import Fd
from luod.liveupdate import LiveUpdate, memory
from luod.uapi.memfd import F_GET_SEALS

BOOTS = 4


def main() -> None:
    boot = int(os.environ["LUOEMU_BOOT"])
    ram: Fd
    if boot == 1:
        try:
            ram = memory(4096, "ram")
        except KernelRefused as error:
            print(error.errno, error.hint, flush=True)
            # A file of a tmpfs is memory that can be carried too.
            ram = Fd(os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR, 0o600))
            os.ftruncate(ram.fileno(), 4096)
    else:
        with LiveUpdate(patience=5.0) as device:
            session = device.retrieve_session("vm")
        with session:
            ram = session.retrieve(1)
            print(fcntl.fcntl(ram.fileno(), F_GET_SEALS), end=" ")
            print("whole" if os.pread(ram.fileno(), 1, 0) == b"%d" % (boot - 1) else "torn", flush=True)
            session.finish()
    os.pwrite(ram.fileno(), b"%d" % boot, 0)
    if boot == BOOTS:
        ram.close()
        return
    with LiveUpdate(patience=5.0) as device:
        outgoing = device.create_session("vm")
    outgoing.preserve(ram, 1)
    with Fd(os.open(os.environ["LUOEMU_KERNEL"], os.O_RDONLY)) as kernel:
        load(kernel, None, "liveupdate=on kho=on")
    jump()


if __name__ == "__main__":
    main()
