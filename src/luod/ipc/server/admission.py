"""Who is let in at a socket, and what is said of those who are not: to them in an error, and in the log.

How many connections a user may have is asked of whoever listens. All users but root have a number together, too, since
one user may have many uids (subuids); those whom nobody named leave the last quarter of it to those whom somebody did.
"""

from __future__ import annotations

import json
import socket
from collections import Counter
from dataclasses import dataclass
from typing import Final

from luod.ipc.names import TOO_MANY_CONNECTIONS
from luod.ipc.server.peer import Peer
from luod.ipc.server.sparing import Sparing

NOT_FOR_YOU: Final = "io.luod.RootOnly"


@dataclass(frozen=True)
class Room:
    """How many connections there may be at a time: of one user, and of all but root. `named`: somebody wrote a rule
    for the user.
    """

    of_user: int
    of_all: int
    named: bool = False


class Admission:
    """Counts connections, from `admits` to `left`."""

    def __init__(self, log: Sparing, *, root_only: bool) -> None:
        self._log = log
        self._root_only = root_only
        self._users: Counter[int] = Counter()
        self._not_root = 0

    def admits(self, connection: socket.socket, peer: Peer, room: Room) -> bool:
        """Whether it is let in, and counted. If not it was told why; whoever calls closes it."""
        if self._root_only and not peer.root:
            refusal = NOT_FOR_YOU, "this socket is for root", "use luod's other socket"
        elif self._users[peer.uid] >= room.of_user:
            refusal = (
                TOO_MANY_CONNECTIONS,
                f"uid {peer.uid} has as many connections to luod as it may: {room.of_user}",
                "close some, or have `connections` in luod's policy made larger",
            )
        elif not peer.root and self._not_root >= (room.of_all if room.named else room.of_all - room.of_all // 4):
            refusal = (
                TOO_MANY_CONNECTIONS,
                f"luod has as many connections of users that are not root as it may: {self._not_root}",
                "try again later, or have `all-connections` in luod's policy made larger",
            )
        else:
            self._users[peer.uid] += 1
            self._not_root += not peer.root
            return True
        name, message, hint = refusal
        self._log("connection-refused", of=peer.uid, uid=peer.uid, pid=peer.pid, reason=message)
        reply = {"error": name, "parameters": {"message": message, "hint": hint}}
        try:
            # It has asked nothing yet, or nothing that was read: this is the answer to whatever it asks first.
            connection.send(json.dumps(reply).encode() + b"\0", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            return False
        return False

    def left(self, peer: Peer) -> None:
        self._users[peer.uid] -= 1
        if not self._users[peer.uid]:
            del self._users[peer.uid]
        self._not_root -= not peer.root
