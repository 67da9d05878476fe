"""`org.varlink.service`, which every Varlink service has: the interfaces of a connection, and their texts."""

from luod.frozen import frozen
from luod.ipc.errors import InterfaceNotFound
from luod.ipc.names import SERVICE
from luod.ipc.server.methods import Interface, method
from luod.version import __version__


@frozen
class Info:
    """The answer to GetInfo."""

    vendor: str
    product: str
    version: str
    url: str
    interfaces: list[str]


class Introspection(Interface, name=SERVICE):
    """Tells the interfaces of a connection."""

    def __init__(self, interfaces: dict[str, Interface]) -> None:
        self._interfaces = interfaces

    @method()
    def GetInfo(self) -> Info:
        return Info("luod", "luod", __version__, "https://luod.io", sorted(self._interfaces))

    @method("description")
    def GetInterfaceDescription(self, *, interface: str) -> str:
        found = self._interfaces.get(interface)
        if found is None:
            raise InterfaceNotFound(interface=interface)
        return found.description()
