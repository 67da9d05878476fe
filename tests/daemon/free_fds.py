"""A process of the tests with few free fds. Used by tests/daemon/."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def only(free: int) -> Iterator[None]:
    """Leaves this process so many free fds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    numbers = [os.dup(0) for _ in range(free + 1)]
    for number in numbers:
        os.close(number)
    resource.setrlimit(resource.RLIMIT_NOFILE, (numbers[-1], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
