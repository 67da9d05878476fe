"""The monitor of a domain's QEMU, through libvirt: `virsh qemu-monitor-command`, for each command."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from luod.agents.guests.monitor import taken
from luod.agents.libvirt.virsh import virsh
from luod.errors import LibvirtFailed, QemuEnded, QmpFailed, QmpUnknown
from luod.linux import HasFileno

T = TypeVar("T")


class DomainMonitor:
    """The monitor of the QEMU of the domain `name`: a `luod.agents.guests.monitor.Monitor`."""

    def __init__(self, name: str, has_ended: Callable[[], bool]) -> None:
        """`has_ended` says whether the QEMU has."""
        self._name = name
        self._has_ended = has_ended

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        """See `Monitor`. Raises LibvirtFailed: libvirt does not pass it on."""
        return await self._executed(command, arguments, ())

    async def asked(self, command: str, read: Callable[[Any], T], arguments: Mapping[str, object] | None = None) -> T:
        """See `Monitor`."""
        return taken(command, read, await self.execute(command, arguments))

    async def execute_with(
        self, file: HasFileno, command: str, arguments: Mapping[str, object], read: Callable[[Any], T]
    ) -> T:
        """See `Monitor`."""
        return taken(command, read, await self._executed(command, arguments, [file]))

    async def _executed(
        self, command: str, arguments: Mapping[str, object] | None, files: Sequence[HasFileno]
    ) -> object:
        written = json.dumps({"execute": command, **({"arguments": arguments} if arguments else {})})
        passed = [word for file in files for word in ("--pass-fds", str(file.fileno()))]
        try:
            printed = await virsh("qemu-monitor-command", "--domain", self._name, *passed, written, files=files)
        except LibvirtFailed as error:
            if self._has_ended():
                raise QemuEnded(f"QEMU ended during {command}") from error
            raise
        return answer(command, printed)


def answer(command: str, printed: str) -> object:
    """Returns what QEMU answered, of what virsh printed. Raises QmpFailed: QEMU refused. Raises QmpUnknown."""
    try:
        reply = json.loads(printed)
        if "error" in reply:
            raise QmpFailed(command, str(reply["error"]["desc"]))
        found: object = reply["return"]
    except (ValueError, LookupError, TypeError) as error:
        raise QmpUnknown(f"{command}: libvirt printed {printed[:200]}") from error
    return found
