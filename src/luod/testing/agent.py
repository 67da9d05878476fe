"""The init of a machine under test: it answers a test that lives outside. Standard library only; it runs as PID 1.

    python3 -m luod.testing.agent --channel FD|PATH [--power-off]

FD is a stream socket that every boot inherits (`luoemu` passes inheritable fds to init), PATH a virtio-serial port,
whose far end stays over a jump. --power-off is for a machine that init's end would not end.

On the channel goes one JSON object a line. At start: {"hello": boot, "agent": id, "kernel": path, "namespaces"}; boot
is 0 and kernel "" where the machine does not say. A request is {"id", "agent", "do", …} and has exactly one answer,
{"id", "value"} or {"id", "error": {kind, errno, text}}; they may be answered in any order. What programs do is told as
it happens: {"program", "stderr"} and {"program", "ended"}, so a jump loses nothing of it. A request for another boot's
agent is dropped: it was sent before a jump, too late. Bytes travel as base64. A line that is no request is answered
with an error without an id.

It is no shell and no service manager: it starts programs, talks to them and reaps them. `luod.testing.machine` is
the other end. It imports nothing of luod, so that it runs for any uid and on a machine that has only Python.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import contextlib
import ctypes
import json
import os
import secrets
import select
import signal
import subprocess
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn, TypeVar

LINUX_REBOOT_CMD_POWER_OFF: Final = 0x4321FEDC
LONGEST_LINE: Final = 256 << 20
"""Bytes of the longest request; a longer one is refused, and skipped up to its end."""
CROWDED: Final = 8 << 20
"""Bytes waiting for the test to read them, above which programs' output is left in their pipes."""

_T = TypeVar("_T")


class BadRequest(Exception):
    """The request is not one. Nothing was done."""


def member(request: Mapping[str, Any], name: str, kind: type[_T], default: _T | None = None) -> _T:
    """The member `name` of a request, which must be a `kind`; absent or null gives `default`, if there is one."""
    value = request.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise BadRequest(f"{name}: a {kind.__name__} is wanted, not {value!r:.80}")
    return value


def member_bytes(request: Mapping[str, Any], name: str) -> bytes:
    """The base64 member `name` as bytes, b"" when absent."""
    try:
        return base64.b64decode(member(request, name, str, ""), validate=True)
    except binascii.Error as error:
        raise BadRequest(f"{name}: {error}") from None


class Program:
    """A program the test started. Owns the three pipes; the process is reaped by the agent's loop."""

    def __init__(self, handle: int, process: subprocess.Popen[bytes], *, run: int | None, deadline: float | None):
        self.handle = handle
        self.process = process
        self.run = run  # the id of the `run` request it answers, None for `spawn`
        self.deadline = deadline
        self.timed_out = False
        self.ended: int | None = None
        self.input = bytearray()
        self.close_input = run is not None
        self.output = bytearray()
        self.errors = bytearray()
        self.asks: deque[int] = deque()
        self.waits: list[int] = []
        for pipe in self.pipes():
            os.set_blocking(pipe, False)

    def pipes(self) -> list[int]:
        streams = (self.process.stdin, self.process.stdout, self.process.stderr)
        return [stream.fileno() for stream in streams if stream is not None and not stream.closed]

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


