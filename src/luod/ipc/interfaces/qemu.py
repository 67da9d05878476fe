"""`io.luod.Qemu` as types: the calls about one guest of QEMU. `io.luod.Qemu.varlink` is generated from this module.

Not luod serves it, but the agent of each guest (`luod.agents.qemu`), on a socket of its own that only the agent's user
and root can open.
"""

from luod.ipc.names import QEMU
from luod.ipc.server.methods import Interface, method
from luod.ipc.types.qemu import Upgraded
from luod.static import TYPE_CHECKING, Protocol

if TYPE_CHECKING:

    class Service(Protocol):
        """The agent's work."""

        async def upgrade(self, program: str) -> Upgraded: ...


class Qemu(Interface, name=QEMU):
    """A guest of QEMU that lives through kernel updates."""

    def __init__(self, service: "Service") -> None:
        self._service = service

    @method()
    async def Upgrade(self, *, program: str) -> Upgraded:
        """Replaces the QEMU of the running guest, without a kexec.

        program: the path of the other QEMU. version, machine, pid: of the QEMU that runs the guest now. way: transfer,
        beside or in turn. The guest is paused for a moment, and keeps its memory. Refused: the other QEMU has not the
        guest's machine type or a device, or the guest could not be carried now. UpgradeFailed: the guest is with the
        QEMU that it had. GuestEnded: the guest has ended.
        """
        return await self._service.upgrade(program)
