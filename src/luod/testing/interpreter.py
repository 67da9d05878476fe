"""Finds the Python with which a given uid can run luod: other users may not read a virtual environment in a home.

A directory that a uid cannot read, such as a checkout below /root, is copied to one that it can. The copy is removed
when this process ends.
"""

from __future__ import annotations

import atexit
import compileall
import functools
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import luod
from luod.errors import MachineUnavailable
from luod.testing.scratch import Scratch

_SOURCE: Final = Path(luod.__file__).parent
_SYSTEMS: Final = "/usr/bin/python3"
_ATTEMPT: Final = "import luod.testing.agent.__main__"


@dataclass(frozen=True)
class Interpreter:
    """A Python that can import luod.

    `environment` must be added to a program's environment. `user` is its uid (None: that of this process).
    """

    executable: str
    environment: dict[str, str]
    user: int | None = None

    def script(self, path: str | Path, *arguments: str) -> list[str]:
        """Returns the argv that runs the script at `path`."""
        return [self.executable, str(path), *arguments]

    def module(self, name: str, *arguments: str) -> list[str]:
        """Returns the argv that runs the module `name`."""
        return [self.executable, "-m", name, *arguments]

    def readable(self, directory: Path) -> Path:
        """Returns `directory` if the uid can read it, else a copy of the same name. Its Python files are compiled."""
        return _compiled(directory) if _reads(directory, self.user) else _copy(directory)


def interpreter_for(user: int | None = None) -> Interpreter | None:
    """Returns a Python with which uid `user` (None: this process's) can run luod, or None.

    This process's own is preferred: it also has the packages that luoctl and preflight need.
    """
    return _found(user)[0]


def needed_interpreter(user: int | None = None) -> Interpreter:
    """Returns what `interpreter_for` returns. Raises MachineUnavailable, with the reason, if it returns None."""
    if user is not None and os.geteuid() != 0:
        raise MachineUnavailable(
            f"only root may run something as a given uid ({user}), and this is uid {os.geteuid()}",
            hint="become root, or leave out the uid",
        )
    found, reason = _found(user)
    if found is None:
        whose = f"uid {os.geteuid() if user is None else user}"
        raise MachineUnavailable(
            f"{whose} has no Python that can import luod: {reason}", hint="install it where all can read"
        )
    return found


@functools.cache
def _found(user: int | None) -> tuple[Interpreter | None, str]:
    """Returns a Python, or None and what the last one said."""
    source = _compiled(_SOURCE) if _reads(_SOURCE, user) else _copy(_SOURCE)
    environment = {"PYTHONPATH": str(source.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    reason = ""
    for executable in (sys.executable, _SYSTEMS):
        reason = attempt([executable, "-c", _ATTEMPT], user, environment)
        if not reason:
            return Interpreter(executable, environment, user), ""
    return None, reason


@functools.cache
def _reads(directory: Path, user: int | None) -> bool:
    """Returns whether uid `user` can list `directory`. Its files are assumed to be as readable as the directory."""
    return user in (None, os.geteuid()) or runs(["ls", str(directory)], user, {})


def _readable_directory() -> Path:
    """Makes a directory that every uid can read, until this process ends."""
    scratch = Scratch("luod-readable-")
    atexit.register(scratch.remove)
    scratch.path.chmod(0o755)
    return scratch.path


@functools.cache
def _copy(directory: Path) -> Path:
    """Copies a directory of Python files to where every uid can read it, and compiles them."""
    copy = _readable_directory() / directory.name
    _compiled(Path(shutil.copytree(directory, copy)))
    for path in (copy, *copy.rglob("*")):
        path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
    return copy


@functools.cache
def _compiled(directory: Path) -> Path:
    """Compiles a directory of Python files where this process may write.

    Programs in machines write no bytecode, and would compile at every start.
    """
    compileall.compile_dir(directory, quiet=2)
    return directory


def runs(command: list[str], user: int | None, environment: dict[str, str]) -> bool:
    """Returns whether a program that uid `user` starts exits with status 0."""
    return not attempt(command, user, environment)


def attempt(command: list[str], user: int | None, environment: dict[str, str]) -> str:
    """Runs a program as uid `user`. Returns "" if it exits with status 0, and else the last line of its stderr, or why
    it cannot be run.
    """
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **environment},
            cwd="/",
            user=user,
            group=user,
            extra_groups=None if user is None else [],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"{command[0]}: {error}"
    if done.returncode == 0:
        return ""
    lines = done.stderr.decode("utf-8", "replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), f"{command[0]} ended with {done.returncode}")
