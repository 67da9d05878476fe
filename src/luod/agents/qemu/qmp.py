"""A connection to a QEMU's monitor: `qemu.qmp` with the errors of luod, and the forms of commands that the agent needs.

It knows the protocol and no guest: what is asked, and what an answer means, is in the modules that use it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from qemu.qmp import ConnectError, EventListener, ExecInterruptedError, ExecuteError, QMPClient, QMPError

from luod.agents.guests.deadline import QEMU_SECONDS, in_time
from luod.agents.guests.monitor import taken
from luod.errors import QemuEnded, QmpFailed
from luod.linux import HasFileno

T = TypeVar("T")

# Its messages are of its own tasks; what matters is raised, or seen by the process's end.
logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())
logging.getLogger("qemu.qmp").propagate = False


class Qmp:
    """A monitor of one QEMU. Commands run one after the other; events are kept from the start of the connection."""

    def __init__(self, name: str = "luod") -> None:
        """Does not connect yet. `name` is for logs."""
        self._client = QMPClient(name)
        self._sending = asyncio.Lock()

    @classmethod
    async def connected(cls, to: socket.socket | str, name: str = "luod", *, within: float = QEMU_SECONDS) -> Self:
        """Returns a connection to the monitor at the path or the connected socket `to`, which it owns from now on.

        Waits up to `within` seconds for QEMU's greeting. Raises QemuEnded: no monitor answers there.
        """
        qmp = cls(name)
        try:
            async with asyncio.timeout(within):
                await qmp._client.connect(to)
        except (ConnectError, TimeoutError) as error:
            if isinstance(to, socket.socket):
                to.close()
            why = "it did not answer in time" if isinstance(error, TimeoutError) else str(error)
            raise QemuEnded(f"QEMU's monitor cannot be reached: {why}") from error
        return qmp

    @property
    def version(self) -> tuple[int, int, int]:
        """Returns the version of this QEMU, as (7, 2, 22)."""
        greeting = self._client.greeting
        assert greeting is not None, "not connected"
        found: Any = greeting.QMP.version["qemu"]
        return found["major"], found["minor"], found["micro"]

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        """Runs a command and returns its answer, unchecked.

        Raises QmpFailed: QEMU refuses. Raises QemuEnded: it is gone. Raises QemuLate: it does not answer.
        """
        async with self._sending:
            return await self._execute(command, arguments)

    async def asked(self, command: str, read: Callable[[Any], T], arguments: Mapping[str, object] | None = None) -> T:
        """Runs a command and returns what `read` takes from its answer.

        Raises QmpUnknown: `read` does not find what it looks for. Raises as `execute`.
        """
        return taken(command, read, await self.execute(command, arguments))

    async def execute_with(
        self, file: HasFileno, command: str, arguments: Mapping[str, object], read: Callable[[Any], T]
    ) -> T:
        """Runs a command that takes a file, such as getfd, as `asked`. QEMU gets a duplicate of the caller's `file`."""
        async with self._sending:
            try:
                self._client.send_fd_scm(file.fileno())
            except (OSError, QMPError) as error:
                raise QemuEnded(f"{command}: {error}") from error
            return taken(command, read, await self._execute(command, arguments))

    @contextlib.asynccontextmanager
    async def events(self, *names: str) -> AsyncIterator[Callable[[], asyncio.Future[str]]]:
        """Listens to events of these names in the block. What it yields is called to wait for the next one's name."""
        listener = EventListener(names=set(names))

        async def following() -> str:
            return str((await listener.get()).get("event"))

        with self._client.listen(listener):
            yield lambda: asyncio.ensure_future(following())

    async def close(self) -> None:
        """Closes the connection. QEMU goes on. Idempotent; an error of a connection that broke is not of interest."""
        with contextlib.suppress(QMPError, OSError, EOFError):
            await self._client.disconnect()

    async def _execute(self, command: str, arguments: Mapping[str, object] | None) -> Any:
        try:
            async with in_time(QEMU_SECONDS, f"QEMU did not answer {command}"):
                return await self._client.execute(command, arguments)
        except ExecuteError as error:
            raise QmpFailed(command, str(error)) from error
        except (ExecInterruptedError, QMPError, OSError, EOFError) as error:
            raise QemuEnded(f"QEMU ended during {command}") from error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
