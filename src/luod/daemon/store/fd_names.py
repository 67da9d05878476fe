"""The names under which the supervisor holds serve's fds. Pure."""

from __future__ import annotations

from luod.daemon.supervisor import protocol
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from luod.daemon.store.schema import HeldFile, Image, Row
    from luod.ipc.types.sessions import Direction

REGISTRY: Final = "registry."
"""The prefix of the name of the registry's memory; the registry's instance follows."""
ASIDE: Final = "aside.registry"
"""The bytes of a registry's memory that cannot be decoded, if no file could be written."""
PROCESS: Final = "process."
"""The prefix of the name of a session's process."""
JUMP: Final = "jump"
"""A pidfd of the process that calls reboot(2), while it does."""
DISK: Final = "disk"
"""A pidfd of the process that writes to the disk while guests are paused, from before that to its end."""
HOOK: Final = "hook"
"""A pidfd of the operator's hook, while one runs."""
INHIBITOR: Final = "inhibitor"
"""A pidfd of the process that inhibits a shutdown, while luod holds sessions."""
UNITS: Final = "units"
"""A pidfd of the process that has systemd stop units, while it does."""


def fd_name(row: Row) -> str:
    """Returns the name of a session."""
    return f"{row.direction}.{row.name}"


def session_of(name: str) -> tuple[Direction, str] | None:
    """Returns direction and name of the session to which an fd of this name belongs; None for another fd."""
    kind, _dot, rest = name.partition(".")
    if kind in ("process", "worker"):
        kind, _dot, rest = rest.partition(".")
    if kind == "carried":
        return "incoming", rest.partition(".")[2]
    if kind == "incoming":
        return "incoming", rest
    return ("outgoing", rest) if kind in ("outgoing", "manifest") else None


def process_name(row: Row) -> str:
    """Returns the name of a pidfd of the session's process, if luod waits for its end."""
    return f"{PROCESS}{fd_name(row)}"


def worker_name(row: Row) -> str:
    """Returns the name of a pidfd of the process that works on the session for luod."""
    return f"worker.{fd_name(row)}"


def carried_name(row: Row, number: int) -> str:
    """Returns the name of files of a session that is carried over, while they are preserved nowhere."""
    return f"carried.{number}.{row.name}"


def is_carried(name: str) -> bool:
    """Returns whether it is such a name."""
    return name.startswith("carried.")


def carried_names(fds: Iterable[str], row: Row) -> list[str]:
    """Returns the present ones of these names, in order."""
    found = [parts for name in fds if name.startswith("carried.") and (parts := name.split(".", 2))[2] == row.name]
    return [carried_name(row, number) for number in sorted(int(parts[1]) for parts in found)]


def manifest_name(row: Row) -> str:
    """Returns the name of the manifest from the maker of an outgoing session."""
    return f"manifest.{row.name}"


def held_name(file: HeldFile) -> str:
    """Returns the name of a file that luod holds for a program."""
    return f"{protocol.HELD}{file.number}"


def image_names(image: Image) -> tuple[str, ...]:
    """Returns the names of the files of a loaded image: the kernel, then the initrd if it has one."""
    return (f"kernel.{image.number}", f"initrd.{image.number}")[: 2 if image.initrd else 1]
