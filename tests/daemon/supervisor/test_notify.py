"""The socket of the service manager, of any kind: what can be reported is, and nothing that fails there ends luod."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from luod.daemon.supervisor import notify
from luod.daemon.supervisor.notify import ServiceManager

VSOCK = [socket.SOCK_SEQPACKET, socket.SOCK_STREAM, socket.SOCK_DGRAM]


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[socket.socket]:
    """Yields the socket of a service manager, at `notify` in the test's folder."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"{tmp_path}/notify")
        yield receiver


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_a_socket_that_is_read_gets_a_report(tmp_path: Path, kind: str) -> None:
    address = f"{tmp_path}/notify" if kind == "path" else f"@luod-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as reader:
        reader.bind(address.replace("@", "\0", 1) if kind == "abstract" else address)

        reason = ServiceManager(address).ready()

        assert (reason, reader.recv(100)) == ("", b"READY=1")


@pytest.mark.parametrize(
    "address",
    ["/nonexistent", "@nobody", "relative", "/", "@", "/" + "x" * 200, "vsock:2", "vsock:a:b", "vsock:2:1234:5",
     "vsock:99999999999:1", "vsock-odd:2:1", "vsock:2:1234", "tcp:1.2.3.4:5", " ", "\udcff", "/\udcff"],
)  # fmt: skip
def test_a_report_that_cannot_be_sent_is_a_reason(address: str) -> None:
    manager = ServiceManager(address)

    assert manager.ready()
    assert manager.settle()


def test_a_socket_that_is_full_is_given_up(tmp_path: Path, receiver: socket.socket) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                other.sendto(b"x", f"{tmp_path}/notify")

        assert ServiceManager(f"{tmp_path}/notify").ready()


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("vsock:2:1234", VSOCK),
        ("vsock-stream:2:1234", [socket.SOCK_STREAM]),
        ("vsock-dgram:2:1234", [socket.SOCK_DGRAM]),
        ("vsock-seqpacket:2:1234", [socket.SOCK_SEQPACKET]),
    ],
)
def test_vsock_addresses_are_read_as_systemd_writes_them(text: str, kinds: list[int]) -> None:
    assert notify.parse(text) == notify.Address(socket.AF_VSOCK, tuple(kinds), (2, 1234))


def test_without_a_service_manager_nothing_is_sent_and_nothing_fails() -> None:
    manager = ServiceManager("")

    assert [manager.ready(), manager.reloading(), manager.alive(), manager.store("a", 0), manager.settle()] == [""] * 5


def test_a_reload_has_the_time_at_which_it_began(tmp_path: Path, receiver: socket.socket) -> None:
    assert ServiceManager(f"{tmp_path}/notify").reloading() == ""

    assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=[0-9]+", receiver.recv(100))


def test_an_fd_is_stored_under_its_name_and_not_watched(tmp_path: Path, receiver: socket.socket) -> None:
    with (tmp_path / "file").open("w+") as file:
        assert ServiceManager(f"{tmp_path}/notify").store("outgoing.vm", file.fileno()) == ""

        message, (stored,), _flags, _address = socket.recv_fds(receiver, 100, 4)
        try:
            assert message == b"FDSTORE=1\nFDNAME=outgoing.vm\nFDPOLL=0"
            assert os.path.sameopenfile(stored, file.fileno())
        finally:
            os.close(stored)


def test_settling_waits_until_the_service_manager_closes_the_barrier(tmp_path: Path, receiver: socket.socket) -> None:
    events: list[str] = []

    def process() -> None:
        message, fds, _flags, _address = socket.recv_fds(receiver, 100, 4)
        events.append(message.decode())
        for fd in fds:
            os.close(fd)

    thread = threading.Thread(target=process)
    thread.start()
    reason = ServiceManager(f"{tmp_path}/notify").settle()
    thread.join()

    assert (reason, events) == ("", ["BARRIER=1"])


def test_a_service_manager_that_does_not_answer_is_a_reason(tmp_path: Path, receiver: socket.socket) -> None:
    assert ServiceManager(f"{tmp_path}/notify").settle(0.01) == "the service manager does not answer"
