"""Copies of the supervisor's fds in the fd store of PID 1 (FileDescriptorStoreMax= of luod's unit).

They survive the end of every process of luod. Through `systemctl kexec` PID 1 carries the sessions among them, and in
the next kernel luod gets these as incoming sessions. PID 1 drops what does not fit without a report (docs/hazards.md,
H8), so luod counts, and refuses what does not fit. Without such a store nothing is done here. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping

from luod.daemon.supervisor import protocol
from luod.linux import Fd
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from luod.daemon.supervisor.notify import ServiceManager

_BOOT_CHARACTERS: Final = 8
"""Of the boot id, before each name: an outgoing session of an earlier boot is an incoming one of this."""


class InitStore:
    """The names in PID 1's store, and its room."""

    def __init__(self, manager: ServiceManager, room: int, boot_id: str) -> None:
        """`room` is the maximum number of fds in the store, 0 without one."""
        self._manager = manager
        self._room = room
        self._boot = boot_id.replace("-", "")[:_BOOT_CHARACTERS]
        self._stored: dict[str, str] = {}
        """The name in PID 1's store of each fd, by the supervisor's name."""
        self.fault = ""
        """The reason for which a copy is missing, or may be; "": PID 1 has every fd."""

    def recover(self, given: Mapping[str, Fd]) -> dict[str, Fd]:
        """Returns the fds from PID 1 by the names that the supervisor uses. Closes what this boot cannot use.

        `given` are those that luod was started with, without the listening sockets. Owned by the caller from now on.
        """
        found: dict[str, Fd] = {}
        for stored, fd in given.items():
            boot, _, name = stored.partition(".")
            if boot != self._boot and name.startswith(protocol.OUTGOING):
                # It keeps its name there: PID 1 stores a file once, so another name would need a removal first.
                name = protocol.INCOMING + name.removeprefix(protocol.OUTGOING)
            elif boot != self._boot:
                fd.close()
                self.fault = self._manager.remove(stored) or self.fault
                continue
            self._stored[name] = stored
            found[name] = fd
        return found

    @property
    def complete(self) -> bool:
        """Returns whether PID 1 has a copy of every fd."""
        return bool(self._room) and not self.fault

    def has_room(self) -> bool:
        """Returns whether one more fd fits, or there is no store."""
        return not self._room or len(self._stored) < self._room

    def put(self, name: str, fd: Fd) -> None:
        """Stores a copy in place of any under this name. `settle` must follow."""
        if self._room:
            self.remove(name)
            self._stored[name] = f"{self._boot}.{name}"
            self.fault = self._manager.store(self._stored[name], fd.fileno()) or self.fault

    def remove(self, name: str) -> None:
        """Removes a copy. PID 1 closes it a moment later, or at the next `settle`."""
        if name in self._stored:
            self.fault = self._manager.remove(self._stored.pop(name)) or self.fault

    def settle(self) -> str:
        """Waits until PID 1 has done all that. Returns the reason of a failure, "" without one."""
        if self._room:
            self.fault = self._manager.settle() or self.fault
        return self.fault
