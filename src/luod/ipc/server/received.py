"""The clients' files that serve holds: received from a connection, and not closed yet. Counted by user.

A message with files waits for its end, its turn, and the events that its method awaits, and its files are open
meanwhile. So a user with many connections could fill the table of open files, and no connection would be accepted then.
The budgets are parts of that table. They bound the files of messages only: the policy bounds files that a method keeps
for longer.
"""

from __future__ import annotations

import resource
import sys
from collections import Counter
from collections.abc import Callable

from luod.errors import BadInput
from luod.linux import Fd
from luod.static import Final

OF_ALL: Final = 4
"""The part of the table, as a divisor, for files of all users except root.

A quarter of it is reserved for users matched by a rule of the policy, as with connections.
"""
OF_USER: Final = 16
"""The part of the table for files of one user."""


def table_of_this_process() -> int:
    """Returns how many files this process can have open (RLIMIT_NOFILE)."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


class Budget:
    """Counts fds from `took` to `closed`. `table` returns how many files this process can have open."""

    def __init__(self, table: Callable[[], int] = table_of_this_process) -> None:
        self._table: Final = table
        self._users: Counter[int] = Counter()

    def refusal(self, uid: int, *, named: bool, most: int) -> str | None:
        """Returns why a message with up to `most` fds is not received, as text; None: it can be received.

        One message can be received from a user of whom no file is held, even if the user's part is smaller.
        """
        if uid == 0:
            return None
        table = self._table()
        held, of_user = self._users[uid], table // OF_USER
        if held and held + most > of_user:
            return f"luod holds {held} files of unfinished calls of uid {uid}, and the limit is {of_user}"
        held, of_all = sum(count for user, count in self._users.items() if user), table // OF_ALL
        if not named:
            of_all -= of_all // 4
        if held and held + most > of_all:
            return f"luod holds {held} files of unfinished calls of all users but root, and the limit is {of_all}"
        return None

    def took(self, uid: int, count: int) -> None:
        self._users[uid] += count

    def closed(self, uid: int) -> None:
        self._users[uid] -= 1
        if not self._users[uid]:
            del self._users[uid]


class Received:
    """A file that a client passed, owned. The first `close` passes it to `discard`, which closes it.

    `file` None stands for a file that luod does not accept. `gone` runs once, when the file is closed or passed on.
    """

    def __init__(self, file: Fd | None, discard: Callable[[Fd], None], gone: Callable[[], None] = lambda: None) -> None:
        self._file: Final = file
        self._discard: Callable[[Fd], None] | None = discard
        self._gone = gone

    def fileno(self) -> int:
        if self._file is None:
            raise BadInput("luod does not accept files of this kind")
        return self._file.fileno()

    def duplicate(self) -> Fd | None:
        """Returns a duplicate; None: luod does not accept the file."""
        return None if self._file is None else self._file.duplicate()

    def close(self) -> None:
        discard, self._discard = self._discard, None
        if discard is not None and self._file is not None:
            self._gone()
            discard(self._file)

    def close_here(self) -> None:
        """Closes it at once, for a file of which luod has another fd, so that this close is not the last one."""
        discard, self._discard = self._discard, None
        if discard is not None and self._file is not None:
            self._gone()
            self._file.close()
