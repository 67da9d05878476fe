"""The emulated machine in which systemd is PID 1, as a `Machine`. `bed` makes it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from luod.testing.emulated import EmulatedMachine, LuoemuProcess
from luod.testing.interpreter import Interpreter

_BED: Final = Path(__file__).with_name("bed.py")
_LOG_TAIL: Final = 6000
"""Bytes of the console in a failure's text."""


class EmulatedSystemd(EmulatedMachine):
    """A machine whose root file system is a directory of scripts/systemd-root. It boots systemd, which runs on when the
    constructor returns.
    """

    def __init__(self, root: str | os.PathLike[str], *, timeout: float) -> None:
        self._root = os.path.abspath(root)
        super().__init__(timeout=timeout)

    def _start(
        self, python: Interpreter, channel: int, arguments: Sequence[str], environment: Mapping[str, str]
    ) -> LuoemuProcess:
        self._console.touch()
        return subprocess.Popen(
            python.script(_BED, self._root, str(self._console), str(channel)),
            env=environment,
            cwd="/",
            pass_fds=[channel],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )

    def log(self) -> str:
        try:
            console = self._console.read_bytes()[-_LOG_TAIL:].decode("utf-8", "replace")
        except FileNotFoundError:
            console = ""
        return super().log() + console

    @property
    def _console(self) -> Path:
        return self._outputs.path / "console"
