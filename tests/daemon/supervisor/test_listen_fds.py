"""The fds that a program is started with: each under its number, at whatever numbers they were, up to the limit."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

_SOURCE = """
import os, resource, sys
from luod.daemon.supervisor import listen_fds
limit, *numbers = map(int, sys.argv[1:])
files = {}
for number in numbers:
    fd = os.memfd_create(str(number))
    if fd < 1000:
        os.dup2(fd, 1000 + number)
        os.close(fd)
    files[number] = 1000 + number
for number, high in files.items():
    os.dup2(high, number, inheritable=False)
    os.close(high)
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
show = "import os; print(*(os.readlink(f'/proc/self/fd/{n}').split(':')[1].split()[0] for n in range(3, %d)))"
command = [sys.executable, "-c", show % (3 + len(numbers))]
listen_fds.execute(command, {str(n): n for n in numbers}, dict(os.environ))
"""


def placed(*numbers: int, limit: int) -> list[int]:
    """Starts a program with fds at these numbers. Returns the fds that it finds from 3 on."""
    command = [sys.executable, "-c", _SOURCE, str(limit), *map(str, numbers)]
    return [int(word) for word in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()]


@pytest.mark.parametrize(
    "numbers",
    [(3, 4, 5), (5, 4, 3), (4, 5, 3), (4, 3), (9, 8, 7), (4, 3, 6, 5, 10), (20, 3, 4, 5), tuple(range(40, 3, -1))],
)
def test_each_fd_is_at_its_number(numbers: tuple[int, ...]) -> None:
    assert placed(*numbers, limit=max(numbers) + 8) == list(numbers)


@settings(max_examples=15)
@given(st.lists(st.integers(3, 30), min_size=1, max_size=20, unique=True))
def test_each_fd_is_at_its_number_wherever_it_was(numbers: list[int]) -> None:
    assert placed(*numbers, limit=40) == numbers
