"""The socket of a guest's agent: Varlink for its user, with typed errors, also for what is no call."""

from __future__ import annotations

import asyncio
import errno
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luod.agents.qemu import control
from luod.errors import CallFailed, GuestEnded, QemuError, QemuLate, QemuRefusal, QmpFailed, Refused
from luod.ipc.types.qemu import Upgraded

DONE = Upgraded("11.1.3", "pc-q35-7.2", "beside", 42)


class Agent:
    """Upgrades to /new, refuses /refused, and fails with the others as with errors that the agent may meet."""

    async def upgrade(self, program: str) -> Upgraded:
        failures: dict[str, Exception] = {
            "/refused": QemuRefusal("no such machine type", hint="use another QEMU"),
            "/failing": QmpFailed("migrate", "no such device", hint="see what QEMU printed"),
            "/late": QemuLate("QEMU did not answer stop within 120 s"),
            "/ended": GuestEnded("no QEMU loads its state"),
            "/no-such-key": KeyError("running"),
            "/full": OSError(errno.ENOSPC, "No space left on device"),
            "/silent": TimeoutError(),
        }
        if program in failures:
            raise failures[program]
        return DONE


def served(at: Path, ask: Callable[[], Any]) -> Any:
    """Returns the result of `ask`, which runs in a thread while the agent serves."""

    async def run() -> Any:
        async with control.served(Agent(), str(at)):
            assert stat.S_IMODE(at.stat().st_mode) == 0o600
            return await asyncio.to_thread(ask)

    return asyncio.run(run())


def sent(at: Path, message: bytes) -> list[dict[str, Any]]:
    """Returns the replies to the bytes, until the agent closes the connection or the sender has finished."""

    async def run() -> bytes:
        async with control.served(Agent(), str(at)):
            reader, writer = await asyncio.open_unix_connection(str(at))
            writer.write(message)
            writer.write_eof()
            received = await asyncio.wait_for(reader.read(), 30)
            writer.close()
            await writer.wait_closed()
            return received

    return [json.loads(reply) for reply in asyncio.run(run()).split(b"\0") if reply]


def test_an_upgrade_is_answered_and_the_socket_is_removed_at_the_end(tmp_path: Path) -> None:
    at = tmp_path / "luod" / "qemu" / "vm.sock"

    assert served(at, lambda: control.upgrade("vm", str(at), "/new")) == DONE
    assert not at.exists()


def test_what_an_agent_left_that_was_killed_in_an_upgrade_is_replaced(tmp_path: Path) -> None:
    at, folder = tmp_path / "vm.sock", tmp_path / "vm.cpr"
    at.touch()
    folder.mkdir()
    (folder / "main").touch()

    assert served(at, lambda: control.upgrade("vm", str(at), "/new")) == DONE
    assert not folder.exists()


@pytest.mark.parametrize(
    ("program", "kind", "message"),
    [
        ("/refused", Refused, "no such machine type"),
        ("/failing", QemuError, "no such device"),
        ("/late", QemuError, "did not answer stop within 120 s"),
        ("/ended", GuestEnded, "no QEMU loads its state"),
        ("/no-such-key", CallFailed, "the agent failed: KeyError: 'running'"),
        ("/full", CallFailed, "No space left on device"),
        ("/silent", CallFailed, "the agent failed: TimeoutError"),
    ],
)
def test_a_failure_arrives_as_a_typed_error(tmp_path: Path, program: str, kind: type, message: str) -> None:
    at = tmp_path / "vm.sock"

    with pytest.raises(kind, match=message) as caught:
        served(at, lambda: control.upgrade("vm", str(at), program))

    assert caught.value.hint  # type: ignore[attr-defined]  # both kinds have one


def test_a_guest_without_an_agent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QemuRefusal, match="no agent of the guest vm"):
        control.upgrade("vm", str(tmp_path / "vm.sock"), "/new")


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (b"nonsense\0", "org.varlink.service.InvalidParameter"),
        (b"[]\0", "org.varlink.service.InvalidParameter"),
        (b'{"method":"io.luod.Qemu.Nothing"}\0', "org.varlink.service.MethodNotFound"),
        (b'{"method":"io.other.Qemu.Upgrade"}\0', "org.varlink.service.InterfaceNotFound"),
        (b'{"method":"io.luod.Qemu.Upgrade"}\0', "org.varlink.service.InvalidParameter"),
        (b'{"method":"io.luod.Qemu.Upgrade","parameters":{"program":1}}\0', "org.varlink.service.InvalidParameter"),
    ],
)
def test_what_is_no_call_gets_an_error(tmp_path: Path, message: bytes, error: str) -> None:
    (reply,) = sent(tmp_path / "vm.sock", message)

    assert reply["error"] == error


@pytest.mark.parametrize("message", [b"", b"\0", b"x" * 200_000, b'{"method":"io.luod.Qemu.Upgrade"}'])
def test_what_is_no_message_gets_no_answer(tmp_path: Path, message: bytes) -> None:
    assert sent(tmp_path / "vm.sock", message) == []


def test_the_agent_tells_its_interface(tmp_path: Path) -> None:
    question = {"method": "org.varlink.service.GetInterfaceDescription", "parameters": {"interface": "io.luod.Qemu"}}

    (reply,) = sent(tmp_path / "vm.sock", json.dumps(question).encode() + b"\0")

    assert "method Upgrade(program: string)" in reply["parameters"]["description"]


@pytest.mark.parametrize(
    ("name", "socket", "found"),
    [
        ("vm", None, "/run/luod/qemu/vm.sock"),
        ("a/b", "/srv/luod.sock", "/srv/qemu/a%2Fb.sock"),
    ],
)
def test_the_socket_of_root_is_beside_luods(
    name: str, socket: str | None, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)

    assert control.path(name, socket) == found
