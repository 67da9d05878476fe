"""Starts a program as a fork of the agent, which has imported what the program needs: it need not import again.

`luod.testing.starter` has imported it before it made the agent, or the agent has (`ahead`). `programs` uses this for
programs that the test lets be forked, and subprocess for all others.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import IO, NoReturn

from luod.testing import forked


class Forked:
    """A program, with the members of `subprocess.Popen` that `programs` uses. The caller owns the pipes."""

    def __init__(self, pid: int, stdin: int, stdout: int, stderr: int | None) -> None:
        self.pid = pid
        self.stdin: IO[bytes] | None = os.fdopen(stdin, "wb", buffering=0)
        self.stdout: IO[bytes] | None = os.fdopen(stdout, "rb", buffering=0)
        self.stderr: IO[bytes] | None = None if stderr is None else os.fdopen(stderr, "rb", buffering=0)
        self.returncode: int | None = None


def start(
    argv: Sequence[str], environment: Mapping[str, str], *, errors: int, user: int | None, group: int | None
) -> Forked:
    """Starts it with pipes as its files; `errors` is the file of its stderr, or subprocess.PIPE.

    `forked.possible` must be true. Raises OSError when it cannot become `user` and `group`, and SubprocessError when it
    fails otherwise before the program runs.
    """
    ours: list[int] = []
    theirs: list[int] = []
    try:
        stdin, to_stdin = os.pipe()
        ours, theirs = [to_stdin], [stdin]
        for _ in range(2 if errors == subprocess.PIPE else 1):
            end, file = os.pipe()
            ours.append(end)
            theirs.append(file)
        failure, report = os.pipe()
        ours.append(failure)
        theirs.append(report)
        pid = os.fork()
        if pid == 0:
            _become(argv, environment, [*theirs[:-1], errors][:3], report, user, group)
    except BaseException:
        for fd in ours:
            os.close(fd)
        raise
    finally:
        for fd in theirs:
            os.close(fd)
    with os.fdopen(ours.pop(), "rb") as reported:
        code, _, text = reported.read().decode().partition(" ")
    if code:
        os.waitpid(pid, 0)
        for fd in ours:
            os.close(fd)
        raise OSError(int(code), text) if int(code) else subprocess.SubprocessError(text)
    return Forked(pid, ours[0], ours[1], ours[2] if len(ours) > 2 else None)


def _become(
    argv: Sequence[str],
    environment: Mapping[str, str],
    files: Sequence[int],
    report: int,
    user: int | None,
    group: int | None,
) -> NoReturn:
    """Becomes the program. `report` gets the errno (or 0) and a text if that fails, and is closed before the program
    runs.
    """
    try:
        for number, file in enumerate(files):
            os.dup2(file, number)
        forked.close_all_but((0, 1, 2, report))
        forked.set_python_signals()
        os.setsid()
        if user is not None:
            os.setgroups([])
        if group is not None:
            os.setresgid(group, group, group)
        if user is not None:
            os.setresuid(user, user, user)
        if user is not None or group is not None:
            forked.set_dumpable()
        os.close(report)
    except OSError as error:
        os.write(report, f"{error.errno or 0} {error.strerror or error}".encode())
        os._exit(127)
    except BaseException as error:  # noqa: BLE001 - no caller may continue: this process is a copy of the agent
        os.write(report, f"0 {type(error).__name__}: {error}".encode())
        os._exit(127)
    forked.run(argv, environment)
