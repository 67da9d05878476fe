"""The programs that the test started: their pipes, the questions to them, and their ends, reported when they happen.

`loop` maps the verbs of requests to it.
"""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

from luod.testing.agent.channel import Channel
from luod.testing.agent.requests import BadRequest, member

if TYPE_CHECKING:
    from luod.testing.agent.ahead import Ahead
    from luod.testing.agent.fork import Forked


class Program:
    """One program. Owns the three pipes. `Programs` reaps the process."""

    def __init__(
        self,
        handle: int,
        process: subprocess.Popen[bytes] | Forked,
        *,
        run: int | None,
        deadline: float | None,
        errors_file: str | None,
    ):
        self.handle = handle
        self.errors_file = errors_file
        """Where it writes its stderr to; None: to a pipe."""
        self.process = process
        self.run = run  # the id of the `run` request that it answers, None for `spawn`
        self.deadline = deadline
        self.timed_out = False
        self.ended: int | None = None
        self.input = bytearray()
        self.close_input = run is not None
        self.output = bytearray()
        self.errors = bytearray()
        self.asks: deque[int] = deque()
        self.waits: list[int] = []
        for stream in self._open(process.stdin, process.stdout, process.stderr):
            os.set_blocking(stream.fileno(), False)

    @staticmethod
    def _open(*streams: IO[bytes] | None) -> list[IO[bytes]]:
        return [stream for stream in streams if stream is not None and not stream.closed]

    def wants_input(self) -> int | None:
        """Returns the pipe for its input if there is data to write or an end to close; otherwise None."""
        streams = self._open(self.process.stdin)
        return streams[0].fileno() if streams and (self.input or self.close_input) else None

    def outputs(self) -> list[int]:
        """Returns the pipes of its output."""
        return [stream.fileno() for stream in self._open(self.process.stdout, self.process.stderr)]

    def feed(self) -> None:
        """Writes as much of its input as the pipe takes."""
        stdin = self.process.stdin
        assert stdin is not None
        try:
            if self.input:
                del self.input[: os.write(stdin.fileno(), self.input[: 1 << 16])]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self.input.clear()
            self.close_input = True
        if self.close_input and not self.input:
            stdin.close()

    def read(self, *, once: bool) -> None:
        """Reads its output: all of it, or one read of each pipe."""
        for stream, buffer in ((self.process.stdout, self.output), (self.process.stderr, self.errors)):
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

    def close(self) -> None:
        for stream in self._open(self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(OSError):
                stream.close()


class Programs:
    """All programs. Only `start` blocks, until the program has been started."""

    def __init__(
        self,
        channel: Channel,
        outputs: str | None = None,
        *,
        forks: bool = False,
        imports: Sequence[str] | None = None,
    ) -> None:
        """`forks`: programs that the test lets be forked are forks of this process.

        `imports`: before a fork this process imports what the program needs (`ahead`). They are directories of the
        tests, as in PYTHONPATH, and the modules from there that it may import, with spaces between. None: it has
        imported all before.

        `outputs` is the prefix of the paths of files for the stderr of spawned programs. Such a file is complete after
        a kexec, which ends this process and loses output that it has only read. None: stderr is sent to the test.
        """
        self._channel = channel
        self._outputs = outputs
        self._forks = forks
        self._imports = imports
        self._ahead: Ahead | None = None
        self._programs: dict[int, Program] = {}
        self._last_handle = 0

    def start(self, request: Mapping[str, Any], *, run: int | None = None, deadline: float | None = None) -> Program:
        """Starts a program. `run` is the request that its end answers, with all its output; None: the test talks to it.

        `deadline`: the time of time.monotonic() at which it is killed.
        """
        argv = [str(argument) for argument in member(request, "argv", list)]
        if not argv:
            raise BadRequest("argv: it is empty")
        environment = dict(os.environ)
        for name, value in member(request, "env", dict, {}).items():
            if value is None:
                environment.pop(name, None)
            else:
                environment[name] = str(value)
        user = _identity(request, "user")
        group = user if request.get("group") is None else _identity(request, "group")
        handle = self._last_handle + 1
        path = None if run is not None or self._outputs is None else f"{self._outputs}-{handle}"
        errors = subprocess.PIPE if path is None else _create(path)
        try:
            may_fork = self._forks and member(request, "forked", bool, False)
            if may_fork:
                process = self._fork(argv, environment, errors, user, group)
            else:
                process = _exec(argv, environment, errors, user, group)
        finally:
            if errors != subprocess.PIPE:
                os.close(errors)
        self._last_handle = handle
        program = Program(handle, process, run=run, deadline=deadline, errors_file=path)
        self._programs[program.handle] = program
        return program

    def _fork(
        self, argv: Sequence[str], environment: Mapping[str, str], errors: int, user: int | None, group: int | None
    ) -> subprocess.Popen[bytes] | Forked:
        from luod.testing import forked
        from luod.testing.agent import fork  # most agents of users never fork

        if not forked.possible(argv, environment):
            return _exec(argv, environment, errors, user, group)
        if self._imports is not None:
            self._import_for(argv, environment, *self._imports)
        return fork.start(argv, environment, errors=errors, user=user, group=group)

    def _import_for(self, argv: Sequence[str], environment: Mapping[str, str], directories: str, modules: str) -> None:
        from luod.testing import suite
        from luod.testing.agent.ahead import Ahead

        if self._ahead is None:
            self._ahead = Ahead(
                suite.search_path(directories), modules.split(), lambda name: self._channel.tell({"imports": name})
            )
        try:
            self._ahead.import_for(argv, environment)
        except suite.Refused as error:
            raise BadRequest(str(error)) from None

    def find(self, request: Mapping[str, Any]) -> Program:
        program = self._programs.get(member(request, "program", int))
        if program is None:
            raise BadRequest(f"program {request['program']} is not known")
        return program

    def inputs(self) -> dict[int, Program]:
        """Returns the programs by the pipes to be polled for writing."""
        wanted = ((program.wants_input(), program) for program in self._programs.values())
        return {fd: program for fd, program in wanted if fd is not None}

    def outputs(self) -> dict[int, Program]:
        """Returns the programs by the pipes to be polled for reading."""
        return {fd: program for program in self._programs.values() for fd in program.outputs()}

    def seconds_left(self) -> float | None:
        """Returns the seconds until `expire` has work; None: there is no deadline."""
        deadlines = [program.deadline for program in self._programs.values() if program.deadline is not None]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def expire(self) -> None:
        """Kills the programs whose deadline has passed."""
        for program in self._programs.values():
            if program.deadline is not None and program.deadline <= time.monotonic():
                program.deadline = None
                program.timed_out = True
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(program.process.pid, signal.SIGKILL)

    def reap(self) -> None:
        """Reaps every process that has ended: orphans are children of init."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for program in [p for p in self._programs.values() if p.process.pid == pid and p.ended is None]:
                program.ended = program.process.returncode = os.waitstatus_to_exitcode(status)
                self.drain(program)
                self._ended(program, program.ended)

    def drain(self, program: Program, *, once: bool = False) -> None:
        """Reads as `Program.read`, and reports the output at once."""
        program.read(once=once)
        if program.run is not None:
            return
        if program.errors:
            self._channel.tell({"program": program.handle, "stderr": program.errors.decode("utf-8", "replace")})
            program.errors.clear()
        while program.asks and (end := program.output.find(b"\n")) >= 0:
            line = program.output[:end].decode("utf-8", "replace")
            del program.output[: end + 1]
            self._channel.answer(program.asks.popleft(), line)

    def _ended(self, program: Program, status: int) -> None:
        # Later output of its children is not awaited: a daemon would hold the pipes for ever.
        if program.run is not None:
            value = {
                "returncode": status,
                "timed_out": program.timed_out,
                "stdout": base64.b64encode(program.output).decode(),
                "stderr": base64.b64encode(program.errors).decode(),
            }
            program.close()
            del self._programs[program.handle]
            self._channel.answer(program.run, value)
            return
        self._channel.tell({"program": program.handle, "ended": status})
        for identity in program.asks:
            self._channel.fail(identity, "Ended", f"it ended with {status} and did not answer")
        program.asks.clear()
        for identity in program.waits:
            self._channel.answer(identity, status)
        program.waits.clear()


def _exec(
    argv: Sequence[str], environment: Mapping[str, str], errors: int, user: int | None, group: int | None
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        bufsize=0,
        env=environment,
        user=user,
        group=group,
        extra_groups=[] if user is not None else None,
        start_new_session=True,
    )


def _identity(request: Mapping[str, Any], name: str) -> int | None:
    """Returns a uid or gid. For the last number, -1, the kernel would keep the agent's own."""
    if request.get(name) is None:
        return None
    number = member(request, name, int)
    if not 0 <= number < (1 << 32) - 1:
        raise BadRequest(f"{name}: {number} is not between 0 and {(1 << 32) - 2}")
    return number


def _create(path: str) -> int:
    """Opens a file that processes of every uid may append to."""
    # A program that did not start leaves one behind.
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC)
    os.fchmod(fd, 0o666)
    return fd
