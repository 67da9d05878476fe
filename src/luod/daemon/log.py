"""The log of both programs: one line an event on stderr, `time level event key=value …`.

Not the `logging` package, whose import costs more than the rest of `luod keep`. Values that are not plain words are
quoted as JSON strings, so that a line stays a line whatever a client sent.
"""

from __future__ import annotations

import os
import re
import time
from json.encoder import encode_basestring_ascii
from typing import Final

LEVELS: Final = ("debug", "info", "warning", "error")
_PLAIN: Final = re.compile(r"[A-Za-z0-9._@/#:+-]+")


class Log:
    """Writes events at or above `level` (one of LEVELS). `log(event, …)` is `log.info(event, …)`."""

    def __init__(self, program: str, level: str = "info") -> None:
        self._program = program
        self._least = LEVELS.index(level)

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
        now = time.time()
        clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        words = [f"{clock}.{int(now % 1 * 1000):03d}Z", level, self._program, event]
        words += [f"{key}={_word(value)}" for key, value in fields.items()]
        try:
            os.write(2, (" ".join(words) + "\n").encode())
        except OSError:
            # Nobody reads any more; there is no other place to say so, and sessions matter more than the log.
            return


def _word(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else str(encode_basestring_ascii(text))
