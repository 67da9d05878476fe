"""The order in which requests at a device node are answered. They are written to a socket in place of /dev/fuse."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from luod.emulator.model.kernel import Kernel
from luod.emulator.model.ports import Errno
from luod.emulator.trap.fuse.server import FuseNode
from luod.emulator.trap.process.caller import Thread
from luod.emulator.trap.process.memory_files import HostMemory
from luod.emulator.trap.supervisor import LiveUpdateDevice
from luod.linux import Fd
from luod.uapi import fuse as uapi

OPEN = uapi.OPEN_IN.pack(os.O_RDWR, 0)


def no_thread(tid: int) -> Thread:
    raise AssertionError(f"asked about {tid}")


class Node:
    """The node of /dev/liveupdate, and the kernel's side of it."""

    def __init__(self) -> None:
        self._kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.device = LiveUpdateDevice(Kernel(HostMemory(print)), no_thread)
        self._node = FuseNode(Fd(ours.detach()), self.device)
        self._unique = 0

    def close(self) -> None:
        self._kernel.close()
        self._node.close()

    def request(self, opcode: int, body: bytes) -> int:
        """Sends a request. Returns its number."""
        self._unique += 1
        header = uapi.IN_HEADER.pack(uapi.IN_HEADER.size + len(body), opcode, self._unique, uapi.ROOT_ID, 0, 0, 1, 0)
        self._kernel.send(header + body)
        return self._unique

    def answers(self) -> dict[int, tuple[int, bytes]]:
        """Has all requests answered. Returns the errno and the reply by the requests' numbers, in order."""
        assert self._node.serve()
        found: dict[int, tuple[int, bytes]] = {}
        self._kernel.setblocking(False)
        while True:
            try:
                reply = self._kernel.recv(1 << 16)
            except BlockingIOError:
                return found
            _, error, unique = uapi.OUT_HEADER.unpack_from(reply)
            found[unique] = -error, reply[uapi.OUT_HEADER.size :]

    def opened(self) -> int:
        """Opens the device. Returns its handle."""
        number = self.request(uapi.FUSE_OPEN, OPEN)
        error, reply = self.answers()[number]
        assert error == 0
        handle, _, _ = uapi.OPEN_OUT.unpack(reply)
        return int(handle)


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    yield node
    node.close()


def release(handle: int) -> bytes:
    return uapi.RELEASE_IN.pack(handle, 0, 0, 0)


def test_a_release_behind_the_open_that_followed_it_comes_first(node: Node) -> None:
    first = node.opened()
    again = node.request(uapi.FUSE_OPEN, OPEN)
    closed = node.request(uapi.FUSE_RELEASE, release(first))
    answers = node.answers()
    assert list(answers) == [closed, again]
    assert [answers[number][0] for number in (closed, again)] == [0, 0]


def test_an_open_without_a_release_is_busy(node: Node) -> None:
    node.opened()
    again = node.request(uapi.FUSE_OPEN, OPEN)
    assert node.answers()[again][0] == errno.EBUSY


def test_a_refused_open_leaves_the_device_free(node: Node) -> None:
    refused = node.request(uapi.FUSE_OPEN, uapi.OPEN_IN.pack(os.O_RDWR | os.O_DIRECT, 0))
    assert node.answers()[refused][0] == errno.EINVAL
    node.opened()


def test_requests_that_follow_an_answer_wait_for_the_next_run(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a program that asks without a pause keeps those waiting that call in another way."""
    first = node.opened()
    more = [node.request(uapi.FUSE_OPEN, OPEN)]

    def open_and_ask_again() -> int:
        more.append(node.request(uapi.FUSE_OPEN, OPEN))
        raise Errno(errno.EBUSY)

    monkeypatch.setattr(node.device, "open", open_and_ask_again)
    assert list(node.answers()) == more[:1]
    assert list(node.answers()) == more[1:2]
    node.device.release(first)
