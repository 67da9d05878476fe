"""Runs inside a machine: starts a service that says READY=1 (sd_notify), and answers when it has.

`python3 -m luod.testing.started COMMAND…`; a JSON line on stdin is answered with `{"ready": true, "pid": …}`, once the
service is ready, or `{"ended": status}`. When stdin ends, the service gets SIGTERM and this ends with its status.
`luod.testing.host` starts it. Standard library only.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import subprocess
import sys
import tempfile


def main() -> int:
    with (
        tempfile.TemporaryDirectory(prefix="luod-notify-") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify,
    ):
        notify.bind(f"{folder}/socket")
        service = subprocess.Popen(
            sys.argv[1:],
            env={**os.environ, "NOTIFY_SOCKET": f"{folder}/socket"},
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
        with selectors.DefaultSelector() as selector:
            selector.register(notify, selectors.EVENT_READ)
            selector.register(pidfd, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is not notify:
                        return {"ended": service.wait()}
                    if b"READY=1" in notify.recv(4096).split(b"\n"):
                        return {"ready": True, "pid": service.pid}
    finally:
        os.close(pidfd)


if __name__ == "__main__":
    sys.exit(main())
