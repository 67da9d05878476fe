"""Section 1 of docs/kernel.md: /dev/liveupdate itself."""

from __future__ import annotations

import os
import select
import stat

import pytest

from luod.testing import Machine
from luod.testing.interpreter import Interpreter
from luod.testing.plugin import BootMachine
from tests.conformance.caller import Caller, jump, load, start
from tests.conformance.conftest import FUSE, NO_FUSE, ROOT
from tests.conformance.voyage import Voyage, across_jumps

DEVICE = "/dev/liveupdate"
WITH_FUSE = pytest.mark.divergence("test_node_with_epoll_and_fionread", when=FUSE)
WITHOUT_FUSE = pytest.mark.divergence("test_machine_without_fuse_has_a_socket", when=NO_FUSE)


def test_node_is_for_root_alone(caller: Caller) -> None:
    node = caller.ask("stat_path", path=DEVICE)
    assert (stat.S_IMODE(node["mode"]), node["uid"], node["gid"]) == (0o600, 0, 0)


@pytest.mark.divergence("test_node_is_a_regular_file")
def test_node_is_a_character_device(caller: Caller) -> None:
    node = caller.ask("stat_path", path=DEVICE)
    assert stat.S_ISCHR(node["mode"])
    assert os.major(node["rdev"]) == 10


@pytest.mark.divergence("test_node_is_a_regular_file")
def test_class_in_sysfs(shared_machine: Machine) -> None:
    assert shared_machine.run(["test", "-e", "/sys/class/misc/liveupdate"], check=False).returncode == 0


@pytest.mark.parametrize("word", ["liveupdate=off", "liveupdate=0", "kho=off"])
def test_node_is_absent_when_switched_off(boot_machine: BootMachine, machine_python: Interpreter, word: str) -> None:
    machine = boot_machine()
    program = machine_python.module("tests.programs.questions")
    root = start(machine, program, root=str(ROOT))
    load(machine, root, command_line=f"liveupdate=on kho=on {word}".encode())
    jump(machine, root)
    root = start(machine, program, root=str(ROOT))
    assert root.says("open", path=DEVICE, flags=os.O_RDWR, slot="device") == "ENOENT"


@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_RDONLY, os.O_WRONLY])
def test_second_open_is_busy(caller: Caller, flags: int) -> None:
    caller.open_device()
    assert caller.says("open", path=DEVICE, flags=flags, slot="second") == "EBUSY"


def test_second_open_in_a_child_is_busy(caller: Caller) -> None:
    caller.open_device()
    assert caller.fork("child").says("open", path=DEVICE, flags=os.O_RDWR, slot="second") == "EBUSY"


@WITHOUT_FUSE
def test_reopening_through_proc_is_busy(caller: Caller) -> None:
    caller.open_device()
    assert caller.says("reopen", fd="device", flags=os.O_RDWR, slot="second") == "EBUSY"


def test_second_open_with_o_path(caller: Caller) -> None:
    caller.open_device()
    assert caller.says("open", path=DEVICE, flags=os.O_PATH, slot="second") == "OK"


def test_busy_while_only_a_duplicate_is_open(caller: Caller) -> None:
    caller.open_device()
    caller.ask("dup", fd="device", slot="duplicate")
    caller.ask("close", fd="device")
    assert caller.says("open", path=DEVICE, flags=os.O_RDWR, slot="device") == "EBUSY"
    caller.ask("close", fd="duplicate")
    assert caller.says("open", path=DEVICE, flags=os.O_RDWR, slot="device") == "OK"


def test_free_again_when_its_holder_is_killed(caller: Caller) -> None:
    caller.fork("holder").open_device()
    assert caller.says("open", path=DEVICE, flags=os.O_RDWR, slot="device") == "EBUSY"
    caller.ask("end", kid="holder")
    assert caller.says("open", path=DEVICE, flags=os.O_RDWR, slot="device") == "OK"


def test_direct_io_is_refused_once_the_device_was_opened(caller: Caller) -> None:
    assert caller.says("open", path=DEVICE, flags=os.O_RDWR | os.O_DIRECT, slot="device") == "EINVAL"
    caller.open_device()
    assert caller.says("open", path=DEVICE, flags=os.O_RDWR | os.O_DIRECT, slot="second") == "EBUSY"


def test_open_that_only_makes_new_files(caller: Caller) -> None:
    caller.open_device()
    assert caller.says("open", path=DEVICE, flags=os.O_RDWR | os.O_CREAT | os.O_EXCL, slot="second") == "EEXIST"


def test_open_without_a_free_fd_while_the_device_is_open(caller: Caller) -> None:
    caller.open_device()
    caller.ask("no_free_fd")
    assert caller.says("open", path=DEVICE, flags=os.O_RDWR, slot="second") == "EMFILE"


def test_open_as_another_uid(caller: Caller) -> None:
    caller.become(1000)
    assert caller.says("open", path=DEVICE, flags=os.O_RDWR, slot="device") == "EACCES"


def test_create_through_an_inherited_fd_as_another_uid(caller: Caller) -> None:
    caller.open_device()
    child = caller.fork("child")
    child.become(1000)
    assert child.says("create", device="device", name=b"inherited", slot="s") == "OK"


def test_create_on_a_read_only_fd(caller: Caller) -> None:
    caller.ask("open", path=DEVICE, flags=os.O_RDONLY, slot="device")
    assert caller.says("create", device="device", name=b"read-only", slot="s") == "OK"


@across_jumps
def test_close_and_reopen_with_a_session_waiting(caller: Caller) -> Voyage:
    caller.create()
    caller = yield
    caller.create(slot="open one")
    assert caller.ask("get_name", session="open one").startswith(caller.row.decode())
    caller.open_device()
    caller.ask("close", fd="device")
    assert caller.can_retrieve() == "OK"


@pytest.mark.parametrize(
    ("call", "parameters", "says"),
    [
        pytest.param("read", {"length": 1}, "EINVAL", id="read", marks=WITHOUT_FUSE),
        pytest.param("write", {"data": b"x"}, "EINVAL", id="write", marks=WITHOUT_FUSE),
        pytest.param("fsync", {}, "EINVAL", id="fsync", marks=WITHOUT_FUSE),
        pytest.param("ftruncate", {"size": 0}, "EINVAL", id="ftruncate", marks=WITHOUT_FUSE),
        pytest.param("truncate", {"size": 0}, "EINVAL", id="truncate", marks=WITHOUT_FUSE),
        pytest.param("fallocate", {"mode": 0, "offset": 0, "length": 1}, "ENODEV", id="fallocate", marks=WITHOUT_FUSE),
        pytest.param("lseek", {"offset": 0}, "ESPIPE", id="lseek", marks=WITHOUT_FUSE),
        pytest.param("map", {"name": "map", "length": 4096}, "ENODEV", id="mmap", marks=WITHOUT_FUSE),
        pytest.param("epoll_add", {}, "EPERM", id="epoll", marks=WITH_FUSE),
    ],
)
def test_other_calls(caller: Caller, call: str, parameters: dict[str, object], says: str) -> None:
    caller.open_device()
    assert caller.says(call, fd="device", **parameters) == says


def test_poll_is_ready_at_once(caller: Caller) -> None:
    caller.open_device()
    assert caller.ask("poll", fd="device") == select.POLLIN | select.POLLOUT


def test_status_flags(caller: Caller) -> None:
    caller.open_device()
    assert caller.ask("getfl", fd="device") == 0o100002
