"""The messages between `serve` and `keep`: KEY=VALUE lines, with sd_notify's words where it has them.

`FDSTORE=1 FDNAME=…` (with an fd), `FDSTOREREMOVE=1 FDNAME=…`, `READY=1`, and two of our own, `CREATE=name` and
`RETRIEVE=name`. Unlike sd_notify's, each is answered when it is done: `ERRNO=0`, with the session's fd where there is
one, or the kernel's errno with CALL and MEANING. Messages, not a stream: a SOCK_SEQPACKET socket pair.
"""

from __future__ import annotations

from collections.abc import Mapping

from luod.session_name import OWN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

OUTGOING: Final = "outgoing."
INCOMING: Final = "incoming."
"""Before a session's name, in the name of its stored fd."""
HELD: Final = "held."
"""Before the number of a file that luod holds for a program."""

REGISTRY_SESSION: Final = OWN
"""The session that carries the registry."""


def encode(words: Mapping[str, object]) -> bytes:
    return "\n".join(f"{key}={value}" for key, value in words.items()).encode()


def decode(message: bytes) -> dict[str, str]:
    """Returns the keys and values. Lines without a `=` are ignored."""
    pairs = (line.partition("=") for line in message.decode("utf-8", "replace").splitlines())
    return {key: value for key, equals, value in pairs if equals}
