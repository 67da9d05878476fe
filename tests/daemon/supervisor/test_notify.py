"""$NOTIFY_SOCKET of any kind: what can be told is told, and nothing that fails there ends luod."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

import pytest

from luod.daemon.supervisor import notify

VSOCK = [socket.SOCK_SEQPACKET, socket.SOCK_STREAM, socket.SOCK_DGRAM]


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_a_socket_that_is_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    address = f"{tmp_path}/notify" if kind == "path" else f"@luod-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as reader:
        reader.bind(address.replace("@", "\0", 1) if kind == "abstract" else address)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        assert notify.ready() is None
        assert reader.recv(100) == b"READY=1"
    assert "NOTIFY_SOCKET" not in os.environ


@pytest.mark.parametrize(
    "address",
    ["/nonexistent", "@nobody", "relative", "/", "@", "/" + "x" * 200, "vsock:2", "vsock:a:b", "vsock:2:1234:5",
     "vsock:99999999999:1", "vsock-odd:2:1", "vsock:2:1234", "tcp:1.2.3.4:5", " ", "\udcff", "/\udcff"],
)  # fmt: skip
def test_one_that_cannot_be_told_is_a_reason(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert notify.ready()
    assert "NOTIFY_SOCKET" not in os.environ


def test_a_socket_that_is_full_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as reader,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as o,
    ):
        reader.bind(f"{tmp_path}/notify")
        o.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                o.sendto(b"x", f"{tmp_path}/notify")
        monkeypatch.setenv("NOTIFY_SOCKET", f"{tmp_path}/notify")
        assert notify.ready()


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


def test_without_it_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert notify.ready() is None
