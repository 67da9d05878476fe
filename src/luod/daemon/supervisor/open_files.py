"""The open files of luod's processes: the standard three, and how many there may be. Standard library only."""

from __future__ import annotations

import contextlib
import os
import resource
import sys

from luod.static import Final

FIRST: Final = 3
"""The first fd after the standard ones."""
LEAST: Final = 64
"""The minimum number of fds for luod, to hold a few sessions and answer a few clients."""
_ENOUGH: Final = 1024


def open_standard() -> None:
    """Opens /dev/null as each missing one of stdin, stdout and stderr.

    Otherwise the next opened file would get its number, and the log would be written to it.
    """
    for number in range(FIRST):
        try:
            os.fstat(number)
        except OSError:
            try:
                os.open(os.devnull, os.O_RDWR)
            except OSError:
                os.open("/", os.O_RDONLY)


def raise_limit() -> int:
    """Raises the limit of fds to the maximum for root: a session takes one in each process. Returns the limit.

    If that is too low for a hundred sessions, it raises the hard limit too, if this process may.
    """
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < _ENOUGH:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (_ENOUGH, _ENOUGH))
    with contextlib.suppress(OSError, ValueError):
        _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft >= 0 else sys.maxsize
