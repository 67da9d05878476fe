"""The messages between `serve` and the supervisor: KEY=VALUE lines, with sd_notify's words where it has them.

`FDSTORE=1 FDNAME=…` (with an fd), `FDSTOREREMOVE=1 FDNAME=…`, `READY=1`, and five of our own: `CREATE=name`,
`RETRIEVE=name`, `PROBE=name`, a CREATE whose session is closed at once, `BLACKOUT=1` or `0`, whether guests are
paused, and `COPIES=1`, which asks whether PID 1 has a copy of every fd. `STORED=n ROOM=n CHANGES=n` beside it is what
PID 1 has answered meanwhile. Unlike sd_notify's, each is answered when it is done: `ERRNO=0`, with the session's fd
where there is one, or the kernel's errno with CALL and MEANING. `CLOSING=1` beside EEXIST: the session of that name
may be a copy that PID 1 is about to close; beside FDSTOREREMOVE's `ERRNO=0`: PID 1 is about to close its copy of that
session. Messages, not a stream: a SOCK_SEQPACKET socket pair.

A message has one request or more, separated by empty lines; its fds are those of its FDSTORE requests, in order. The
answers come in the same order. A session is answered as soon as the supervisor has it, with its fd and the answers
before it, so that it does not end with the supervisor while that opens the next one. ALL=1 marks the answer to every
request of a message that was not received.
"""

from __future__ import annotations

from collections.abc import Mapping

from luod.session_name import OWN
from luod.static import Final

OUTGOING: Final = "outgoing."
INCOMING: Final = "incoming."
"""Before a session's name, in the name of its stored fd."""
HELD: Final = "held."
"""Before the number of a file that luod holds for a program."""

REGISTRY_SESSION: Final = OWN
"""The session that carries the registry."""


MOST_REQUESTS: Final = 64
"""In a message."""


def encode(*requests: Mapping[str, object]) -> bytes:
    return "\n\n".join("\n".join(f"{key}={value}" for key, value in words.items()) for words in requests).encode()


def decode(message: bytes) -> list[dict[str, str]]:
    """Returns the keys and values of each request or answer. Lines without a `=` are ignored."""
    return [
        {key: value for key, equals, value in (line.partition("=") for line in words.splitlines()) if equals}
        for words in message.decode("utf-8", "replace").split("\n\n")
    ]
