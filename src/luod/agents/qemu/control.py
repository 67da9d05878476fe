"""The socket of a guest's agent: Varlink (`io.luod.Qemu`) for the agent's user and root.

It serves few calls of trusted users, so it needs none of the turns and limits of luod's own server.
What it does with a call is `luod.ipc.interfaces.qemu`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import traceback
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

from luod.errors import LuodError, QemuEnded, QemuError, QemuRefusal
from luod.ipc.client.connection import Connection
from luod.ipc.decode import decode
from luod.ipc.errors import CallError, GuestEnded, UpgradeFailed, on_the_wire
from luod.ipc.framing import encode_call
from luod.ipc.interfaces.qemu import Qemu
from luod.ipc.names import INTERNAL_ERROR, QEMU, SERVICE, SESSIONS_SOCKET
from luod.ipc.server.calls import Call, Malformed, parse
from luod.ipc.server.introspection import Introspection
from luod.ipc.server.methods import Interface, Reply, find
from luod.ipc.types.qemu import Upgraded

if TYPE_CHECKING:
    from luod.ipc.interfaces.qemu import Service

_LONGEST: Final = 64 * 1024
"""Bytes of a message."""


def path(name: str, luod_socket: str | None = None) -> str:
    """Returns the path of the socket of the guest `name`: beside luod's for root, and for other users in their own
    runtime directory where they have one.
    """
    beside = os.path.dirname(luod_socket or SESSIONS_SOCKET)
    own = os.environ.get("XDG_RUNTIME_DIR")
    folder = f"{own}/luod" if own and os.geteuid() != 0 else beside
    return f"{folder}/qemu/{name.replace('/', '%2F')}.sock"


def lock(name: str, luod_socket: str | None = None) -> str:
    """Returns the path of the file that the agent of the guest `name` has locked, beside its socket."""
    return f"{path(name, luod_socket).removesuffix('.sock')}.lock"


def folder(at: str) -> str:
    """Returns the folder that the agent with the socket `at` makes for the sockets of two QEMUs.

    It is at a fixed path, so that the next agent of the guest removes what a killed one left.
    """
    return f"{at.removesuffix('.sock')}.cpr"


def upgrade(name: str, at: str, program: str) -> Upgraded:
    """Asks the agent of the guest `name`, on the socket `at`, to replace its QEMU by `program`, an absolute path.

    Raises QemuRefusal: it has no agent here. Raises Refused, QemuError: the guest is as it was. Raises GuestEnded: it
    has ended.
    """
    if not os.path.exists(at):
        raise QemuRefusal(
            f"no agent of the guest {name} listens at {at}",
            hint="run this as the user of the guest, on the machine where `luoctl qemu` runs it",
        )
    with Connection(at, timeout=None) as connection:
        reply = connection.ask(encode_call(f"{QEMU}.Upgrade", {"program": program}))
        reply.close()
        return decode(Upgraded, reply.parameters)


@contextlib.asynccontextmanager
async def served(service: Service, at: str) -> AsyncIterator[None]:
    """Serves the guest in the block, on the socket `at`. Raises OSError: there can be no socket."""
    os.makedirs(os.path.dirname(at), mode=0o755, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(at)  # of an agent that was killed: luod has but one participant of this name
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder(at))
    interfaces: dict[str, Interface] = {QEMU: Qemu(service)}
    interfaces[SERVICE] = Introspection(interfaces)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            while message := (await reader.readuntil(b"\0"))[:-1]:
                reply = await _answered(message, interfaces)
                if reply is not None:
                    writer.write(reply.data)
                    await writer.drain()
        writer.close()

    before = os.umask(0o177)
    try:
        server = await asyncio.start_unix_server(connected, at, limit=_LONGEST)
    finally:
        os.umask(before)
    try:
        yield
    finally:
        server.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(at)


async def _answered(message: bytes, interfaces: dict[str, Interface]) -> Reply | None:
    """Returns the reply to a message; None if the caller wants none. Each failure of a call has a reply with words."""
    try:
        call = parse(message)
    except Malformed as malformed:
        return None if malformed.oneway else _refused(malformed.error, SERVICE)
    try:
        reply = Reply(await _performed(call, interfaces))
    except QemuEnded as error:
        reply = _refused(GuestEnded(message=error.message, hint=error.hint), QEMU)
    except QemuError as error:
        reply = _refused(UpgradeFailed(message=error.message, hint=error.hint), QEMU)
    except LuodError as error:
        reply = _refused(error, call.method.rpartition(".")[0])
    except Exception as error:  # noqa: BLE001 - it is the answer
        traceback.print_exception(error)
        failure = QemuError(f"the agent failed: {type(error).__name__}: {error}", hint="see what the agent printed")
        reply = _refused(failure, QEMU)
    return None if call.oneway else reply


async def _performed(call: Call, interfaces: dict[str, Interface]) -> Any:
    interface, found = find(interfaces, call)
    result = found.function(interface, **found.arguments(call.parameters, ()))
    return found.answer(await result if asyncio.iscoroutine(result) else result)


def _refused(error: LuodError | CallError, interface: str) -> Reply:
    name, parameters = on_the_wire(error, interface) or (
        INTERNAL_ERROR,
        {"message": error.message, "hint": error.hint},
    )
    return Reply(parameters, error=name)
