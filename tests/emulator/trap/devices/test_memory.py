"""Memory of processes and files as devices reach it, and eventfds: `DeviceMemory` over real fds."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from luod import linux
from luod.emulator.model.ports import Errno
from luod.emulator.trap.devices.memory import DeviceMemory, EventFd
from luod.emulator.trap.process.memory_files import OpenFile
from luod.linux import Fd

SIZE = 4096
FULL = (1 << 64) - 2


def fds() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def memory() -> DeviceMemory:
    return DeviceMemory(print)


@pytest.fixture
def file() -> Iterator[OpenFile]:
    opened = OpenFile(linux.memfd("guest", SIZE, executable=False))
    yield opened
    opened.close()


def test_mappings_of_one_file_share_an_fd(memory: DeviceMemory, file: OpenFile) -> None:
    before = fds()
    mappings = [memory.pin_file(file, 8 * index, 8) for index in range(100)]
    assert fds() == before + 1
    for index, mapping in enumerate(mappings):
        mapping.write(0, index.to_bytes(8, "little"))
    assert os.pread(file.fileno(), 8, 8 * 99) == (99).to_bytes(8, "little")
    for mapping in mappings[:-1]:
        mapping.close()
    assert mappings[-1].read(0, 8) == (99).to_bytes(8, "little")
    mappings[-1].close()
    assert fds() == before
    again = memory.pin_file(file, 0, 8)
    assert again.read(0, 8) == bytes(8)
    again.close()


def test_mappings_of_one_process_share_an_fd(memory: DeviceMemory) -> None:
    before = fds()
    target = ctypes.create_string_buffer(b"contents", 8)
    address = ctypes.addressof(target)
    mappings = [memory.of_process(os.getpid(), address, 8, lambda _: False) for _ in range(100)]
    assert fds() == before + 1
    for mapping in mappings[:-1]:
        mapping.close()
    assert mappings[-1].read(0, 8) == b"contents"
    mappings[-1].close()
    assert fds() == before


def test_a_process_that_ended_is_not_taken_for_the_next_one_with_its_pid(memory: DeviceMemory) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    ended = memory.of_process(child.pid, 0, 8, lambda _: False)
    child.communicate(b"\n")
    with pytest.raises(Errno) as failure:
        ended.read(0, 8)
    assert failure.value.code == errno.EFAULT
    with pytest.raises(Errno) as failure:
        memory.of_process(child.pid, 0, 8, lambda _: False)
    assert failure.value.code == errno.ESRCH, "it is looked for, and not found in the table"
    ended.close()


def test_a_write_does_not_make_a_file_longer_that_was_truncated(memory: DeviceMemory, file: OpenFile) -> None:
    mapping = memory.pin_file(file, 0, SIZE)
    os.ftruncate(file.fileno(), 8)
    mapping.write(0, b"contents")
    with pytest.raises(Errno) as failure:
        mapping.write(1, b"contents")
    assert failure.value.code == errno.EFAULT
    assert file.size() == 8
    mapping.close()


class FilledAtThisMoment:
    """A poll that finds room for one more, which another thread takes right then."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def poll(self, timeout: int) -> list[tuple[int, int]]:
        os.eventfd_write(self._fd, FULL)
        return [(self._fd, 0)]


@pytest.mark.timeout(20, method="thread")
@pytest.mark.parametrize("flags", [0, os.EFD_NONBLOCK])
def test_a_counter_that_another_thread_fills_blocks_nobody(flags: int, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = signal.getsignal(signal.SIGALRM)
    counter = os.eventfd(0, flags)
    event = EventFd(Fd(os.dup(counter)))
    monkeypatch.setattr(event, "_room", FilledAtThisMoment(counter))
    event.signal()
    assert os.eventfd_read(counter) == FULL
    monkeypatch.undo()
    event.signal()
    assert os.eventfd_read(counter) == 1
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert fcntl.fcntl(counter, fcntl.F_GETFL) & os.O_NONBLOCK == (os.O_NONBLOCK if flags else 0)
    event.close()
    assert signal.getsignal(signal.SIGALRM) == handler
    os.close(counter)


@pytest.mark.timeout(20, method="thread")
def test_a_full_counter_stays_full() -> None:
    counter = os.eventfd(FULL & 0xFFFFFFFF)
    os.eventfd_write(counter, FULL - (FULL & 0xFFFFFFFF))
    event = EventFd(Fd(os.dup(counter)))
    event.signal()
    assert os.eventfd_read(counter) == FULL
    event.close()
    os.close(counter)
