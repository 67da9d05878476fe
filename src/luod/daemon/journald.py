"""The native protocol of systemd's journal: a datagram of fields for each event.

Source: https://systemd.io/JOURNAL_NATIVE_PROTOCOL. `luod.daemon.log` writes lines, and uses this in their place where
luod's stderr is the journal. Nothing here waits: an event that the journal does not take at once is lost, and the log
counts it. Standard library only.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping

from luod.static import Final

SOCKET: Final = "/run/systemd/journal/socket"
MESSAGE_IDS: Final[Mapping[str, str]] = {
    "arrived": "aa30b92384114f8182935fd325ab2797",
    "arrived-without-luod": "bf43227e6614471bb6196e7233d5195f",
    "cancelled": "f6270092f6294d4a96508c5a40046b32",
    "device-broken": "8959dd8cd3064493aa37e09c683bd15a",
    "discard-failed": "e466492f1faa44339783427bd78a8aee",
    "carry-over-failed": "e2f57ea7f70b4d0b9eaa13f514543440",
    "hook-failed": "c1e435c97ed8403eb53cadff8055821f",
    "jump-held": "909724b3998b44a286d969274e8f6ebe",
    "pid-1-store": "531e4301cf8046cf9666e84f2dad7f32",
    "policy-bad": "b3035199f203478a95c43a314c9d7810",
    "registry-doubt": "32328bbf980a46d2adeb5f228c84b75f",
    "registry-file": "2f70279512514f50aa1f7bd179b3ae29",
    "serve-does-not-end": "b17b65355f5b47a98f8653f19b767d18",
    "serve-not-started": "2969cb3118184b388683f6706423ef70",
    "session-lost": "332729e259a644a3a0d42030f9ba597e",
    "session-torn": "0ef5e36201464187a271b3d57a75e026",
    "state-newer": "22b572e01cfe497faae06f1908c00078",
    "image-left": "515c851144cf43f6b8320e8ec29dbef2",
    "units-left": "f3972045f37047a2a4501ba7b9384fd1",
}
"""The events that may need an operator. systemd/luod.catalog explains each for `journalctl --catalog`."""
_FIELDS: Final = {"name": "SESSION"}
"""Members of an event that have another name in the journal, after `LUOD_`."""


class Journal:
    """The journal, as one part of luod writes to it."""

    def __init__(self, program: str) -> None:
        """`program` is the part of luod that writes."""
        self._program = program

    def send(self, priority: int, event: str, message: str, fields: Mapping[str, str]) -> None:
        """Sends an event; `message` is its text for people. Raises OSError: the journal does not take it now, or
        does not run (FileNotFoundError, ConnectionRefusedError).
        """
        lines = [
            ("MESSAGE", message),
            ("PRIORITY", str(priority)),
            ("SYSLOG_IDENTIFIER", "luod"),
            ("LUOD_PROGRAM", self._program),
            ("LUOD_EVENT", event),
        ]
        if event in MESSAGE_IDS:
            lines.append(("MESSAGE_ID", MESSAGE_IDS[event]))
        lines += [(f"LUOD_{_FIELDS.get(name, name).upper()}", value) for name, value in fields.items()]
        datagram = b"".join(_field(name, value.encode("utf-8", "replace")) for name, value in lines)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.sendto(datagram, socket.MSG_DONTWAIT, SOCKET)


def _field(name: str, value: bytes) -> bytes:
    """Returns a field as bytes. One with a line break has its length before it."""
    if b"\n" not in value:
        return b"%s=%s\n" % (name.encode(), value)
    return b"%s\n%s%s\n" % (name.encode(), len(value).to_bytes(8, "little"), value)
