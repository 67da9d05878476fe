"""How the command line of a QEMU that loads a guest differs from the first one's, and what users have to know.

The state of a guest is in its RAM and in its state file. What QEMU opened for it on the host is opened again by a QEMU
in the next kernel: it must not wait for a person, and must not empty a file that the first one wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from luod.agents.qemu import parameters
from luod.agents.qemu.options import CHARACTER_DEVICES, Option, split
from luod.agents.qemu.parameters import Parameters


def rewritten(arguments: Sequence[str]) -> list[str]:
    """Returns `arguments` for a QEMU that loads the guest.

    Its sockets do not wait for a client, its files are appended to, and no memory is filled, which the kernel has done.
    """
    words = list(arguments)
    for option in reversed(split(arguments)):
        first, last = option.position, option.position + 2
        if option.name == "mem-prealloc":
            del words[first]
        elif option.name == "chardev" and not option.value.startswith("{"):
            words[first + 1] += _continued(option.parameters)
        elif option.name in CHARACTER_DEVICES and option.name != "gdb":
            path = option.parameters.get("path")
            if option.parameters.get("backend") == "file" and option.name in ("serial", "parallel", "debugcon"):
                words[first:last] = _appending(option, path)
            elif option.parameters.get("backend") == "socket":
                words[first + 1] += _continued(option.parameters)
    return words


def notes(option: Option) -> tuple[str, ...]:
    """Returns what to know about `option`: sentences, of which most guests have none."""
    return tuple(f"{str(option)[:200]}: {text}" for found, text in _NOTES if found(option))


def _continued(given: Parameters) -> str:
    """Returns the keys to add to a character device that is opened for the second time."""
    added = ""
    if given.get("backend") == "socket" and given.is_on("server") and not given.is_off("wait"):
        added += ",wait=off"
    if given.get("backend") == "file" and not given.is_on("append"):
        added += ",append=on"
    if "logfile" in given and not given.is_on("logappend"):
        added += ",logappend=on"
    return added


def _appending(option: Option, path: str) -> list[str]:
    """Returns the words for a character device that appends to a file: the older form can only empty it."""
    name = f"luod-{option.name}-{option.position}"
    with_monitor = option.value.startswith("mon:")
    device = f"file,id={name},path={parameters.escaped(path)},append=on" + (",mux=on" if with_monitor else "")
    monitor = ["-mon", f"chardev={name},mode=readline"] if with_monitor else []
    if option.name == "debugcon":  # it takes no name of a character device
        return ["-chardev", device, "-device", f"isa-debugcon,chardev={name}", *monitor]
    return ["-chardev", device, f"-{option.name}", f"chardev:{name}", *monitor]


def _device(*beginnings: str) -> Callable[[Option], bool]:
    return lambda option: option.name == "device" and option.kind.startswith(beginnings)


def _network(*kinds: str) -> Callable[[Option], bool]:
    return lambda option: option.name in ("netdev", "nic", "net") and option.kind in kinds


_NOTES: Final[tuple[tuple[Callable[[Option], bool], str], ...]] = (
    (
        lambda o: _device("vmgenid")(o) and o.parameters.get("guid", "auto") == "auto",
        "the guest gets another generation id in the next kernel, and takes itself for a copy; give a fixed guid=",
    ),
    (
        _network("user", "passt"),
        "the connections of the guest through this network end in an update; the guest keeps its address",
    ),
    (
        lambda o: (
            _network("stream", "dgram", "socket", "vde")(o) and not _listens(o) and "reconnect" not in o.parameters
        ),
        "the peer must listen in the next kernel before the guest is restored; reconnect= lets QEMU try again",
    ),
    (
        lambda o: _network("vhost-user")(o) or _device("vhost-user-")(o),
        "its back end must run in the next kernel before the guest is restored",
    ),
    (
        lambda o: o.name == "tpmdev" and o.kind == "emulator",
        "swtpm must listen on its socket in the next kernel before the guest is restored",
    ),
    (_device("usb-host", "usb-redir"), "the guest sees this device unplugged and plugged in again"),
    (
        lambda o: (
            o.parameters.get("backend") == "stdio"
            or o.name == "nographic"
            or (o.name == "display" and o.kind == "curses")
        ),
        "in the next kernel it is the standard input and output of the program that restores the guest",
    ),
    (
        lambda o: o.parameters.get("backend") == "pty",
        "the terminal has another name in the next kernel; a UNIX socket keeps its name",
    ),
    (lambda o: o.name in ("gdb", "s"), "the debugger must attach again, and set its breakpoints again"),
)


def _listens(option: Option) -> bool:
    given = option.parameters
    return given.is_on("server") or "listen" in given or "mcast" in given or "udp" in given
