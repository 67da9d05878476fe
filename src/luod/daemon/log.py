"""The log of both programs: one line for each event on stderr, `time level event key=value …`.

If stderr is systemd's journal, an event goes to the journal's own socket instead, with its fields (`journald`). The
`logging` package is not used: its import costs more than the rest of `luod`. Values that are not plain words are quoted
as JSON strings, so that a line is one line with any input of a client.
"""

from __future__ import annotations

import os
import re
import select
import time
from json.encoder import encode_basestring_ascii

from luod.daemon.journald import Journal
from luod.static import Final

LEVELS: Final = ("debug", "info", "warning", "error")
_PRIORITIES: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3}
"""The priorities of sd-daemon(3) and syslog(3)."""
_MOST_CHARACTERS: Final = 4096
"""The maximum length of a value: that of a client may be longer than a line should be."""
_STALL_SECONDS: Final = 1.0
"""The maximum wait of a line for a reader of stderr that has stopped."""
_PLAIN: Final = re.compile(r"[A-Za-z0-9._@/#:+-]+")


class Log:
    """Writes events at or above `level` (one of LEVELS). `log(event, …)` is `log.info(event, …)`."""

    def __init__(self, program: str, level: str = "info") -> None:
        self._program = program
        self._journal = Journal(program) if to_journal() else None
        self._missed = 0
        self._least = LEVELS.index(level)
        self.context: dict[str, str] = {}
        """Fields of every event, for the journal: the update under way."""
        self.restoring: str | None = None
        """The update that came over the kexec, while its sessions are restored and none other is under way."""

    def __call__(self, event: str, /, **fields: object) -> None:
        self._write("info", event, fields)

    def debug(self, event: str, /, **fields: object) -> None:
        self._write("debug", event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        self._write("warning", event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        self._write("error", event, fields)

    def _write(self, level: str, event: str, fields: dict[str, object]) -> None:
        if LEVELS.index(level) < self._least:
            return
        words = [f"{key}={_word(value)}" for key, value in fields.items()]
        if self._journal is not None and self._send(self._journal, level, event, " ".join([event, *words]), fields):
            return
        now = time.time()
        clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        start = f"{clock}.{int(now % 1 * 1000):03d}Z", level, self._program, event
        priority = "" if self._journal is None else f"<{_PRIORITIES[level]}>"
        self._put((priority + " ".join([*start, *words]) + "\n").encode())

    def _send(self, journal: Journal, level: str, event: str, message: str, fields: dict[str, object]) -> bool:
        """Sends an event to the journal. Events that it does not take at once are counted. Returns False if it does not
        run: stderr is the place then.
        """
        context = self.context
        if not context and self.restoring is not None:
            context = {"update": self.restoring, "phase": "restoring"}
        told = context | {key: _bounded(str(value)) for key, value in fields.items()}
        if self._missed:
            told["missed"] = str(self._missed)
        try:
            journal.send(_PRIORITIES[level], event, message, told)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:
            self._missed += 1
        else:
            self._missed = 0
        return True

    def _put(self, line: bytes) -> None:
        """Writes a line.

        It waits for a stopped reader once, not for each line: sessions matter more than the log. Missed lines are
        counted, and the count is written when it reads again.
        """
        try:
            if not _takes_more(0.0 if self._missed else _STALL_SECONDS):
                self._missed += 1
                return
            if self._missed:
                line, self._missed = b"log-resumed missed=%d\n%b" % (self._missed, line), 0
            os.write(2, line)
        except OSError:
            # It is closed, or its disk is full, and there is no other place to report that.
            return


def _takes_more(seconds: float) -> bool:
    """Returns whether stderr takes a line within `seconds`: a pipe has room for PIPE_BUF bytes then."""
    poll = select.poll()
    poll.register(2, select.POLLOUT)
    return bool(poll.poll(seconds * 1000))


def to_journal() -> bool:
    """Returns whether stderr is the journal, which takes a priority at the beginning of a line: sd-daemon(3)."""
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _bounded(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}… ({len(text)} characters)"


def _word(value: object) -> str:
    text = _bounded(str(value))
    return text if _PLAIN.fullmatch(text) else str(encode_basestring_ascii(text))
