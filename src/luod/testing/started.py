"""Runs inside a machine: starts a service that says READY=1 (sd_notify), and answers when it has.

`python3 -m luod.testing.started [--fork] COMMAND…`; a JSON line on stdin is answered with `{"ready": true, "pid": …}`,
once the service is ready, or `{"ended": status}`. When stdin ends, the service gets SIGTERM and this ends with its
status. With --fork the service is a fork, if this process has imported its module: `luod.testing.starter` has.
`luod.testing.host` starts it. Standard library only.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys


def main() -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(b"")  # the kernel gives it an abstract name: no directory has to be made
        environment = {**os.environ, "NOTIFY_SOCKET": notify.getsockname().replace(b"\0", b"@").decode()}
        words = sys.argv[1:]
        pid = _fork(words[1:], environment) if words[0] == "--fork" else _exec(words, environment)
        pidfd = os.pidfd_open(pid)
        answer = _wait_for_ready(pid, pidfd, notify)
        for _ in sys.stdin:
            print(json.dumps(answer), flush=True)
        if "ready" in answer:
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            _, status = os.waitpid(pid, 0)
            return os.waitstatus_to_exitcode(status)
        return int(str(answer["ended"]))


def _exec(words: list[str], environment: dict[str, str]) -> int:
    """Starts the service. Returns its pid; the caller reaps it."""
    service = subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    service.returncode = 0  # it is reaped by its pid
    return service.pid


def _fork(words: list[str], environment: dict[str, str]) -> int:
    """Starts the service as a fork where that saves its imports, and else as `_exec`."""
    if len(words) < 3 or words[2] not in sys.modules:
        return _exec(words, environment)
    from luod.testing import forked

    if not forked.possible(words, environment):
        return _exec(words, environment)
    if (pid := os.fork()) == 0:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        forked.close_all_but((0, 1, 2))
        forked.run(words, environment)
    return pid


def _wait_for_ready(pid: int, pidfd: int, notify: socket.socket) -> dict[str, object]:
    poll = select.poll()
    for fd in (pidfd, notify.fileno()):
        poll.register(fd, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == pidfd:
                _, status = os.waitpid(pid, 0)
                return {"ended": os.waitstatus_to_exitcode(status)}
            if b"READY=1" in notify.recv(4096).split(b"\n"):
                return {"ready": True, "pid": pid}


if __name__ == "__main__":
    sys.exit(main())
