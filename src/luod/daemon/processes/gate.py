"""The gate of a process that serve starts: it waits there, at its standard input, until keep holds its pidfd.

So a serve that dies leaves either nothing behind, since at the end of its input the process ends, or a process that the
next serve can end. `lift` is serve's side, in `luod.daemon.cleanup.worker` and `luod.daemon.updates.hooks`; the rest is
the process's. Standard library only, and little of it: what waits here is to start fast. `luod.daemon.updates.reboot`
has a byte of its own to wait for.
"""

from __future__ import annotations

import os
from typing import IO, TextIO

_GO = b"g"


def lift(stdin: IO[bytes]) -> None:
    """Lets the process begin that has `stdin` as its standard input, and closes that."""
    try:
        os.write(stdin.fileno(), _GO)
    except BrokenPipeError:
        pass  # it ended at once; its status says how
    finally:
        stdin.close()


def wait() -> bool:
    """Waits until it is lifted; standard input is empty from then on. False: it never is, since serve is gone."""
    go = os.read(0, 1) == _GO
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return go


def become(command: list[str], complaints: TextIO) -> int:
    """Is the operator's `command` from here on. Returns, with the status to end with, when it cannot be started."""
    try:
        os.execv(command[0], command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=complaints)
    return 127
