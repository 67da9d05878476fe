"""The types of `io.luod.Qemu`."""

from luod.frozen import frozen


@frozen
class Upgraded:
    """A guest's QEMU was replaced, and the guest goes on."""

    version: str
    machine: str
    way: str
    pid: int
