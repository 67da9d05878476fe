"""Where a peer runs: its cgroup, and the systemd unit that this cgroup says.

Read from /proc by pid, and believed only if the peer's pidfd says afterwards that the process still lived: else the pid
may have been another's. Only what systemd itself named counts as a unit: below a delegated unit (a user's own manager,
a container) anybody may make cgroups of any name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from luod.ipc.server.peer import Peer
from luod.linux import has_ended


@dataclass(frozen=True)
class Membership:
    """`cgroup` is a path from the root of the hierarchy, as "/system.slice/vm.service"; both None where unknown."""

    cgroup: str | None
    unit: str | None


NOWHERE = Membership(None, None)


def of(peer: Peer, proc: Path = Path("/proc")) -> Membership:
    """NOWHERE: it is gone, was never pinned, or its cgroup lies outside of what luod can see."""
    if peer.pidfd is None:
        return NOWHERE
    try:
        lines = (proc / str(peer.pid) / "cgroup").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return NOWHERE
    if has_ended(peer.pidfd):
        return NOWHERE
    path = _path(lines)
    return NOWHERE if path is None else Membership(path, unit(path))


def _path(lines: list[str]) -> str | None:
    """Of the unified hierarchy, or where there is none of systemd's own."""
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
    # Outside of our cgroup namespace the kernel writes /../.., which is not to be matched by any rule.
    return None if ".." in path.split("/") or not path.startswith("/") else path


def unit(cgroup: str) -> str | None:
    """The system unit: the first part of the path that is no slice, a.service of "/system.slice/a.service/b"."""
    for part in cgroup.split("/"):
        if part and not part.endswith(".slice"):
            name = part.removeprefix("_")  # systemd escapes so what would clash with the kernel's own files
            return name if name.endswith((".service", ".scope", ".socket", ".mount", ".swap")) else None
    return None
