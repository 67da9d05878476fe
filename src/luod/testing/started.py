"""Runs inside a machine: starts a service that says READY=1 (sd_notify), and answers when it has.

`python3 -m luod.testing.started COMMAND…`; a JSON line on stdin is answered with `{"ready": true, "pid": …}`, once the
service is ready, or `{"ended": status}`. When stdin ends, the service gets SIGTERM and this ends with its status.
`luod.testing.host` starts it. Standard library only.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys


def main() -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(b"")  # the kernel gives it an abstract name: no directory has to be made
        service = subprocess.Popen(
            sys.argv[1:],
            env={**os.environ, "NOTIFY_SOCKET": notify.getsockname().replace(b"\0", b"@").decode()},
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
        )
        answer = _wait_for_ready(service, notify)
        for _ in sys.stdin:
            print(json.dumps(answer), flush=True)
        service.terminate()
        return service.wait()


def _wait_for_ready(service: subprocess.Popen[bytes], notify: socket.socket) -> dict[str, object]:
    pidfd = os.pidfd_open(service.pid)
    try:
        poll = select.poll()
        for fd in (pidfd, notify.fileno()):
            poll.register(fd, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == pidfd:
                    return {"ended": service.wait()}
                if b"READY=1" in notify.recv(4096).split(b"\n"):
                    return {"ready": True, "pid": service.pid}
    finally:
        os.close(pidfd)


if __name__ == "__main__":
    sys.exit(main())