class Agent:
    """The event loop: one thread, one poll, nothing in it blocks."""

    def __init__(self, channel: int) -> None:
        self._channel = channel
        os.set_inheritable(channel, False)
        # A new line first: a boot that was cut off may have left half a line on the channel. It blocks until a serial
        # port has its other end, which would look closed before.
        os.set_blocking(channel, True)
        os.write(channel, b"\n")
        os.set_blocking(channel, False)
        self._incoming = bytearray()
        self._skipping = False
        self._outgoing = bytearray()
        self._programs: dict[int, Program] = {}
        self._last_handle = 0
        self._identity = secrets.token_hex(8)
        self._woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._verbs: dict[str, Callable[[int, dict[str, Any]], None]] = {
            "run": self._run,
            "spawn": self._spawn,
            "ask": self._ask,
            "end_input": self._end_input,
            "signal": self._signal,
            "wait": self._wait,
            "read": self._read,
            "write": self._write,
            "exit": self._exit,
        }

    def serve(self) -> NoReturn:
        """Says hello and answers until asked to exit, or until the other end is gone (exit status 1)."""
        spaces = {name: os.readlink(f"/proc/self/ns/{name}") for name in ("mnt", "net", "pid")}
        self._tell(
            {
                "hello": int(os.environ.get("LUOEMU_BOOT", "0")),
                "agent": self._identity,
                "kernel": os.environ.get("LUOEMU_KERNEL", ""),
                "namespaces": spaces,
            }
        )
        while True:
            self._reap()
            self._expire()
            self._poll()

    # -- the channel ---------------------------------------------------------------------------------------------

    def _tell(self, message: dict[str, Any]) -> None:
        self._outgoing += json.dumps(message).encode() + b"\n"
        self._flush()

    def _answer(self, identity: int, value: object) -> None:
        self._tell({"id": identity, "value": value})

    def _fail(self, identity: int | None, kind: str, text: str, *, errno: int | None = None) -> None:
        self._tell({"id": identity, "error": {"kind": kind, "errno": errno, "text": text}})

    def _flush(self) -> None:
        while self._outgoing:
            try:
                written = os.write(self._channel, self._outgoing[: 1 << 20])
            except BlockingIOError:
                return
            except (BrokenPipeError, ConnectionResetError):
                sys.exit(1)
            del self._outgoing[:written]

    def _receive(self) -> None:
        try:
            data = os.read(self._channel, 1 << 20)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            sys.exit(1)
        *lines, rest = data.split(b"\n")
        for line in lines:
            whole, self._incoming = bytes(self._incoming) + line, bytearray()
            skipped, self._skipping = self._skipping, False
            if skipped:
                self._fail(None, "BadRequest", f"a line longer than {LONGEST_LINE} bytes")
            elif whole:
                self._request(whole)
        self._incoming += rest
        if len(self._incoming) > LONGEST_LINE:
            self._skipping, self._incoming = True, bytearray()

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
            self._fail(identity, type(error).__name__, str(error), errno=error.errno)
        except (BadRequest, ValueError, TypeError, RecursionError, subprocess.SubprocessError) as error:
            self._fail(identity, "BadRequest", f"{type(error).__name__}: {error}")

    # -- the loop ------------------------------------------------------------------------------------------------

    def _poll(self) -> None:
        poll = select.poll()
        poll.register(self._channel, select.POLLIN | (select.POLLOUT if self._outgoing else 0))
        poll.register(self._woken, select.POLLIN)
        outputs: dict[int, Program] = {}
        inputs: dict[int, Program] = {}
        for program in self._programs.values():
            if program.process.stdin and not program.process.stdin.closed and (program.input or program.close_input):
                inputs[program.process.stdin.fileno()] = program
            for stream in (program.process.stdout, program.process.stderr):
                if stream and not stream.closed and len(self._outgoing) < CROWDED:
                    outputs[stream.fileno()] = program
        for fd in inputs:
            poll.register(fd, select.POLLOUT)
        for fd in outputs:
            poll.register(fd, select.POLLIN)
        deadlines = [program.deadline for program in self._programs.values() if program.deadline is not None]
        wait = max(0.0, min(deadlines) - time.monotonic()) * 1000 + 1 if deadlines else None
        ready = poll.poll(wait)
        for fd, events in ready:
            if fd in inputs:
                self._feed(inputs[fd])
            elif fd in outputs:
                self._drain(outputs[fd], once=True)
            elif fd == self._woken:
                os.read(self._woken, 4096)
            else:
                if events & select.POLLOUT:
                    self._flush()
                if events & ~select.POLLOUT:
                    self._receive()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for program in [p for p in self._programs.values() if p.process.pid == pid and p.ended is None]:
                program.ended = program.process.returncode = os.waitstatus_to_exitcode(status)
                self._drain(program)
                self._ended(program, program.ended)

    def _expire(self) -> None:
        for program in self._programs.values():
            if program.deadline is not None and program.deadline <= time.monotonic():
                program.deadline = None
                program.timed_out = True
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(program.process.pid, signal.SIGKILL)

    def _ended(self, program: Program, status: int) -> None:
        # What its children write later is not waited for: a daemon would hold the pipes for ever.
        if program.run is not None:
            value = {
                "returncode": status,
                "timed_out": program.timed_out,
                "stdout": base64.b64encode(program.output).decode(),
                "stderr": base64.b64encode(program.errors).decode(),
            }
            program.close()
            del self._programs[program.handle]
            self._answer(program.run, value)
            return
        self._tell({"program": program.handle, "ended": status})
        for identity in program.asks:
            self._fail(identity, "Ended", f"it ended with {status} and did not answer")
        program.asks.clear()
        for identity in program.waits:
            self._answer(identity, status)
        program.waits.clear()

    def _feed(self, program: Program) -> None:
        stdin = program.process.stdin
        assert stdin is not None
        try:
            if program.input:
                del program.input[: os.write(stdin.fileno(), program.input[: 1 << 16])]
        except BlockingIOError:
            return
        except BrokenPipeError:
            program.input.clear()
            program.close_input = True
        if program.close_input and not program.input:
            stdin.close()

    def _drain(self, program: Program, *, once: bool = False) -> None:
        for stream, buffer in ((program.process.stdout, program.output), (program.process.stderr, program.errors)):
            while stream is not None and not stream.closed:
                try:
                    data = os.read(stream.fileno(), 1 << 16)
                except BlockingIOError:
                    break
                if not data:
                    stream.close()
                    break
                buffer += data
                if once:
                    break
        if program.run is not None:
            return
        if program.errors:
            self._tell({"program": program.handle, "stderr": program.errors.decode("utf-8", "replace")})
            program.errors.clear()
        while program.asks and (end := program.output.find(b"\n")) >= 0:
            line = program.output[:end].decode("utf-8", "replace")
            del program.output[: end + 1]
            self._answer(program.asks.popleft(), line)

    # -- the verbs -----------------------------------------------------------------------------------------------

    def _start(self, request: dict[str, Any], *, run: int | None, deadline: float | None) -> Program:
        argv = [str(argument) for argument in member(request, "argv", list)]
        if not argv:
            raise BadRequest("argv: it is empty")
        environment = dict(os.environ)
        for name, value in member(request, "env", dict, {}).items():
            if value is None:
                environment.pop(name, None)
            else:
                environment[name] = str(value)
        user = None if request.get("user") is None else member(request, "user", int)
        group = user if request.get("group") is None else member(request, "group", int)
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=environment,
            user=user,
            group=group,
            extra_groups=[] if user is not None else None,
            start_new_session=True,
        )
        self._last_handle += 1
        program = Program(self._last_handle, process, run=run, deadline=deadline)
        self._programs[program.handle] = program
        return program

    def _run(self, identity: int, request: dict[str, Any]) -> None:
        stdin = member_bytes(request, "stdin")
        deadline = time.monotonic() + float(request.get("timeout", 60))
        self._start(request, run=identity, deadline=deadline).input += stdin

    def _spawn(self, identity: int, request: dict[str, Any]) -> None:
        program = self._start(request, run=None, deadline=None)
        self._answer(identity, {"program": program.handle, "pid": program.process.pid})

    def _program(self, request: dict[str, Any]) -> Program:
        program = self._programs.get(member(request, "program", int))
        if program is None:
            raise BadRequest(f"program {request['program']} is not known")
        return program

    def _ask(self, identity: int, request: dict[str, Any]) -> None:
        program = self._program(request)
        line = member(request, "line", str)
        if program.ended is not None:
            self._fail(identity, "Ended", f"it has ended with {program.ended}")
            return
        program.input += line.encode() + b"\n"
        program.asks.append(identity)
        self._feed(program)

    def _end_input(self, identity: int, request: dict[str, Any]) -> None:
        program = self._program(request)
        program.close_input = True
        self._answer(identity, None)

    def _signal(self, identity: int, request: dict[str, Any]) -> None:
        program = self._program(request)
        if program.ended is None:
            os.kill(program.process.pid, member(request, "signal", int))
        self._answer(identity, None)

    def _wait(self, identity: int, request: dict[str, Any]) -> None:
        program = self._program(request)
        if program.ended is not None:
            self._answer(identity, program.ended)
        else:
            program.waits.append(identity)

    def _read(self, identity: int, request: dict[str, Any]) -> None:
        with open(member(request, "path", str), "rb") as file:
            self._answer(identity, base64.b64encode(file.read()).decode())

    def _write(self, identity: int, request: dict[str, Any]) -> None:
        data = member_bytes(request, "data")
        mode = member(request, "mode", int, 0o644)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        fd = os.open(member(request, "path", str), flags, mode)
        with open(fd, "wb") as file:
            file.write(data)
        self._answer(identity, None)

    def _exit(self, identity: int, request: dict[str, Any]) -> NoReturn:
        status = member(request, "status", int, 0)
        os.set_blocking(self._channel, True)
        self._answer(identity, None)
        sys.exit(status)


def power_off() -> None:
    """Switches the machine off, and does not come back. A real kernel would panic when its init just ended."""
    if not isinstance(sys.exception(), SystemExit):
        traceback.print_exc()  # on the console, and so in the test's failure
    os.sync()
    ctypes.CDLL(None, use_errno=True).reboot(LINUX_REBOOT_CMD_POWER_OFF)


def main() -> NoReturn:
    parser = argparse.ArgumentParser(prog="luod.testing.agent", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--channel", required=True, help="number of an inherited fd, or the path of a serial port")
    parser.add_argument("--power-off", action="store_true", help="switch the machine off at the end, as init must")
    arguments = parser.parse_args()
    channel: str = arguments.channel
    fd = int(channel) if channel.isdecimal() else os.open(channel, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        Agent(fd).serve()
    finally:
        if arguments.power_off:
            power_off()


if __name__ == "__main__":
    main()
