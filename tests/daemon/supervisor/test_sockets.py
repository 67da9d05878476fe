"""Where luod listens: nothing that is no socket of luod's is touched, and what cannot be is said in a sentence."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from luod.daemon.store import state_directory
from luod.daemon.store.journal_file import Journal
from luod.daemon.supervisor.sockets import Listening
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
    assert refusal() == f"{place} exists and is not a socket"
    assert (here / place).read_text() == "precious"
    assert {path.name for path in here.iterdir()} == {place, "state"}


def test_a_link_is_not_followed(here: Path) -> None:
    (here / "luod.sock").symlink_to("elsewhere")
    assert refusal() == "luod.sock exists and is not a socket"


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


def test_directories_are_made_with_modes_of_luods_own(here: Path) -> None:
    before = os.umask(0)
    try:
        with Listening("a/b/luod.sock", "a/b/admin.sock", "s/t/state"):
            modes = {name: (here / name).stat().st_mode & 0o7777 for name in ("a", "a/b", "s", "s/t", "s/t/state")}
    finally:
        os.umask(before)
    assert modes == {"a": 0o755, "a/b": 0o755, "s": 0o755, "s/t": 0o755, "s/t/state": 0o700}


@pytest.mark.parametrize(("mode", "whom"), [(0o777, "every user"), (0o770, "its group")])
def test_a_state_directory_that_others_can_write_is_refused(here: Path, mode: int, whom: str) -> None:
    (here / "state").mkdir()
    (here / "state").chmod(mode)
    with pytest.raises(Refused, match=f"state directory 'state': it can be written by {whom}") as caught:
        Listening("luod.sock", "admin.sock", "state")
    assert caught.value.hint == f"chmod go-w {here}/state"
    assert os.listdir(here) == ["state"]
    assert os.listdir(here / "state") == []


def test_a_state_directory_with_the_sticky_bit_is_a_problem_and_no_refusal(here: Path) -> None:
    """A new tmpfs has this mode. Its sticky bit protects luod's files, so luod starts, but refuses updates."""
    (here / "state").mkdir()
    (here / "state").chmod(0o1777)
    with Listening("luod.sock", "admin.sock", "state"):
        (problem,) = state_directory.problems(Journal(str(here / "state")))
    assert "others can write to it" in problem.what
    assert problem.remedy == f"chmod 0700 {here}/state"


def test_a_directory_above_that_others_can_write_is_refused(here: Path) -> None:
    (here / "open").mkdir()
    (here / "open").chmod(0o777)
    for places in ({"state": "open/state"}, {"sessions": "open/run/luod.sock"}):
        assert f"{here}/open can be written by every user" in refusal(**places)


def test_a_socket_may_lie_in_a_directory_with_the_sticky_bit(here: Path) -> None:
    (here / "tmp").mkdir()
    (here / "tmp").chmod(0o777)
    assert "can be written by every user" in refusal(sessions="tmp/luod.sock")
    (here / "tmp").chmod(0o1777)
    with Listening("tmp/luod.sock", "admin.sock", "state"):
        pass


def test_one_place_for_both_sockets(here: Path) -> None:
    assert "./luod.sock" in refusal(admin="./luod.sock")


def test_what_a_killed_luod_left_is_replaced(here: Path) -> None:
    for name in ("luod.sock", "luod.sock.new", "admin.sock"):
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(name)
    with Listening("luod.sock", "admin.sock", "state"), socket.socket(socket.AF_UNIX) as client:
        client.connect("luod.sock")
        assert sorted(os.listdir(here)) == ["admin.sock", "luod.sock", "luod.sock.record", "state"]
    assert os.listdir(here) == ["state"]
