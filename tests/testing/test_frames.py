"""The page frames of a file in memory, by which tests show that memory was not copied."""

from __future__ import annotations

import os
import subprocess

import pytest

from luod.linux import memfd
from luod.testing.frames import frames, memfd_of
from luod.testing.interpreter import interpreter_for
from luod.testing.tools import cannot_run, for_root

SIZE = 16 * 4096


def test_a_page_has_one_frame_for_every_file_that_is_the_same() -> None:
    for_root("which is told page frames")
    with memfd("first", SIZE) as first, memfd("second", SIZE) as second:
        for file in (first, second):
            os.pwrite(file.fileno(), b"x" * 8192, 3 * 4096)
        found = frames(f"/proc/self/fd/{first.fileno()}")

        assert [page for page, frame in enumerate(found) if frame] == [3, 4]
        assert frames(f"/proc/{os.getpid()}/fd/{first.fileno()}") == found
        assert not set(found[3:5]) & set(frames(f"/proc/self/fd/{second.fileno()}"))


def test_a_hole_stays_a_hole() -> None:
    for_root("which is told page frames")
    with memfd("holes", SIZE) as file:
        os.pwrite(file.fileno(), b"x", SIZE - 1)
        frames(f"/proc/self/fd/{file.fileno()}")
        assert os.fstat(file.fileno()).st_blocks * 512 == 4096


def test_the_memfd_of_a_process_is_found_by_its_size() -> None:
    with memfd("ram", SIZE) as file, memfd("state", 4096):
        assert os.path.samestat(os.stat(memfd_of(os.getpid(), SIZE)), os.fstat(file.fileno()))
        with pytest.raises(LookupError, match="no memfd of 12345 bytes"):
            memfd_of(os.getpid(), 12345)


def test_a_user_who_is_not_told_frames_gets_an_error() -> None:
    for_root("to become another user")
    python = interpreter_for(65534) or cannot_run("uid 65534 has no Python that can import luod")
    with memfd("ram", SIZE) as file:
        os.pwrite(file.fileno(), b"x", 0)
        done = subprocess.run(
            python.module("luod.testing.frames", f"/proc/self/fd/{file.fileno()}"),
            env={**os.environ, **python.environment},
            pass_fds=[file.fileno()],
            user=65534,
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
    assert "MachineUnavailable: the kernel tells page frames only to root" in done.stderr
