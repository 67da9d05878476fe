"""luoctl with a real luod, on an emulated machine, from its first status to the other side of a jump."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from luod.emulator.machine.stub import RELEASE, bzimage
from luod.testing import Result
from luod.testing.host import ADMIN_SOCKET, SOCKET
from luod.testing.tools import for_root
from tests.daemon.host import Luod
from tests.image.archives import cpio
from tests.image.pe import program

OTHER = 1000


def luoctl_as(luod: Luod, user: int, *arguments: str) -> Result:
    python = luod.python(user)
    command = python.module("luod.ctl.main", *arguments)
    return luod.machine.run(command, env=python.environment, user=user, check=False)


def error_of(result: Result) -> Any:
    return json.loads(result.stdout.splitlines()[-1])


def test_from_the_first_status_to_the_other_side_of_a_jump(luod: Luod) -> None:
    before = luod.luoctl_json("status")
    assert before | {"luod": ""} == {
        "version": 1,
        "luod": "",
        "state": "idle",
        "boot": 1,
        "kernel_loaded": False,
        "command_line": None,
        "sessions": 0,
        "waiting": 0,
        "retrieved": 0,
        "torn": 0,
        "participants": 0,
        "held_files": 0,
        "generation": 0,
        "stuck": [],
        "restore_seconds_left": None,
        "policy_file": None,
        "policy_error": None,
        "state_directory": [],
        "registry": [],
        "fd_store": [],
        "undo": [],
        "way": "direct",
        "shutdown_lock": None,
        "outgoing_bytes": 0,
        "incoming_bytes": 0,
    }
    luod.vmm().call("create", name="vm", slot="s")
    (entry,) = luod.luoctl_json("list")["sessions"]
    assert entry | {"owner": 0} == {"name": "vm", "owner": 0, "direction": "outgoing", "state": "held"}
    line = "liveupdate=on kho=on quiet"
    loaded = luod.luoctl("--json", "load", "--kernel", luod.machine.kernel, "--cmdline", line)
    assert json.loads(loaded.stdout)["command_line"] == line
    status = luod.luoctl_json("status")
    assert (status["kernel_loaded"], status["command_line"], status["sessions"]) == (True, line, 1)
    luod.force_update()
    luod.start()
    assert luod.machine.read("/proc/cmdline").decode().strip() == line
    status = luod.luoctl_json("status")
    assert (status["boot"], status["kernel_loaded"], status["sessions"], status["waiting"]) == (2, False, 0, 1)
    text = luod.luoctl("list").text.splitlines()
    assert [line.split() for line in text] == [
        ["NAME", "OWNER", "DIRECTION", "STATE"],
        ["vm", str(entry["owner"]), "incoming", "waiting"],
    ]


def test_the_running_kernels_command_line_is_the_default(luod: Luod) -> None:
    line = luod.machine.read("/proc/cmdline").decode().strip()
    for option in ([], ["--reuse-cmdline"]):
        luod.luoctl("load", "--kernel", luod.machine.kernel, *option)
        assert luod.luoctl_json("status")["command_line"] == line


def test_the_remedy_of_a_finding_keeps_the_running_line_over_the_jump(luod: Luod) -> None:
    luod.luoctl("load", "--kernel", luod.machine.kernel, "--cmdline", "liveupdate=on kho=on root=/dev/vda1")
    luod.force_update()
    luod.start()
    luod.machine.write("/run/first", cpio({"init": b""}))
    luod.machine.write("/run/second", cpio({"etc/modules": b""}))
    disks = ("--initrd", "/run/first", "--initrd", "/run/second")
    given = ("--kernel", luod.machine.kernel, *disks)
    bare = luod.luoctl("--json", "check", *given, "--cmdline", "liveupdate=on kho=on panic=1", check=False)
    assert "root-missing" in [each["name"] for each in json.loads(bare.stdout)["findings"]]
    result = luod.luoctl("--json", "load", *given, "--append-cmdline", "panic=10")
    assert json.loads(result.stdout)["initrds"] == ["/run/first", "/run/second"]
    checked = luod.luoctl("--json", "check", check=False)
    assert not {"root-missing", "no-panic"} & {each["name"] for each in json.loads(checked.stdout)["findings"]}
    luod.force_update()
    assert luod.machine.read("/proc/cmdline").decode().split() == [
        "liveupdate=on",
        "kho=on",
        "root=/dev/vda1",
        "panic=10",
    ]


def test_without_a_loaded_kernel_an_update_is_refused(shared_luod: Luod) -> None:
    result = shared_luod.luoctl("update", check=False)
    assert result.returncode == 4
    assert b"luoctl load" in result.stderr
    result = shared_luod.luoctl("update", "--json", check=False)
    assert (result.returncode, error_of(result)["error"]) == (4, "NoImageLoaded")
    assert shared_luod.luoctl_json("status")["state"] == "idle"


def test_what_is_no_kernel_is_refused_and_the_loaded_one_stays(luod: Luod) -> None:
    luod.machine.write("/run/text", b"no kernel\n")
    result = luod.luoctl("load", "--kernel", "/run/text", "--json", check=False)
    assert (result.returncode, error_of(result)["error"]) == (4, "NotAKernelImage")
    assert not luod.luoctl_json("status")["kernel_loaded"]
    luod.load()
    assert luod.luoctl("load", "--kernel", "/run/text", check=False).returncode == 4
    assert luod.luoctl_json("status")["kernel_loaded"]
    luod.force_update()
    assert luod.machine.boot == 2


def test_an_update_that_would_lose_a_session_is_refused(luod: Luod) -> None:
    luod.vmm().call("create", name="vm", slot="s")
    luod.load()
    luod.force_update()
    luod.start()
    luod.load()
    result = luod.luoctl("update", "--json", check=False)
    assert (result.returncode, error_of(result)["error"]) == (4, "Refused")
    assert "vm" in error_of(result)["message"]
    assert error_of(result)["hint"]
    vmm = luod.vmm()
    vmm.call("retrieve_session", name="vm", slot="s")
    vmm.call("finish", session="s", discard=True)
    luod.force_update()
    assert luod.machine.boot == 3


def test_another_user_sees_its_own_sessions_and_commands_nothing(luod: Luod) -> None:
    for_root("for several users in one machine")
    luod.vmm().call("create", name="roots", slot="s")
    luod.vmm(OTHER).call("create", name="theirs", slot="s")
    mine = luoctl_as(luod, OTHER, "list", "--json")
    assert [entry["name"] for entry in json.loads(mine.stdout)["sessions"]] == ["theirs"]
    assert [entry["name"] for entry in luod.luoctl_json("list")["sessions"]] == ["roots", "theirs"]
    for command in (["status"], ["update"], ["load", "--kernel", luod.machine.kernel]):
        result = luoctl_as(luod, OTHER, *command)
        assert result.returncode == 4, result
        assert b"policy" in result.stderr
        assert b"root" in result.stderr


def test_who_is_not_root_needs_one_socket_only(shared_luod: Luod) -> None:
    for_root("for several users in one machine")
    result = luoctl_as(shared_luod, OTHER, "--socket", "/nowhere/luod.sock", "status")
    assert result.returncode == 3
    assert b"/nowhere/luod.sock" in result.stderr


def test_the_wrong_socket_is_said(shared_luod: Luod) -> None:
    result = shared_luod.luoctl("--admin-socket", SOCKET, "status", "--json", check=False)
    assert (result.returncode, error_of(result)["error"]) == (2, "BadInput")
    assert "--admin-socket" in error_of(result)["hint"]
    # Root's commands do not go to the luod at the default place instead.
    assert shared_luod.luoctl("--socket", SOCKET, "status", check=False).returncode == 2
    # What programs may ask may be asked at the admin socket too.
    assert shared_luod.luoctl("--socket", ADMIN_SOCKET, "list").returncode == 0


def test_luod_itself_refuses_a_command_line_no_kernel_takes(shared_luod: Luod) -> None:
    program = (
        "import sys; from luod.ctl.admin import NextKernel, load_kernel; from luod.errors import BadInput, Refused\n"
        "with open(sys.argv[1], 'rb') as kernel:\n"
        "    for line in 'x' * 5000, 'a' + chr(0), chr(0xdcff):\n"
        "        try: load_kernel(None, NextKernel(kernel, None, line))\n"
        "        except (Refused, BadInput): continue\n"
        "        sys.exit(1)\n"
    )
    python = shared_luod.python()
    shared_luod.machine.run([python.executable, "-c", program, shared_luod.machine.kernel], env=python.environment)
    assert not shared_luod.luoctl_json("status")["kernel_loaded"]


def test_a_luod_that_was_ended_is_3(luod: Luod) -> None:
    luod.stop()
    for command in ("status", "list", "update"):
        result = luod.luoctl(command, check=False)
        assert result.returncode == 3
        assert b"start `luod`" in result.stderr


def test_a16_a_unified_kernel_image_is_checked_loaded_and_jumped_into(luod: Luod) -> None:
    line = "liveupdate=on kho=on panic=1 unified"
    disk = cpio({"init": b"#!/bin/sh\n"})
    parts = ((".linux", bzimage()), (".initrd", disk), (".cmdline", line.encode()))
    luod.machine.write("/run/linux.efi", program(*parts))
    checked = luod.luoctl_json("check", "--kernel", "/run/linux.efi")
    assert [each["name"] for each in checked["findings"] if each["severity"] == "refusal"] == []
    assert checked["release"] == RELEASE
    assert luod.luoctl_json("load", "--kernel", "/run/linux.efi")["command_line"] == line
    luod.update()
    assert luod.machine.read("/proc/cmdline").decode().strip() == line


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (gzip.compress(bzimage()), "packed with gzip, with a bzImage in it"),
        (program((".text", b"code")), "an EFI program for x86_64 that is no Linux kernel"),
    ],
    ids=["gzip", "EFI"],
)
def test_a16_a_file_that_cannot_be_loaded_is_named_by_load_and_by_check(
    shared_luod: Luod, data: bytes, what: str
) -> None:
    shared_luod.machine.write("/run/kernel", data)
    loaded = shared_luod.luoctl("load", "--kernel", "/run/kernel", check=False).stderr.decode()
    assert what in loaded
    checked = json.loads(shared_luod.luoctl("--json", "check", "--kernel", "/run/kernel", check=False).stdout)
    (found,) = [each for each in checked["findings"] if each["name"] == "image-unreadable"]
    assert what in found["what"]
