"""The agent's loop, and the action for each verb of a request. Run by `luod.testing.agent.__main__`."""

from __future__ import annotations

import base64
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

from luod.linux import LONGEST_POLL, MS_BIND, syscall
from luod.testing.agent.channel import Channel
from luod.testing.agent.programs import Programs
from luod.testing.agent.requests import BadRequest, member, member_bytes

_BAD: Final = (BadRequest, ValueError, TypeError, OverflowError, RecursionError, subprocess.SubprocessError)
"""The errors of a request whose members are no valid arguments of the calls for it."""


class Agent:
    """One thread and one poll. Reading and writing a file, and the start of a program, block it meanwhile."""

    def __init__(
        self, channel: Channel, *, outputs: str = "", forks: bool = False, imports: Sequence[str] | None = None
    ) -> None:
        """`outputs` is a directory, "" or one that is missing: none. The others are those of `Programs`."""
        self._channel = channel
        self._identity = os.urandom(8).hex()
        prefix = f"{outputs}/{self._identity}" if os.path.isdir(outputs) else None
        self._programs = Programs(channel, prefix, forks=forks, imports=imports)
        self._woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._verbs: dict[str, Callable[[int, dict[str, Any]], None]] = {
            "run": self._run,
            "spawn": self._spawn,
            "ask": self._ask,
            "end_input": self._end_input,
            "signal": self._signal,
            "signal_process": self._signal_process,
            "bind": self._bind,
            "wait": self._wait,
            "read": self._read,
            "write": self._write,
            "exit": self._exit,
        }

    def serve(self) -> NoReturn:
        """Says hello and answers until an exit request, or until the other end is closed (exit status 1)."""
        spaces = {name: os.readlink(f"/proc/self/ns/{name}") for name in ("mnt", "net", "pid")}
        self._channel.tell(
            {
                "hello": int(os.environ.get("LUOEMU_BOOT", "0")),
                "agent": self._identity,
                "kernel": os.environ.get("LUOEMU_KERNEL", ""),
                "namespaces": spaces,
            }
        )
        while True:
            self._programs.reap()
            self._programs.expire()
            self._poll()

    def _poll(self) -> None:
        poll = select.poll()
        poll.register(self._channel, select.POLLIN | (select.POLLOUT if self._channel.pending else 0))
        poll.register(self._woken, select.POLLIN)
        inputs = self._programs.inputs()
        outputs = {} if self._channel.crowded else self._programs.outputs()
        for fd in inputs:
            poll.register(fd, select.POLLOUT)
        for fd in outputs:
            poll.register(fd, select.POLLIN)
        left = self._programs.seconds_left()
        for fd, events in poll.poll(None if left is None else min(left, LONGEST_POLL) * 1000 + 1):
            if fd in inputs:
                inputs[fd].feed()
            elif fd in outputs:
                self._programs.drain(outputs[fd], once=True)
            elif fd == self._woken:
                os.read(self._woken, 4096)
            else:
                if events & select.POLLOUT:
                    self._channel.flush()
                if events & ~select.POLLOUT:
                    for line in self._channel.lines():
                        self._request(line)

    def _request(self, line: bytes) -> None:
        identity: int | None = None
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise BadRequest("not an object")
            if request.get("agent") != self._identity:
                return
            identity = member(request, "id", int)
            verb = self._verbs.get(member(request, "do", str))
            if verb is None:
                raise BadRequest(f"do: {request['do']!r:.80} is not known")
            verb(identity, request)
        except OSError as error:
            self._channel.fail(identity, type(error).__name__, str(error), errno=error.errno)
        except _BAD as error:
            self._channel.fail(identity, "BadRequest", f"{type(error).__name__}: {error}")

    # -- the verbs -----------------------------------------------------------------------------------------------

    def _run(self, identity: int, request: dict[str, Any]) -> None:
        stdin = member_bytes(request, "stdin")
        seconds = float(request.get("timeout", 60))
        if seconds != seconds:
            raise BadRequest("timeout: it is not a number")
        deadline = time.monotonic() + seconds
        self._programs.start(request, run=identity, deadline=deadline).input += stdin

    def _spawn(self, identity: int, request: dict[str, Any]) -> None:
        program = self._programs.start(request)
        self._channel.answer(
            identity, {"program": program.handle, "pid": program.process.pid, "stderr": program.errors_file}
        )

    def _ask(self, identity: int, request: dict[str, Any]) -> None:
        program = self._programs.find(request)
        line = member(request, "line", str)
        if program.ended is not None:
            self._channel.fail(identity, "Ended", f"it has ended with {program.ended}")
            return
        program.input += line.encode() + b"\n"
        program.asks.append(identity)
        program.feed()

    def _end_input(self, identity: int, request: dict[str, Any]) -> None:
        program = self._programs.find(request)
        program.close_input = True
        self._channel.answer(identity, None)

    def _signal(self, identity: int, request: dict[str, Any]) -> None:
        program = self._programs.find(request)
        if program.ended is None:
            os.kill(program.process.pid, _signal_number(request))
        self._channel.answer(identity, None)

    def _wait(self, identity: int, request: dict[str, Any]) -> None:
        program = self._programs.find(request)
        if program.ended is not None:
            self._channel.answer(identity, program.ended)
        else:
            program.waits.append(identity)

    def _read(self, identity: int, request: dict[str, Any]) -> None:
        with open(member(request, "path", str), "rb") as file:
            self._channel.answer(identity, base64.b64encode(file.read()).decode())

    def _write(self, identity: int, request: dict[str, Any]) -> None:
        data = member_bytes(request, "data")
        mode = member(request, "mode", int, 0o644)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        fd = os.open(member(request, "path", str), flags, mode)
        with open(fd, "wb") as file:
            file.write(data)
        self._channel.answer(identity, None)

    def _signal_process(self, identity: int, request: dict[str, Any]) -> None:
        """Sends a signal without kill(1), which the machine may lack."""
        try:
            os.kill(member(request, "pid", int), _signal_number(request))
        except ProcessLookupError:
            self._channel.answer(identity, False)
        else:
            self._channel.answer(identity, True)

    def _bind(self, identity: int, request: dict[str, Any]) -> None:
        """Makes a bind mount without mount(8), which the machine may lack."""
        source, target = member(request, "source", str), member(request, "target", str)
        syscall("mount", os.fsencode(source), os.fsencode(target), None, MS_BIND, None)
        self._channel.answer(identity, None)

    def _exit(self, identity: int, request: dict[str, Any]) -> NoReturn:
        status = member(request, "status", int, 0)
        self._channel.block()
        self._channel.answer(identity, None)
        sys.exit(status)


def _signal_number(request: dict[str, Any]) -> int:
    number = member(request, "signal", int)
    if not 0 <= number < signal.NSIG:  # os.kill takes it modulo 2**32
        raise BadRequest(f"signal: {number} is not between 0 and {signal.NSIG - 1}")
    return number
