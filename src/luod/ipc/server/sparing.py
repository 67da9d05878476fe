"""A bound on the log lines that clients cause: by user and event, with a count of the suppressed ones.

`Lines` decides, and is pure. `Sparing` writes, in a running loop. Lines of the operator and of updates do not come
here: the log itself always writes them.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from luod.frozen import frozen
from luod.static import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:

    class Log(Protocol):
        """Writes one event with its fields."""

        def __call__(self, event: str, /, **fields: object) -> None: ...


BURST: Final = 64
"""Lines of one event that a user may cause at once."""
SECONDS_A_LINE: Final = 10.0
"""The time in seconds after which one more line may be written."""
USERS: Final = 512
"""The number of users with accounts of their own at a time; any others share one."""
RESERVED: Final = 8
"""Lines that a user may cause at once when users together have caused too many."""
SECONDS_A_RESERVED_LINE: Final = 60.0
BURST_OF_ALL: Final = 2048
"""Lines that all users except root may cause at once."""
LINES_A_SECOND_OF_ALL: Final = 5.0
CHARACTERS: Final = 512
"""The maximum length of each value in a line."""
SUMMARY_SECONDS: Final = 60.0
"""The time from the first suppressed line to the lines with the counts."""
SUMMARIES: Final = 64
"""Users and events with a count of their own, those with most lines; the rest is counted by event."""


class _Allowance:
    """Lines that may be written: `burst` at once, and one more in each `seconds`. It begins full."""

    def __init__(self, burst: int, seconds: float, now: float) -> None:
        self._burst = burst
        self._seconds = seconds
        self._left = float(burst)
        self._then = now

    def _refill(self, now: float) -> None:
        self._left = min(self._left + (now - self._then) / self._seconds, self._burst)
        self._then = now

    def take(self, now: float) -> bool:
        self._refill(now)
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def full(self, now: float) -> bool:
        self._refill(now)
        return self._left >= self._burst


class _Account:
    """The lines that one user may still cause."""

    def __init__(self, now: float) -> None:
        self.reserved = _Allowance(RESERVED, SECONDS_A_RESERVED_LINE, now)
        self.events: dict[str, _Allowance] = {}

    def untouched(self, now: float) -> bool:
        """Returns whether it is in the state of a new one."""
        return self.reserved.full(now) and all(allowance.full(now) for allowance in self.events.values())


@frozen
class LeftOut:
    """The count of suppressed lines of one event. `uid` None: those of `users` users."""

    event: str
    uid: int | None
    users: int
    lines: int


class Lines:
    """Decides which lines are written. A user cannot use up another's lines, and all together are bounded.

    A line takes one of its user's lines for that event, and one of all users', or instead one that is reserved for its
    user. `uid` None is for lines without a known user.
    """

    def __init__(self) -> None:
        self._accounts: dict[int | None, _Account] = {}
        self._sweep_at = 0.0
        self._all: _Allowance | None = None
        self._left_out: Counter[tuple[str, int | None]] = Counter()

    def admits(self, uid: int | None, event: str, now: float) -> bool:
        """Returns whether the line may be written. Counts it otherwise."""
        account = self._account(uid, now)
        allowance = account.events.get(event)
        if allowance is None:
            allowance = account.events[event] = _Allowance(BURST, SECONDS_A_LINE, now)
        if allowance.take(now) and (uid == 0 or self._of_all(now).take(now) or account.reserved.take(now)):
            return True
        known = uid if uid in self._accounts else None
        self._left_out[event, known] += 1
        return False

    def _of_all(self, now: float) -> _Allowance:
        if self._all is None:
            self._all = _Allowance(BURST_OF_ALL, 1 / LINES_A_SECOND_OF_ALL, now)
        return self._all

    def _account(self, uid: int | None, now: float) -> _Account:
        account = self._accounts.get(uid)
        if account is None:
            if len(self._accounts) >= USERS and uid is not None and uid != 0:
                if now >= self._sweep_at:
                    self._sweep_at = now + SECONDS_A_LINE
                    self._accounts = {other: it for other, it in self._accounts.items() if not it.untouched(now)}
                if len(self._accounts) >= USERS:
                    return self._account(None, now)
            account = self._accounts[uid] = _Account(now)
        return account

    def left_out(self) -> list[LeftOut]:
        """Returns the counts of suppressed lines since the last call."""
        most = self._left_out.most_common(SUMMARIES)
        rest = self._left_out - Counter(dict(most))
        self._left_out = Counter()
        found = [LeftOut(event, uid, 1, lines) for (event, uid), lines in most]
        for event in sorted({event for event, _uid in rest}):
            counts = [lines for (other, _uid), lines in rest.items() if other == event]
            found.append(LeftOut(event, None, len(counts), sum(counts)))
        return found


def _short(value: object) -> object:
    text = str(value)
    return value if len(text) <= CHARACTERS else f"{text[:CHARACTERS]}…"


class Sparing:
    """A log of the events that clients cause, within the bounds of `Lines`.

    Suppressed lines are reported a minute later, and by `close`: `more=` lines of an event of a user, or of several
    users.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._lines = Lines()
        self._writes: dict[str, Log] = {}
        self._end: asyncio.TimerHandle | None = None

    def __call__(self, event: str, /, *, of: int | None, write: Log | None = None, **fields: object) -> None:
        """Writes one line, caused by the user `of`; None: by no known user. `write` is another level's."""
        loop = asyncio.get_running_loop()
        write = self._writes.setdefault(event, write or self._log)
        if self._lines.admits(of, event, loop.time()):
            write(event, **{name: _short(value) for name, value in fields.items()})
        elif self._end is None:
            self._end = loop.call_later(SUMMARY_SECONDS, self._summarize)

    def _summarize(self) -> None:
        self._end = None
        for left in self._lines.left_out():
            whose = {"users": left.users} if left.uid is None else {"uid": left.uid}
            self._writes[left.event](left.event, **whose, more=left.lines)

    def close(self) -> None:
        """Writes the counts that are left."""
        if self._end is not None:
            self._end.cancel()
            self._summarize()
