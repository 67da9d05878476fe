"""The gate of a child process: it waits at its standard input until the supervisor holds its pidfd.

So a serve that dies leaves either no child, since that ends at the end of its input, or a child that the next serve can
end. `luod.daemon.processes.child` is serve's side. `python -m luod.daemon.processes.gate COMMAND…` waits, and becomes
the operator's COMMAND. It imports little, and only of the standard library, so that it starts fast.
"""

from __future__ import annotations

import os
import sys

from luod.static import IO, TextIO

AT_GATE = "LUOD_AT_GATE"
"""The variable with the number of an fd that a child closes when it waits at its gate, if serve waits for that."""
_GO = b"g"
_ORDER_BYTES = 64
"""The longest order: a write of so few bytes to a pipe is read as a whole."""
_HIDDEN = ("/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/")
"""By ProtectHome= and PrivateTmp= of luod.service."""


def lift(stdin: IO[bytes], order: str = "") -> bool:
    """Releases the child that has `stdin` as its standard input, and closes that. Returns False if it has ended.

    `order` is for `wait_for_order`: ASCII, of up to 63 bytes.
    """
    try:
        os.write(stdin.fileno(), _GO + order.encode("ascii"))
    except BrokenPipeError:
        return False
    finally:
        stdin.close()
    return True


def wait() -> bool:
    """Waits until the gate is lifted; standard input is empty from then on. Returns False if serve is gone before."""
    return wait_for_order() is not None


def wait_for_order() -> str | None:
    """Waits as `wait`. Returns the order of `lift`; None if serve is gone before."""
    if there := os.environ.pop(AT_GATE, ""):
        os.close(int(there))
    said = os.read(0, _ORDER_BYTES)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return said[len(_GO) :].decode("ascii") if said.startswith(_GO) else None


def become(command: list[str], complaints: TextIO) -> int:
    """Executes the operator's `command`. Returns an exit status if it cannot be started."""
    try:
        os.execv(command[0], command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}{_hidden(command[0])}", file=complaints)
    return 127


def _hidden(program: str) -> str:
    """Returns a remark on a program that luod's unit of systemd hides from luod and from what it runs."""
    if "SYSTEMD_EXEC_PID" in os.environ and program.startswith(_HIDDEN):
        return f"; luod.service has {', '.join(place.rstrip('/') for place in _HIDDEN)} hidden: put it elsewhere"
    return ""


if __name__ == "__main__":
    sys.exit(become(sys.argv[1:], sys.stderr) if wait() else 1)
