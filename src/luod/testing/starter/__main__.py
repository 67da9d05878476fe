"""The process that forks: `python3 -m luod.testing.starter FD MODULES [PATH MODULES]`, which `outside` starts.

FD is a stream socket. MODULES are names with spaces between. PATH has the directories of the second ones, which are the
tests' (`suite`), as in PYTHONPATH. It imports the modules that there are, and forks a luoemu for each byte that it
receives with fds: the control socket of this machine, a file with {"arguments", "command", "environment", "directory",
"umask", "limits"}, as JSON, luoemu's stdin, stdout and stderr, and the agent's channel when the command is the agent's.
To the control socket it sends {"pid": …} with a pidfd, and when luoemu has ended {"status": …}, as of os.wait(). A
luoemu whose pid was not sent ends before it does anything, so the test may ask another starter.

When FD's other end is closed it ends. If machines run it says so before, with one byte, and stays until the last one
has ended, or the other ends of their control sockets are closed: the test's process has ended. It sends SIGTERM to
their luoemus then.

Init is a fork of luoemu if it is the agent, or a program of this Python. It is an exec otherwise.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import itertools
import json
import os
import resource
import select
import signal
import socket
import sys
import traceback
from collections.abc import Mapping
from typing import Any, Final, NoReturn

import luod
from luod.emulator.machine import main as luoemu
from luod.testing import forked, suite
from luod.testing.agent import __main__ as agent
from luod.testing.preloaded import later

_FDS: Final = 6


class Starter:
    """One thread, one poll. Blocks nowhere else."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._controls: dict[int, socket.socket] = {}
        """The control sockets of the machines that run, by the pids of their luoemu."""
        self._woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C is for the machines and the test

    def serve(self) -> None:
        """Returns when the other end is closed, and no machine is left that the test may want."""
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self._woken:
                    os.read(self._woken, 4096)
                    self._reap()
                elif not self._start():
                    self._outlive()
                    return

    def _outlive(self) -> None:
        """Waits for the machines' ends. Ends those of a test that has ended without them."""
        if self._controls:
            with contextlib.suppress(OSError):  # the test's process has ended
                self._connection.send(b".", socket.MSG_NOSIGNAL)
        self._connection.close()
        while self._controls:
            poll = select.poll()
            poll.register(self._woken, select.POLLIN)
            pids = {control.fileno(): pid for pid, control in self._controls.items()}
            for fd in pids:
                poll.register(fd, 0)
            for fd, _ in poll.poll():
                if fd == self._woken:
                    os.read(self._woken, 4096)
                    self._reap()
                elif pids[fd] in self._controls:  # it is not reaped
                    os.kill(pids[fd], signal.SIGTERM)
                    self._controls.pop(pids[fd]).close()

    def _start(self) -> bool:
        data, fds, _, _ = socket.recv_fds(self._connection, 1, _FDS)
        if not data:
            return False
        number, *theirs = fds
        go, tell = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            os.close(tell)
            forked.end(lambda: _luoemu(*theirs, go=go))
        for fd in (*theirs, go):
            os.close(fd)
        control = socket.socket(fileno=number)
        pidfd = os.pidfd_open(pid)  # it is not reaped yet
        self._controls[pid] = control
        if _tell(control, {"pid": pid}, [pidfd]):
            with contextlib.suppress(BrokenPipeError):  # it was killed
                os.write(tell, b"\n")
        for fd in (pidfd, tell):
            os.close(fd)
        return True

    def _reap(self) -> None:
        while self._controls:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            if control := self._controls.pop(pid, None):
                with control:
                    _tell(control, {"status": status})


def _tell(control: socket.socket, message: dict[str, int], fds: list[int] | None = None) -> bool:
    """Returns whether the test still has its end of the control socket."""
    try:
        socket.send_fds(control, [json.dumps(message).encode()], fds or [])
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def _luoemu(file: int, stdin: int, stdout: int, stderr: int, *channel: int, go: int) -> int:
    """Becomes a machine's luoemu, in a process forked for it. Returns its exit status."""
    if not os.read(go, 1):
        return 0  # the starter ended before the test had its pid
    forked.set_python_signals()
    request: dict[str, Any] = json.loads(os.pread(file, os.fstat(file).st_size, 0))
    for number, stream in enumerate((stdin, stdout, stderr)):
        os.dup2(stream, number)
    forked.close_all_but((0, 1, 2, *channel))
    os.chdir(request["directory"])
    forked.set_environment(request["environment"])
    os.umask(request["umask"])
    for limit, values in request["limits"]:
        resource.setrlimit(limit, values)
    command: list[str] = request["command"]
    init = None
    if channel:
        os.set_inheritable(channel[0], True)
        init = functools.partial(_agent, [*command[1:], "--channel", str(channel[0])])
    elif forked.possible(command, os.environ):
        init = functools.partial(_program, command)
    # An error of the command line is about the words before --.
    return luoemu.main(["run", *request["arguments"], "--", *command], init=init)


def _agent(words: list[str], environment: Mapping[str, str]) -> NoReturn:
    """Becomes the agent, in a process that luoemu forked for it."""
    _become_init()
    forked.set_environment(environment)
    forked.end(lambda: agent.main(words, forks=True))


def _program(argv: list[str], environment: Mapping[str, str]) -> NoReturn:
    """Becomes a Python program, in a process that luoemu forked for it."""
    _become_init()
    forked.run(argv, environment)


def _become_init() -> None:
    gc.freeze()  # what is left of luoemu: the fds of its objects are closed, or will be others'
    forked.set_python_signals()
    forked.set_dumpable()


def _is_luods(error: BaseException) -> bool:
    """Returns whether a module of luod is to blame for a failed import."""
    if isinstance(error, ImportError) and error.name:
        return error.name.partition(".")[0] == "luod"
    if isinstance(error, (SyntaxError, OSError)) and error.filename:
        return str(error.filename).startswith(os.path.dirname(luod.__file__) + os.sep)
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).partition(".")[0] == "luod"


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    connection.set_inheritable(False)
    for name in itertools.chain.from_iterable((each, *later(each)) for each in sys.argv[2].split()):
        try:
            importlib.import_module(name)
        except (
            Exception,
            SystemExit,
        ) as error:  # a package that this Python lacks, or that does not work: for the program to say
            if _is_luods(error):
                raise
    if len(sys.argv) > 3:
        suite.search(suite.search_path(sys.argv[3]))
        try:
            suite.import_all(sys.argv[4].split())
        except suite.Refused as error:
            sys.exit(str(error))
    luoemu.parser().parse(["run", "--", "init"])  # the first one compiles argparse's regular expressions
    gc.collect()
    gc.freeze()  # a collection in a fork would copy every page
    Starter(connection).serve()


if __name__ == "__main__":
    main()
