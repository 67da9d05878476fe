"""luoctl with a real luod, on an emulated machine, from its first status to the other side of a jump."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from luod.emulator.machine.stub import RELEASE, bzimage
from luod.testing import Host, Machine, Result
from luod.testing.host import ADMIN_SOCKET, SOCKET
from luod.testing.tools import for_root
from tests.image.archives import cpio
from tests.image.pe import program
from tests.library import Vmm, start_vmm

OTHER = 1000


@pytest.fixture
def host(machine: Machine, tmp_path: Path) -> Host:
    """A machine with luod on it."""
    host = Host(machine, state_directory=tmp_path / "state")
    host.start()
    return host


def start_client(host: Host, user: int | None = None) -> Vmm:
    return start_vmm(host.machine, host.python(user), "client", ("blocking", SOCKET), user=user)


def luoctl_as(host: Host, user: int, *arguments: str) -> Result:
    python = host.python(user)
    command = python.module("luod.ctl.main", *arguments)
    return host.machine.run(command, env=python.environment, user=user, check=False)


def error_of(result: Result) -> Any:
    return json.loads(result.stdout.splitlines()[-1])


def test_from_the_first_status_to_the_other_side_of_a_jump(host: Host) -> None:
    before = host.luoctl_json("status")
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
    }
    start_client(host).call("create", name="vm", slot="s")
    (entry,) = host.luoctl_json("list")["sessions"]
    assert entry | {"owner": 0} == {"name": "vm", "owner": 0, "direction": "outgoing", "state": "held"}
    line = "liveupdate=on kho=on quiet"
    loaded = host.luoctl("--json", "load", "--kernel", host.machine.kernel, "--cmdline", line)
    assert json.loads(loaded.stdout)["command_line"] == line
    status = host.luoctl_json("status")
    assert (status["kernel_loaded"], status["command_line"], status["sessions"]) == (True, line, 1)
    host.update()
    host.start()
    assert host.machine.read("/proc/cmdline").decode().strip() == line
    status = host.luoctl_json("status")
    assert (status["boot"], status["kernel_loaded"], status["sessions"], status["waiting"]) == (2, False, 0, 1)
    text = host.luoctl("list").text.splitlines()
    assert [line.split() for line in text] == [
        ["NAME", "OWNER", "DIRECTION", "STATE"],
        ["vm", str(entry["owner"]), "incoming", "waiting"],
    ]


def test_the_running_kernels_command_line_is_the_default(host: Host) -> None:
    line = host.machine.read("/proc/cmdline").decode().strip()
    for option in ([], ["--reuse-cmdline"]):
        host.luoctl("load", "--kernel", host.machine.kernel, *option)
        assert host.luoctl_json("status")["command_line"] == line


def test_the_remedy_of_a_finding_keeps_the_running_line_over_the_jump(host: Host) -> None:
    host.luoctl("load", "--kernel", host.machine.kernel, "--cmdline", "liveupdate=on kho=on root=/dev/vda1")
    host.update()
    host.start()
    host.machine.write("/run/first", cpio({"init": b""}))
    host.machine.write("/run/second", cpio({"etc/modules": b""}))
    disks = ("--initrd", "/run/first", "--initrd", "/run/second")
    given = ("--kernel", host.machine.kernel, *disks)
    bare = host.luoctl("--json", "check", *given, "--cmdline", "liveupdate=on kho=on panic=1", check=False)
    assert "root-missing" in [each["name"] for each in json.loads(bare.stdout)["findings"]]
    result = host.luoctl("--json", "load", *given, "--append-cmdline", "panic=10")
    assert json.loads(result.stdout)["initrds"] == ["/run/first", "/run/second"]
    checked = host.luoctl("--json", "check", check=False)
    assert not {"root-missing", "no-panic"} & {each["name"] for each in json.loads(checked.stdout)["findings"]}
    host.update()
    assert host.machine.read("/proc/cmdline").decode().split() == [
        "liveupdate=on",
        "kho=on",
        "root=/dev/vda1",
        "panic=10",
    ]


def test_without_a_loaded_kernel_an_update_is_refused(host: Host) -> None:
    result = host.luoctl("update", check=False)
    assert result.returncode == 4
    assert b"luoctl load" in result.stderr
    result = host.luoctl("update", "--json", check=False)
    assert (result.returncode, error_of(result)["error"]) == (4, "NoImageLoaded")
    assert host.luoctl_json("status")["state"] == "idle"


def test_what_is_no_kernel_is_refused_and_the_loaded_one_stays(host: Host) -> None:
    host.machine.write("/run/text", b"no kernel\n")
    result = host.luoctl("load", "--kernel", "/run/text", "--json", check=False)
    assert (result.returncode, error_of(result)["error"]) == (4, "NotAKernelImage")
    assert not host.luoctl_json("status")["kernel_loaded"]
    host.load()
    assert host.luoctl("load", "--kernel", "/run/text", check=False).returncode == 4
    assert host.luoctl_json("status")["kernel_loaded"]
    host.update()
    assert host.machine.boot == 2


def test_an_update_that_would_lose_a_session_is_refused(host: Host) -> None:
    start_client(host).call("create", name="vm", slot="s")
    host.load()
    host.update()
    host.start()
    host.load()
    result = host.luoctl("update", "--json", check=False)
    assert (result.returncode, error_of(result)["error"]) == (4, "Refused")
    assert "vm" in error_of(result)["message"]
    assert error_of(result)["hint"]
    vmm = start_client(host)
    vmm.call("retrieve_session", name="vm", slot="s")
    vmm.call("finish", session="s", discard=True)
    host.update()
    assert host.machine.boot == 3


def test_another_user_sees_its_own_sessions_and_commands_nothing(host: Host) -> None:
    for_root("for several users in one machine")
    start_client(host).call("create", name="roots", slot="s")
    start_client(host, OTHER).call("create", name="theirs", slot="s")
    mine = luoctl_as(host, OTHER, "list", "--json")
    assert [entry["name"] for entry in json.loads(mine.stdout)["sessions"]] == ["theirs"]
    assert [entry["name"] for entry in host.luoctl_json("list")["sessions"]] == ["roots", "theirs"]
    for command in (["status"], ["update"], ["load", "--kernel", host.machine.kernel]):
        result = luoctl_as(host, OTHER, *command)
        assert result.returncode == 4, result
        assert b"policy" in result.stderr
        assert b"root" in result.stderr


def test_who_is_not_root_needs_one_socket_only(host: Host) -> None:
    for_root("for several users in one machine")
    result = luoctl_as(host, OTHER, "--socket", "/nowhere/luod.sock", "status")
    assert result.returncode == 3
    assert b"/nowhere/luod.sock" in result.stderr


def test_the_wrong_socket_is_said(host: Host) -> None:
    result = host.luoctl("--admin-socket", SOCKET, "status", "--json", check=False)
    assert result.returncode == 1
    assert "admin socket" in error_of(result)["hint"]
    # What programs may ask may be asked at the admin socket too.
    assert host.luoctl("--socket", ADMIN_SOCKET, "list").returncode == 0


def test_luod_itself_refuses_a_command_line_no_kernel_takes(host: Host) -> None:
    program = (
        "import sys; from luod.ctl.admin import load_kernel; from luod.errors import BadInput, Refused\n"
        "with open(sys.argv[1], 'rb') as kernel:\n"
        "    for line in 'x' * 5000, 'a' + chr(0), chr(0xdcff):\n"
        "        try: load_kernel(None, kernel, None, line)\n"
        "        except (Refused, BadInput): continue\n"
        "        sys.exit(1)\n"
    )
    python = host.python()
    host.machine.run([python.executable, "-c", program, host.machine.kernel], env=python.environment)
    assert not host.luoctl_json("status")["kernel_loaded"]


def test_a_luod_that_was_ended_is_3(host: Host) -> None:
    host.stop()
    for command in ("status", "list", "update"):
        result = host.luoctl(command, check=False)
        assert result.returncode == 3
        assert b"is luod running?" in result.stderr


def test_a16_a_unified_kernel_image_is_checked_loaded_and_jumped_into(host: Host) -> None:
    line = "liveupdate=on kho=on panic=1 unified"
    disk = cpio({"init": b"#!/bin/sh\n"})
    parts = ((".linux", bzimage()), (".initrd", disk), (".cmdline", line.encode()))
    host.machine.write("/run/linux.efi", program(*parts))
    checked = host.luoctl_json("check", "--kernel", "/run/linux.efi")
    assert [each["name"] for each in checked["findings"] if each["severity"] == "refusal"] == []
    assert checked["release"] == RELEASE
    assert host.luoctl_json("load", "--kernel", "/run/linux.efi")["command_line"] == line
    host.update(ignore=())
    assert host.machine.read("/proc/cmdline").decode().strip() == line


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (gzip.compress(bzimage()), "packed with gzip, with a bzImage in it"),
        (program((".text", b"code")), "an EFI program for x86_64 that is no Linux kernel"),
    ],
    ids=["gzip", "EFI"],
)
def test_a16_a_file_that_cannot_be_loaded_is_named_by_load_and_by_check(host: Host, data: bytes, what: str) -> None:
    host.machine.write("/run/kernel", data)
    loaded = host.luoctl("load", "--kernel", "/run/kernel", check=False).stderr.decode()
    assert what in loaded
    checked = json.loads(host.luoctl("--json", "check", "--kernel", "/run/kernel", check=False).stdout)
    (found,) = [each for each in checked["findings"] if each["name"] == "image-unreadable"]
    assert what in found["what"]
