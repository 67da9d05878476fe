"""Which files luod receives, and what it needs to start the process that receives them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from luod.ipc.server import receiver


def pipe() -> int:
    ours, theirs = os.pipe()
    os.close(theirs)
    return ours


def terminal() -> int:
    ours, theirs = os.openpty()
    os.close(ours)
    return theirs


FILES: dict[str, tuple[Callable[[], int], str | None]] = {
    "memory": (lambda: os.memfd_create("ram"), "memory"),
    "memory with seals": (lambda: os.memfd_create("ram", os.MFD_ALLOW_SEALING), "memory"),
    "memory named as a session": (lambda: os.memfd_create("[luo_session] vm"), None),
    "a device that does nothing": (lambda: os.open("/dev/null", os.O_RDWR), "device"),
    "a device by its path alone": (lambda: os.open("/dev/null", os.O_PATH), None),
    "a terminal": (terminal, None),
    "a pipe": (pipe, None),
    "an event": (lambda: os.eventfd(0), None),
    "a regular file": (lambda: os.open(__file__, os.O_RDONLY), None),
    "a directory": (lambda: os.open("/dev", os.O_RDONLY), None),
}


@pytest.mark.parametrize("name", FILES)
def test_only_memory_and_devices_whose_close_blocks_nobody_are_received(name: str) -> None:
    make, kind = FILES[name]
    number = make()
    try:
        assert receiver.kind_of(number) == kind
    finally:
        os.close(number)


@pytest.mark.parametrize("name", FILES)
def test_only_a_file_with_the_link_of_a_session_may_be_one(name: str) -> None:
    """On an emulated machine a session has the link of a memfd of this name."""
    make, _kind = FILES[name]
    number = make()
    try:
        assert receiver.is_session(number) == (name == "memory named as a session")
    finally:
        os.close(number)


def test_a_file_of_another_file_system_with_the_name_of_a_session_is_not_one(tmp_path: Path) -> None:
    """A mount in another namespace shows its files from its own root; a FUSE server's close can block."""
    named = tmp_path / "[luo_session] vm"
    named.touch()
    number = os.open(named, os.O_RDONLY)
    try:
        assert not receiver.is_session(number)
    finally:
        os.close(number)


def test_a_receiver_imports_next_to_nothing() -> None:
    source = f"exec(open({receiver.__file__!r}).read(), {{'__name__': 'receiver'}}); import sys; print(*sys.modules)"
    command = [sys.executable, "-I", "-S", "-c", source]
    modules = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert not {"asyncio", "ctypes", "json", "socket", "subprocess", "typing"} & set(modules)
