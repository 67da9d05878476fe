"""luod spoken to by Varlink implementations that share nothing with ours.

`varlink` on PyPI is the reference one, `varlinkctl` is systemd's; it came with systemd 255, and Debian 12 gets it by
scripts/fetch-varlinkctl. Both run inside the machine, as command line tools. They pass no fds; examples/vmm.c does.
"""

from __future__ import annotations

import json
import sys

import pytest

from luod.testing import require_tool
from luod.testing.host import ADMIN_SOCKET, SOCKET
from luod.testing.machine import Result
from tests.daemon.host import Luod


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
        ("io.luod.Sessions.Nope", "{}", "org.varlink.service.MethodNotFound"),
        ("io.luod.Sessions.List", '{"nope": 1}', "org.varlink.service.InvalidParameter"),
        ("io.luod.Updates.Follow", '{"name": "me"}', "org.varlink.service.ExpectedMore"),
        ("io.luod.Sessions.Retrieve", '{"name": "none"}', "io.luod.Sessions.NoSuchSession"),
    ],
)
def test_systemds_client_gets_the_error(shared_luod: Luod, method: str, parameters: str, error: str) -> None:
    refused = varlinkctl(shared_luod, "call", SOCKET, method, parameters, check=False)
    assert refused.returncode != 0
    assert error in refused.stderr.decode()


def test_systemds_client_reads_a_stream(luod: Luod) -> None:
    luod.load()
    lines = varlinkctl(luod, "call", "--more", ADMIN_SOCKET, "io.luod.Admin.Update", '{"dry_run": true}').text
    assert '"state":"checked"' in lines
