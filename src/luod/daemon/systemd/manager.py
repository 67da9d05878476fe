"""The facts about systemd on which an update depends: stores that it would drop, locks, and waits.

`observe` asks PID 1 and logind by child processes, which takes a moment: only when an update or a check is requested,
while guests run. The readers of their answers are pure.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from luod.daemon.systemd.commands import ask, booted, properties
from luod.frozen import frozen
from luod.static import Final

_ROOT: Final = Path("/")
_SECONDS: Final = 10.0
"""For each question."""
PROPERTIES: Final = (
    "Id,ActiveState,CanStart,IgnoreOnIsolate,FileDescriptorStorePreserve,NFileDescriptorStore,FileDescriptorStoreMax,"
    "LUOSession"
)
_KEPT: Final = ("yes", "on-success")
_MINIMUM_UPTIME: Final = 15.0
"""The default of MinimumUptimeSec= in seconds."""
_UNITS: Final = {
    "": 1.0,
    "s": 1.0,
    "sec": 1.0,
    "ms": 0.001,
    "us": 1e-6,
    "m": 60.0,
    "min": 60.0,
    "h": 3600.0,
    "hr": 3600.0,
}
_EXITRD: Final = "run/initramfs/shutdown"
WHO: Final = "luod"
"""luod's name as the holder of a lock."""


@frozen
class Service:
    """A service. `stored` fds are in its fd store, which systemd carries through its own kexec if `preserves`. `room`
    is the maximum number of them.

    `stays`: `systemctl isolate` does not stop it. `startable`: an operator may start it. `stopping`: it is being
    stopped. `sessions` are the names in its LUOSession=: PID 1 creates a session for each, and stores it.
    """

    name: str
    active: bool = False
    stays: bool = False
    preserves: bool = False
    stored: int = 0
    sessions: tuple[str, ...] = ()
    startable: bool = False
    stopping: bool = False
    room: int = 0


@frozen
class Lock:
    """A shutdown inhibitor that blocks: who holds it, and why."""

    who: str
    why: str


@frozen
class Manager:
    """systemd at one moment. `unit` is luod's own, "" if it is not a unit's process.

    `minimum_uptime` is the seconds that systemd-shutdown would still wait, 0.0 on a virtual machine. `exitrd`: the
    initial RAM disk of the shutdown. `unknown`: why it could not be asked, "" if it was. `held` is the number of fds
    that luod has given to the store of its unit.
    """

    booted: bool = False
    unit: str = ""
    services: tuple[Service, ...] = ()
    locks: tuple[Lock, ...] = ()
    minimum_uptime: float = 0.0
    exitrd: bool = False
    unknown: str = ""
    held: int = 0

    def service(self, name: str) -> Service | None:
        return next((each for each in self.services if each.name == name), None)


NOT_BOOTED: Final = Manager()


def observe(root: Path = _ROOT) -> Manager:
    """Returns the facts. Blocks: for a thread."""
    if not booted(root):
        return NOT_BOOTED
    unit = ask(["systemctl", "whoami"], _SECONDS)
    shown = ask(["systemctl", "show", f"--property={PROPERTIES}", "*.service"], _SECONDS)
    config = ask(["systemd-analyze", "cat-config", "systemd/system.conf"], _SECONDS)
    virtual = not ask(["systemd-detect-virt", "--quiet"], _SECONDS).failure
    return Manager(
        booted=True,
        unit=unit.text.strip(),
        services=tuple(services(shown.text)),
        locks=tuple(each for each in inhibitors() if each.who != WHO),
        minimum_uptime=0.0 if virtual else _wait(config.text, root),
        exitrd=os.access(root / _EXITRD, os.X_OK),
        unknown=shown.failure,
    )


def services(shown: str) -> Iterator[Service]:
    """Yields the services in the answer of `systemctl show`."""
    for said in properties(shown):
        if said.get("Id"):
            stored, room = said.get("NFileDescriptorStore", ""), said.get("FileDescriptorStoreMax", "")
            yield Service(
                said["Id"],
                active=said.get("ActiveState") in ("active", "activating", "reloading", "refreshing"),
                stays=said.get("IgnoreOnIsolate") == "yes",
                preserves=said.get("FileDescriptorStorePreserve") in _KEPT,
                stored=int(stored) if stored.isdecimal() else 0,
                sessions=tuple(said.get("LUOSession", "").split()),
                startable=said.get("CanStart") == "yes",
                stopping=said.get("ActiveState") == "deactivating",
                room=int(room) if room.isdecimal() else 0,
            )


def inhibitors() -> list[Lock]:
    """Returns the locks that block a shutdown; an empty list without logind. Blocks: for a thread."""
    words = ["busctl", "--json=short", "call", "org.freedesktop.login1", "/org/freedesktop/login1"]
    said = ask([*words, "org.freedesktop.login1.Manager", "ListInhibitors"], _SECONDS)
    return [] if said.failure else locks(said.text)


def locks(text: str) -> list[Lock]:
    """Returns the locks that block a shutdown, from logind's answer to ListInhibitors as busctl prints it."""
    try:
        rows = json.loads(text)["data"][0]
        return [
            Lock(str(who), str(why))
            for what, who, why, mode, _uid, _pid in rows
            if "shutdown" in str(what).split(":") and str(mode).startswith("block")
        ]
    except (ValueError, KeyError, IndexError, TypeError):
        return []


def _wait(config: str, root: Path) -> float:
    """Returns the seconds until systemd-shutdown would not wait any more."""
    try:
        line = (root / "proc/cmdline").read_text(encoding="utf-8", errors="replace")
        up = float((root / "proc/uptime").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return 0.0
    return max(0.0, minimum_uptime(config, line) - up)


def minimum_uptime(config: str, command_line: str) -> float:
    """Returns MinimumUptimeSec= in seconds, from the text of system.conf with its drop-ins, and from the kernel's
    command line, which takes precedence.
    """
    given = [value for key, value in _settings(config.splitlines()) if key == "MinimumUptimeSec"]
    given += [value for key, value in _settings(command_line.split()) if key == "systemd.minimum_uptime_sec"]
    return _seconds(given[-1]) if given else _MINIMUM_UPTIME


def _settings(words: Iterable[str]) -> Iterator[tuple[str, str]]:
    for word in words:
        key, equals, value = word.partition("=")
        if equals:
            yield key.strip(), value.strip()


def _seconds(text: str) -> float:
    """Returns a time span of one number and unit; the default for another text, as PID 1 ignores what it cannot read.

    A sum such as "1min 30s" counts as the default too.
    """
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz").strip()
    unit = text[len(text.rstrip("abcdefghijklmnopqrstuvwxyz")) :]
    try:
        return float(number) * _UNITS[unit]
    except (ValueError, KeyError):
        return _MINIMUM_UPTIME
