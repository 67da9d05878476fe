"""The cgroup of a peer, and its systemd unit.

They are read from /proc by pid, and used only if the peer's pidfd shows afterwards that the process still lived:
otherwise the pid may be of another one. Only names that systemd itself made count as a unit: below a delegated unit (a
user's own manager, a container) users can make cgroups of any name.
"""

from __future__ import annotations

from luod.frozen import frozen
from luod.linux import has_ended
from luod.static import TYPE_CHECKING

if TYPE_CHECKING:
    from luod.ipc.server.peer import Peer


@frozen
class Membership:
    """`cgroup` is a path from the root of the hierarchy, as "/system.slice/vm.service"; both None if unknown."""

    cgroup: str | None
    unit: str | None


NOWHERE = Membership(None, None)


def of(peer: Peer, proc: str = "/proc") -> Membership:
    """Returns the membership of a peer. NOWHERE: it is gone, has no pidfd, or its cgroup is not visible to luod."""
    if peer.pidfd is None:
        return NOWHERE
    try:
        with open(f"{proc}/{peer.pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return NOWHERE
    if has_ended(peer.pidfd):
        return NOWHERE
    path = _path(lines)
    return NOWHERE if path is None else Membership(path, unit(path))


def _path(lines: list[str]) -> str | None:
    """Returns the path in the unified hierarchy, or without it in systemd's own."""
    found = {}
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            found["unified"] = path
        elif controllers == "name=systemd":
            found["systemd"] = path
    path = found.get("unified", "/")
    if path == "/":
        path = found.get("systemd", path)
    # Outside of luod's cgroup namespace the kernel writes /../.., which no rule may match.
    return None if ".." in path.split("/") or not path.startswith("/") else path


def unit(cgroup: str) -> str | None:
    """Returns the system unit: the first part of the path that is not a slice, a.service of
    "/system.slice/a.service/b".
    """
    for part in cgroup.split("/"):
        if part and not part.endswith(".slice"):
            name = part.removeprefix("_")  # systemd's escape for names that would clash with the kernel's own files
            return name if name.endswith((".service", ".scope", ".socket", ".mount", ".swap")) else None
    return None
