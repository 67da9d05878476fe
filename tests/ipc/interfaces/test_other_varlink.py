"""luod spoken to by Varlink implementations that share nothing with ours.

`varlink` on PyPI is the reference one, which passes no fds. `varlinkctl` is systemd's, which passes fds since systemd
258; Debian 12 and 13 get it by scripts/fetch-varlinkctl. Both run inside the machine, as command line tools.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from luod.testing import require_tool
from luod.testing.host import ADMIN_SOCKET, SOCKET
from luod.testing.machine import Result
from luod.testing.tools import cannot_run
from tests.daemon.host import Luod, states

_STASH = """
import os, sys
file = os.memfd_create("state", 0)
os.write(file, b"what the VMM keeps")
command = [sys.argv[1], "call", f"--push-fd={file}", sys.argv[2], "io.luod.Sessions.Stash", sys.argv[3]]
os.execv(command[0], command)
"""
"""Passes a memfd to varlinkctl, which passes it to luod."""


def varlink(luod: Luod, *arguments: str) -> Result:
    return luod.machine.run([sys.executable, "-W", "ignore", "-m", "varlink.cli", *arguments])


def test_it_is_told_who_luod_is(shared_luod: Luod) -> None:
    said = varlink(shared_luod, "info", f"unix:{SOCKET}").text
    assert "Product: luod" in said
    assert "io.luod.Sessions" in said
    assert "io.luod.Updates" in said


def test_it_can_read_every_interface(shared_luod: Luod) -> None:
    for socket, interface in ((SOCKET, "Sessions"), (SOCKET, "Updates"), (ADMIN_SOCKET, "Admin")):
        described = varlink(shared_luod, "help", f"unix:{socket}/io.luod.{interface}").text
        assert f"interface io.luod.{interface}" in described


def test_it_calls_a_method(luod: Luod) -> None:
    luod.vmm().call("create", name="vm", slot="s")
    reply = json.loads(varlink(luod, "call", f"unix:{SOCKET}/io.luod.Sessions.List", "{}").text)
    assert [session["name"] for session in reply["sessions"]] == ["vm"]


def test_it_gets_a_typed_error(shared_luod: Luod) -> None:
    order = json.dumps({"name": "none", "direction": "outgoing", "outcome": "given_up"})
    refused = varlink(shared_luod, "call", f"unix:{SOCKET}/io.luod.Sessions.Release", order)
    assert b"'error': 'io.luod.Sessions.NoSuchSession'" in refused.stderr


def test_it_reads_a_stream(luod: Luod) -> None:
    """An update's dry run: more than one reply, and an end."""
    luod.load()
    lines = varlink(luod, "call", "-m", f"unix:{ADMIN_SOCKET}/io.luod.Admin.Update", '{"dry_run": true}').text
    assert '"state": "checked"' in lines


def varlinkctl(luod: Luod, *arguments: str, check: bool = True) -> Result:
    program = require_tool("varlinkctl", package="systemd")
    return luod.machine.run([program, *arguments], check=check)


def test_systemds_client_reads_every_interface(shared_luod: Luod) -> None:
    assert "Product: luod" in varlinkctl(shared_luod, "info", SOCKET).text
    for socket, interface in ((SOCKET, "Sessions"), (SOCKET, "Updates"), (ADMIN_SOCKET, "Admin")):
        described = varlinkctl(shared_luod, "introspect", socket, f"io.luod.{interface}").text
        assert f"interface io.luod.{interface}" in described


def test_systemds_client_calls_a_method(luod: Luod) -> None:
    luod.vmm().call("create", name="vm", slot="s")
    for parameters in ((), ("{}",)):
        reply = json.loads(varlinkctl(luod, "call", "-j", SOCKET, "io.luod.Sessions.List", *parameters).text)
        assert [session["name"] for session in reply["sessions"]] == ["vm"]


@pytest.mark.parametrize(
    ("method", "parameters", "error"),
    [
        ("io.luod.Sessions.Nope", "{}", "org.varlink.service.MethodNotFound|No such device or address"),
        ("io.luod.Sessions.List", '{"nope": 1}', "org.varlink.service.InvalidParameter|Invalid argument"),
        ("io.luod.Updates.Follow", '{"name": "me"}', "org.varlink.service.ExpectedMore|called without 'more' flag"),
        ("io.luod.Sessions.Retrieve", '{"name": "none"}', "io.luod.Sessions.NoSuchSession"),
    ],
)
def test_systemds_client_gets_the_error(shared_luod: Luod, method: str, parameters: str, error: str) -> None:
    """For errors of Varlink itself systemd 262 prints its own words."""
    refused = varlinkctl(shared_luod, "call", SOCKET, method, parameters, check=False)
    assert refused.returncode != 0
    assert re.search(error, refused.stderr.decode())


def test_systemds_client_reads_a_stream(luod: Luod) -> None:
    luod.load()
    lines = varlinkctl(luod, "call", "--more", ADMIN_SOCKET, "io.luod.Admin.Update", '{"dry_run": true}').text
    assert '"state":"checked"' in lines


def passing_fds() -> str:
    """Returns the path of a varlinkctl that passes fds."""
    program = require_tool("varlinkctl", package="systemd")
    told = subprocess.run([program, "--help"], stdout=subprocess.PIPE, text=True, check=True).stdout
    if "--push-fd" not in told:
        cannot_run("varlinkctl passes no fds before systemd 258: scripts/fetch-varlinkctl fetches a newer one")
    return program


def with_fds(luod: Luod, method: str, parameters: str, *command: str) -> str:
    """Returns the output of a command that varlinkctl runs with the reply as its input, and the reply's fds from 3."""
    passing_fds()
    words = ("--exec", "call", SOCKET, f"io.luod.Sessions.{method}", parameters, "--", *command)
    return varlinkctl(luod, *words).text


def test_systemds_client_gives_a_command_the_fd_of_a_session(luod: Luod) -> None:
    session = with_fds(luod, "Create", '{"name": "by-hand"}', "readlink", "/proc/self/fd/3")

    assert session
    assert states(luod.vmm()) == {"outgoing by-hand": "held"}


def test_systemds_client_passes_a_file_and_gets_it_back(luod: Luod) -> None:
    call = '{"name": "kept", "files": [{"name": "state", "file_fd": 0}]}'
    luod.run_source(_STASH, passing_fds(), SOCKET, call)

    found = with_fds(luod, "Unstash", '{"name": "kept"}', "sh", "-c", "cat; cat /proc/self/fd/3")

    assert re.sub(r"\s", "", found) == '{"files":[{"name":"state","file_fd":0}]}whattheVMMkeeps'


def test_systemds_client_is_told_that_luod_holds_no_such_file(shared_luod: Luod) -> None:
    passing_fds()
    call = '{"name": "kept", "files": [{"name": "state", "file_fd": 0}]}'
    refused = varlinkctl(
        shared_luod, "call", "--push-fd=/etc/passwd", SOCKET, "io.luod.Sessions.Stash", call, check=False
    )

    assert refused.returncode != 0
    assert "io.luod.Sessions.Refused" in refused.stderr.decode()
