"""luod as systemd's PID 1 starts it after its own kexec: with sessions that it has retrieved, from its fd store.

`python3 -m tests.programs.handed_over BOOT NAMES OPTION…`: the sessions NAMES, with commas between them, were stored in
the boot BOOT.
"""

from __future__ import annotations

import fcntl
import os
import sys

from luod.liveupdate.device import LiveUpdate

FIRST = 3


def main(boot: str, names: list[str], options: list[str]) -> None:
    with LiveUpdate(patience=10.0) as device:
        sessions = [device.retrieve(name) for name in names]
    # Above the numbers that they get.
    fds = [fcntl.fcntl(session.fileno(), fcntl.F_DUPFD_CLOEXEC, 100) for session in sessions]
    for number, fd in enumerate(fds, start=FIRST):
        os.dup2(fd, number, inheritable=True)
    os.environ |= {
        "LISTEN_PID": str(os.getpid()),
        "LISTEN_FDS": str(len(names)),
        "LISTEN_FDNAMES": ":".join(f"{boot}.outgoing.{name}" for name in names),
    }
    os.execv(sys.executable, [sys.executable, "-m", "luod.daemon.main", *options])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2].split(","), sys.argv[3:])
