"""Runs inside a machine: starts luod as PID 1 does, with the fds of its store, and stores what luod gives it.

`python3 -m tests.programs.service_manager COMMAND…`. A JSON line on stdin is answered: `{"start": [NAME…]}` starts
luod without the stored fds of these names, which are closed; the answer is as of `luod.testing.started`. `{}` is
answered with the names in the store. `{"hide": NAME}` puts one aside, and `{"show": NAME}` puts it back, before all.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import tempfile
from pathlib import Path

from luod.linux import Fd, has_ended
from luod.testing import eventually
from tests.daemon.supervisor.pid_1 import Pid1, close

ROOM = 256
_FIRST = 3
_ABOVE = 500


def main() -> int:
    with Pid1(Path(tempfile.mkdtemp()), ROOM) as pid_1:
        aside: dict[str, Fd] = {}
        for line in sys.stdin:
            asked = json.loads(line)
            for name in [name for name in pid_1.kept if name.partition(".")[2] == asked.get("hide")]:
                aside[name] = pid_1.kept.pop(name)
            if "show" in asked:
                pid_1.kept = {**aside, **pid_1.kept}
                aside = {}
            if "start" in asked:
                for name in [name for name in pid_1.kept if name.partition(".")[2].startswith(tuple(asked["start"]))]:
                    pid_1.kept.pop(name).close()
                answer = start(pid_1, sys.argv[1:])
            else:
                answer = {"names": sorted(close(pid_1.given()))}
            print(json.dumps(answer), flush=True)
    return 0


def start(pid_1: Pid1, command: list[str]) -> dict[str, object]:
    given = pid_1.given()
    pid_1.others.clear()
    pid = os.fork()
    if pid == 0:
        become(pid_1.address, given, command)
    close(given)
    pidfd = Fd(os.pidfd_open(pid))

    def ended_or_ready() -> bool:
        return bool(pid_1.others) or has_ended(pidfd)

    with pidfd:
        eventually(ended_or_ready, within=60, describe="luod is ready")
        return {"ready": any("READY" in words for words in pid_1.others), "pid": pid}


def become(address: str, given: dict[str, Fd], command: list[str]) -> None:
    copies = [fcntl.fcntl(fd.fileno(), fcntl.F_DUPFD, _ABOVE) for fd in given.values()]
    for number, copy in enumerate(copies, _FIRST):
        os.dup2(copy, number)
    os.closerange(_ABOVE, _ABOVE + 2 * ROOM)
    environment = {
        **os.environ,
        "NOTIFY_SOCKET": address,
        "FDSTORE": str(ROOM),
        "LISTEN_PID": str(os.getpid()),
        "LISTEN_FDS": str(len(given)),
        "LISTEN_FDNAMES": ":".join(given),
    }
    os.dup2(2, 1)
    os.execvpe(command[0], command, environment)


if __name__ == "__main__":
    sys.exit(main())
