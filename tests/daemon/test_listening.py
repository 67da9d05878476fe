"""Where luod listens: nothing that is no socket of luod's is touched, and what cannot be is said in a sentence."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from luod.daemon.listening import Listening
from luod.errors import Refused


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(*, sessions: str = "luod.sock", admin: str = "admin.sock", state: str = "state") -> str:
    with pytest.raises(Refused) as caught, Listening(sessions, admin, state):
        pass
    assert caught.value.hint
    return str(caught.value)


@pytest.mark.parametrize("place", ["luod.sock", "luod.sock.new", "admin.sock"])
def test_a_file_that_is_no_socket_is_left_alone(here: Path, place: str) -> None:
    (here / place).write_text("precious")
    assert refusal() == f"{place} is there and is no socket"
    assert (here / place).read_text() == "precious"
    assert {path.name for path in here.iterdir()} == {place, "state"}


def test_a_link_is_not_followed(here: Path) -> None:
    (here / "luod.sock").symlink_to("elsewhere")
    assert refusal() == "luod.sock is there and is no socket"


@pytest.mark.parametrize("path", ["", "/", ".", "x" * 200, "state/lock/sock", "/proc/sock"])
def test_a_place_that_can_have_no_socket(here: Path, path: str) -> None:
    assert refusal(sessions=path)
    assert refusal(admin=path)
    assert {found.name for found in here.iterdir()} == {"state"}


@pytest.mark.parametrize("path", ["", "file", "file/state", "/proc/state"])
def test_a_place_that_can_have_no_state(here: Path, path: str) -> None:
    (here / "file").touch()
    assert refusal(state=path)
    assert {found.name for found in here.iterdir()} == {"file"}


def test_one_place_for_both_sockets(here: Path) -> None:
    assert "./luod.sock" in refusal(admin="./luod.sock")


def test_what_a_killed_luod_left_is_replaced(here: Path) -> None:
    for name in ("luod.sock", "luod.sock.new", "admin.sock"):
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(name)
    with Listening("luod.sock", "admin.sock", "state"), socket.socket(socket.AF_UNIX) as client:
        client.connect("luod.sock")
        assert sorted(os.listdir(here)) == ["admin.sock", "luod.sock", "state"]
    assert os.listdir(here) == ["state"]
