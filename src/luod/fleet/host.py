"""An emulated host from outside: a process of luoemu, and a directory with its settings, its socket and its log."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from typing import Any

from luod.errors import HostLost
from luod.fleet import remote, setting
from luod.fleet.setting import Setting
from luod.frozen import frozen
from luod.testing.interpreter import Interpreter
from luod.testing.waiting import eventually

_READY_SECONDS = 300.0
"""Many hosts start at a time."""
_ASK_SECONDS = 60.0
_LOG_SHOWN = 2000
"""The number of the last characters of a host's log that an error shows."""
_END_SECONDS = 30.0


@frozen
class Result:
    """The result of a command in a host. `status` is None if the host ended or jumped meanwhile."""

    status: int | None
    output: str
    errors: str


class EmulatedHost:
    """Runs from the constructor to `close`."""

    def __init__(self, given: Setting, python: Interpreter, *, share_network: bool) -> None:
        """`share_network`: it has this machine's network instead of one of its own."""
        self.setting = given
        options = ["--share-network"] if share_network else []
        path = setting.write(given)
        with open(f"{given.directory}/log", "ab") as log:
            self._process = subprocess.Popen(
                [
                    *python.module("luod.emulator.machine"),
                    "run",
                    *options,
                    "--",
                    *python.module("luod.fleet.init", path),
                ],
                env={**os.environ, **python.environment},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def log(self) -> str:
        """Returns what the machine, luod and the VMMs have written."""
        with open(f"{self.setting.directory}/log", encoding="utf-8", errors="replace") as file:
            return file.read()

    def until_ready(self) -> None:
        """Waits until all its guests take part in updates. Raises HostLost: it ended, or takes too long."""
        try:
            eventually(self._reachable, describe=f"{self.setting.name} is reachable", within=_READY_SECONDS)
        except AssertionError as error:
            raise HostLost(f"{error}; it wrote: {self.log()[-_LOG_SHOWN:]}") from None
        if self.setting.guests:
            names = " ".join(self.setting.guests)
            wait = f"luoctl wait --for participant --timeout {_READY_SECONDS:.0f} {names}"
            self.ask(wait, timeout=_READY_SECONDS + _ASK_SECONDS)

    def _reachable(self) -> bool:
        if not self.running:
            raise HostLost(f"{self.setting.name} ended: {self.log()[-_LOG_SHOWN:]}")
        try:
            return self.run("true").status == 0
        except OSError:
            return False

    def run(self, command: str, *, timeout: float = _ASK_SECONDS) -> Result:
        """Runs a shell command in the host. Raises OSError: the host cannot be reached, or does not answer in time.

        `timeout` is in seconds.
        """
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors, open(os.devnull, "rb") as nothing:
            files = nothing.fileno(), output.fileno(), errors.fileno()
            status = remote.run(f"{self.setting.directory}/ssh", command, files, timeout)
            return Result(status, *(_text(file.fileno()) for file in (output, errors)))

    def ask(self, command: str, *, timeout: float = _ASK_SECONDS) -> str:
        """Returns what a command prints. Raises HostLost: the host or the command fails."""
        try:
            result = self.run(command, timeout=timeout)
        except OSError as error:
            raise HostLost(f"{self.setting.name}: {error.strerror or error}") from None
        if result.status != 0:
            raise HostLost(f"{self.setting.name}: {command}: {result.errors.strip() or result.status}")
        return result.output

    def ask_json(self, command: str) -> Mapping[str, Any]:
        """Returns the last JSON object that a command prints. Raises HostLost."""
        found: Mapping[str, Any] = json.loads(self.ask(command).splitlines()[-1])
        return found

    def close(self) -> None:
        """Ends the machine with all its processes."""
        self._process.kill()
        self._process.wait(_END_SECONDS)


def _text(file: int) -> str:
    return os.pread(file, os.fstat(file).st_size, 0).decode("utf-8", "replace")
