"""`python -m luod.daemon.hook_start COMMAND…` becomes the operator's hook COMMAND, once `luod.daemon.hooks` lets it.

It waits for a byte on its standard input, and keep has its pidfd by then; at the end of its input it ends, so that a
serve that dies leaves either nothing behind, or a process that the next serve ends.
"""

from __future__ import annotations

import os
import sys


def main() -> int:
    if os.read(0, 1) != b"h":
        return 1
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    try:
        os.execv(sys.argv[1], sys.argv[1:])
    except OSError as error:
        print(f"{sys.argv[1]}: {error.strerror}", file=sys.stderr)
    return 127


if __name__ == "__main__":
    sys.exit(main())
