"""luod spoken to by a Varlink implementation that shares nothing with ours: the reference one, `varlink` on PyPI.

It runs inside the machine, as its command line tool. It passes no fds; what does is spoken by hand in examples/vmm.c.
"""

from __future__ import annotations

import json
import sys

from luod.testing.host import ADMIN_SOCKET, SOCKET
from luod.testing.machine import Result
from tests.daemon.host import Luod


def varlink(luod: Luod, *arguments: str) -> Result:
    return luod.machine.run([sys.executable, "-W", "ignore", "-m", "varlink.cli", *arguments])


def test_it_is_told_who_luod_is(luod: Luod) -> None:
    said = varlink(luod, "info", f"unix:{SOCKET}").text
    assert "Product: luod" in said
    assert "io.luod.Sessions" in said
    assert "io.luod.Updates" in said


def test_it_can_read_every_interface(luod: Luod) -> None:
    for socket, interface in ((SOCKET, "Sessions"), (SOCKET, "Updates"), (ADMIN_SOCKET, "Admin")):
        described = varlink(luod, "help", f"unix:{socket}/io.luod.{interface}").text
        assert f"interface io.luod.{interface}" in described


def test_it_calls_a_method(luod: Luod) -> None:
    luod.vmm().call("create", name="vm", slot="s")
    reply = json.loads(varlink(luod, "call", f"unix:{SOCKET}/io.luod.Sessions.List", "{}").text)
    assert [session["name"] for session in reply["sessions"]] == ["vm"]


def test_it_gets_a_typed_error(luod: Luod) -> None:
    order = json.dumps({"name": "none", "direction": "outgoing", "outcome": "given_up"})
    refused = varlink(luod, "call", f"unix:{SOCKET}/io.luod.Sessions.Release", order)
    assert b"'error': 'io.luod.Sessions.NoSuchSession'" in refused.stderr


def test_it_reads_a_stream(luod: Luod) -> None:
    """An update's dry run: more than one reply, and an end."""
    luod.load()
    lines = varlink(luod, "call", "-m", f"unix:{ADMIN_SOCKET}/io.luod.Admin.Update", '{"dryRun": true}').text
    assert '"state": "checked"' in lines
