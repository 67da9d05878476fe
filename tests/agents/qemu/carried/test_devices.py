"""What of a guest's devices goes on in the next kernel, and what is connected again: the table of docs/qemu.md."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path

import pytest

from luod.testing import require_tool
from tests.agents.qemu.carried.host import Host, Witness, counting
from tests.agents.qemu.guests import CountingGuest

SLOW = "throttling.iops-write=20"
"""QEMU holds each write back for 50 ms, so one is in flight at nearly any moment."""
TIMEOUT = 60


@pytest.mark.parametrize("disk_format", ["raw", "qcow2"])
def test_a_disk_loses_no_write_in_flight(host: Host, tmp_path: Path, disk_format: str) -> None:
    guest = counting(tmp_path, disk_format=disk_format)
    host.run(guest, drive=SLOW)
    for _ in range(2):
        host.update()
        host.restore(guest)
    host.agents[guest.name].signal()  # SIGTERM ends QEMU, which closes the image
    host.agents[guest.name].wait()
    guest.assert_nothing_is_lost()
    require_tool("qemu-img", package="qemu-utils")
    if disk_format == "qcow2":
        subprocess.run(["qemu-img", "check", "-q", guest.disk], check=True)


@pytest.mark.parametrize("disk_format", ["raw", "qcow2"])
def test_a_disk_is_not_locked_once_the_state_is_written(host: Host, tmp_path: Path, disk_format: str) -> None:
    """So that another QEMU can open it, also on the same kernel. A guest that goes on has the lock again."""
    guest = counting(tmp_path, disk_format=disk_format)
    host.run(guest)
    assert is_locked(guest)
    witness = Witness(host)
    witness.begin()
    assert is_locked(guest)
    witness.prepared()
    witness.until_ready(guest.name)

    assert not is_locked(guest)
    guest.assert_nothing_is_lost()  # qcow2 too: its tables are written back

    witness.veto("freezing")
    host.until_it_counts(guest)
    assert is_locked(guest)


def is_locked(guest: CountingGuest) -> bool:
    """Returns whether a QEMU has the disk open for writing."""
    qemu_io = require_tool("qemu-io", package="qemu-utils")
    command = [qemu_io, "-f", guest.disk_format, "-c", "read 0 512", str(guest.disk)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or 'Failed to get "write" lock' in done.stderr, done.stderr
    return done.returncode != 0


@pytest.fixture
def listening(host: Host, tmp_path: Path) -> tuple[CountingGuest, Path]:
    """Returns a running guest with a serial port, a display and a monitor on sockets of its folder."""
    guest = counting(tmp_path)
    folder = guest.folder
    host.run(
        guest,
        *("-serial", f"unix:{folder}/serial,server=on,wait=off"),
        *("-vnc", f"unix:{folder}/vnc"),
        *("-qmp", f"unix:{folder}/qmp,server=on,wait=off"),
    )
    return guest, folder


@pytest.mark.parametrize("name", ["serial", "vnc", "qmp"])
def test_a_client_of_a_socket_is_hung_up_on_and_connects_again_at_the_same_path(
    host: Host, listening: tuple[CountingGuest, Path], name: str
) -> None:
    guest, folder = listening
    with connected(folder / name) as before:
        assert greeting(before, name)
        host.update()
        assert hung_up(before)
    host.restore(guest)

    with connected(folder / name) as after:
        assert greeting(after, name)
    guest.assert_nothing_is_lost()


def connected(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(TIMEOUT)
    client.connect(str(path))
    return client


def greeting(client: socket.socket, name: str) -> bool:
    """Returns whether QEMU answers at the socket as it should."""
    match name:
        case "vnc":
            return client.recv(12).startswith(b"RFB ")
        case "qmp":
            reader = client.makefile("r")
            assert "QMP" in json.loads(reader.readline())
            for command in ("qmp_capabilities", "query-status"):
                client.sendall(json.dumps({"execute": command}).encode())
                answer = json.loads(reader.readline())
            return bool(answer["return"]["running"])
        case _:
            # The guest does not use its second serial port. That QEMU took the connection is all there is to see.
            return client.fileno() >= 0


def hung_up(client: socket.socket) -> bool:
    """Reads to the end of a connection."""
    try:
        while client.recv(65536):
            pass
    except ConnectionResetError:
        return True
    return True


def test_the_network_is_told_where_the_guest_is(host: Host, tmp_path: Path) -> None:
    """By QEMU's announce-self, on a network that the guest itself does not use."""
    guest = counting(tmp_path)
    path = tmp_path / "switch"
    address = "52:54:00:aa:bb:cc"
    with socket.socket(socket.AF_UNIX) as switch:
        switch.settimeout(TIMEOUT)
        switch.bind(str(path))
        switch.listen()
        network = f"stream,id=net,server=off,addr.type=unix,addr.path={path}"
        host.run(guest, "-netdev", network, "-device", f"virtio-net-pci,netdev=net,mac={address},romfile=")
        port, _ = switch.accept()
        with port:
            host.update()
            assert hung_up(port)
        host.restore(guest)
        port, _ = switch.accept()
        with port:
            port.settimeout(TIMEOUT)
            frame = received(port)
    assert frame[:6] == b"\xff" * 6
    assert frame[6:12].hex(":") == address
    assert frame[12:14] == b"\x80\x35"  # RARP


def received(port: socket.socket) -> bytes:
    """Returns a frame of a stream: its length in four bytes, then itself."""
    with port.makefile("rb") as reader:
        return reader.read(int.from_bytes(reader.read(4), "big"))
