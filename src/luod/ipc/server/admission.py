"""The admission of connections at a socket, and the error and log line for refused ones.

The listener determines how many connections a user may have. All users except root together have a limit too, since one
user may have many uids (subuids). A quarter of it is reserved for users matched by a rule.
"""

from __future__ import annotations

import json
import socket
from collections import Counter

from luod.frozen import frozen
from luod.ipc.names import TOO_MANY_CONNECTIONS
from luod.ipc.server.peer import Peer
from luod.ipc.server.sparing import Sparing
from luod.static import Final

NOT_FOR_YOU: Final = "io.luod.RootOnly"


@frozen
class Room:
    """The limits on simultaneous connections: of one user, and of all except root. `named`: a rule matches the user."""

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
        """Returns whether the connection is admitted, and counts it.

        A refused one got an error; the caller closes it.
        """
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
            # It has sent no call yet, or no call was read: this is the answer to its first.
            connection.send(json.dumps(reply).encode() + b"\0", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            return False
        return False

    def left(self, peer: Peer) -> None:
        self._users[peer.uid] -= 1
        if not self._users[peer.uid]:
            del self._users[peer.uid]
        self._not_root -= not peer.root
