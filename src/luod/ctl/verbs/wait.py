"""`luoctl wait`: polls luod, so that it also waits for a luod that is started later."""

from __future__ import annotations

import errno
import time
from argparse import Namespace
from typing import TYPE_CHECKING, Final, Protocol

from luod.arguments import Parser, seconds
from luod.ctl.exits import Exit
from luod.ctl.output import Output, escaped

if TYPE_CHECKING:
    from luod.ctl.update_end import Verdict
    from luod.ipc.types.admin import UpdateTimes

SUMMARY = "wait until luod, an update, a restore or a participant is ready"
DESCRIPTION = (
    "Waits for a condition. ready: luod answers (the default). update: no update is running; the exit status is 5 if "
    "the one that was running is cancelled. restored: no incoming session is left waiting or unfinished; torn ones do "
    "not count. participant: every session NAME has a participant, which answers for it in an update. With --update: "
    "until this update has ended and no incoming session is left; the exit status says how it ended."
)
CONDITIONS: Final = ("ready", "update", "restored", "participant")
_PERIOD: Final = 0.2
"""Seconds between two polls."""
_CALL_SECONDS: Final = 1.0
"""The time that each call to luod gets at least, so that a short --timeout is not one for luod's answer."""


def arguments(parser: Parser) -> None:
    parser.add_argument(
        "--for", dest="condition", choices=CONDITIONS, default="ready", help="the condition (default: ready)"
    )
    parser.add_argument(
        "--timeout", type=seconds, metavar="SECONDS", help="give up after this time with exit status 8 (default: never)"
    )
    parser.add_argument("--update", metavar="ID", help="wait for the end of this update, through the kexec")
    parser.add_argument("session", nargs="*", metavar="NAME", help="a session, with --for participant")


def run(given: Namespace, output: Output) -> Exit:
    if bool(given.session) != (given.condition == "participant"):
        given.parser.error("--for participant and a NAME belong together")
    if given.update is not None and given.condition != "ready":
        given.parser.error("--update is a condition of its own, and cannot be combined with --for")
    condition: Condition = _Condition(given) if given.update is None else End(given.admin_socket, given.update)
    return poll(condition, given.timeout, output)


class Condition(Protocol):
    """A condition that is awaited."""

    def missing(self, timeout: float) -> str | None:
        """Returns the unmet part, or None once the condition holds. `timeout`, in seconds, is for each call.

        Raises LuodError.
        """

    def ended(self, output: Output) -> Exit:
        """Prints the result. Returns the exit status."""


def poll(condition: Condition, timeout: float | None, output: Output) -> Exit:
    """Waits until the condition holds, at most `timeout` seconds. Prints the result, and returns the exit status."""
    from luod.errors import LiveUpdateBroken, LuodError
    from luod.ipc.client.connection import is_absent, is_crowded

    until = None if timeout is None else time.monotonic() + timeout
    while True:
        try:
            missing = condition.missing(_patience(until))
        except LiveUpdateBroken as error:
            output.failure("LiveUpdateBroken", error.message, error.hint)
            return Exit.BROKEN
        except LuodError as error:
            if not (is_absent(error) or is_crowded(error)):
                raise
            missing = error.message
        if missing is None:
            return condition.ended(output)
        if until is not None and time.monotonic() >= until:
            output.failure("TimedOut", f"after {timeout:g} s: {missing}", "")
            return Exit.TIMED_OUT
        time.sleep(_PERIOD)


def _patience(until: float | None) -> float:
    """Returns the limit of a call in seconds. A luod that is stopped must not hold the command beyond its --timeout."""
    from luod.ipc.client.connection import TIMEOUT

    return TIMEOUT if until is None else min(TIMEOUT, max(_CALL_SECONDS, until - time.monotonic()))


class _Condition:
    """The condition that is awaited, and the update that was running meanwhile."""

    def __init__(self, given: Namespace) -> None:
        self._given = given
        self._update: UpdateTimes | None = None

    def missing(self, timeout: float) -> str | None:
        if self._given.condition == "participant":
            return self._without_participant(timeout)
        from luod.ctl import admin
        from luod.errors import LiveUpdateBroken

        path = self._given.admin_socket
        status = admin.status(path, timeout=timeout)
        if status.state == "broken":
            raise LiveUpdateBroken(
                errno.EIO, "open /dev/liveupdate", "this kernel could not take over what was preserved"
            )
        running = status.state in ("preparing", "freezing", "jumping")
        if self._given.condition == "update" and (running or self._update is not None):
            self._update = admin.timeline(path, timeout=timeout)
            return f"the update is {escaped(status.state)}" if running else None
        left = status.waiting + status.retrieved
        if self._given.condition == "restored" and left:
            return f"incoming sessions: {status.waiting} waiting, {status.retrieved} retrieved and not finished"
        return None

    def _without_participant(self, timeout: float) -> str | None:
        from luod.client import Client
        from luod.errors import NoSuchSession

        client = Client(self._given.socket, timeout=timeout)
        for name in self._given.session:
            try:
                found = client.describe(name)
            except NoSuchSession:
                return f"there is no session {escaped(name)}"
            if not any(session.participant for session in found):
                return f"session {escaped(name)} has no participant"
        return None

    def ended(self, output: Output) -> Exit:
        """Prints the result of the update that was running meanwhile, if any. Returns the exit status."""
        from luod.ctl import timeline

        update = self._update
        cancelled = update is not None and update.state == "cancelled"
        if output.json:
            output.object({"condition": self._given.condition, "update": None if update is None else update.update})
        elif update is not None:
            output.line(timeline.headline(update))
        return Exit.CANCELLED if cancelled else Exit.DONE


class End:
    """The end of one update, which may be in the next kernel."""

    def __init__(self, path: str | None, update: str) -> None:
        """`path` is the admin socket's, `update` the id."""
        self._path = path
        self._update = update
        self._verdict: Verdict | None = None
        self._earlier: Verdict | None = None

    def missing(self, timeout: float) -> str | None:
        from luod.ctl import admin
        from luod.ctl.update_end import judge

        status, times = admin.status(self._path, timeout=timeout), admin.timeline(self._path, timeout=timeout)
        found = judge(self._update, status, times)
        # Both were not read at one moment: an end that is not in the timeline must be seen twice.
        if found.exit is Exit.NOT_UPDATED and found != self._earlier:
            self._earlier = found
            return found.text
        self._verdict = found
        return None if found.exit is not None else found.text

    def ended(self, output: Output) -> Exit:
        assert self._verdict is not None, "it is asked for after `missing`"
        exit, text = self._verdict.exit, self._verdict.text
        assert exit is not None, "it has ended"
        if exit is Exit.NOT_FOUND:
            output.failure("NoSuchUpdate", text, "see `luoctl timeline`")
            return exit
        if output.json:
            output.object({"condition": "end", "update": self._update, "outcome": text})
        output.verdict(text, good=exit is Exit.DONE)
        return exit
