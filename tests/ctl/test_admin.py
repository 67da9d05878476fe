"""The calls of the admin socket, with something that answers as luod would."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from luod.ctl import admin
from luod.errors import LuodError
from tests.impostor import reply


def test_a_luod_that_hangs_while_it_stops_is_not_taken_for_one_that_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It accepts no further connection, so the queue of its socket becomes full."""
    monkeypatch.setattr(admin, "TIMEOUT", 0.1)
    monkeypatch.setattr(admin, "STOP_TIMEOUT", 0.5)
    path = str(tmp_path / "admin.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(0)

        def answer() -> None:
            with listening.accept()[0] as connection:
                connection.recv(65536)
                connection.sendall(reply({"lost": []}))

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(LuodError, match="did not end"):
            admin.stop(path, drop=False)
        thread.join()


def test_a_luod_whose_socket_is_closed_has_ended(tmp_path: Path) -> None:
    path = str(tmp_path / "admin.sock")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen(0)

    def answer() -> None:
        with listening, listening.accept()[0] as connection:
            connection.recv(65536)
            connection.sendall(reply({"lost": ["session vm"]}))

    thread = threading.Thread(target=answer)
    thread.start()
    assert admin.stop(path, drop=True) == ["session vm"]
    thread.join()
