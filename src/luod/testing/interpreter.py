"""Which Python a given uid can run luod with: a virtual environment in somebody's home is not everybody's to read.

A directory that a uid cannot read, such as a checkout below /root, is copied to where it can. The copy is removed when
this process ends.
"""

from __future__ import annotations

import atexit
import compileall
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import luod

_SOURCE: Final = Path(luod.__file__).parent


@dataclass(frozen=True)
class Interpreter:
    """A Python that can import luod. `environment` is what has to be added to a program's, `user` its uid (None: that
    of this process).
    """

    executable: str
    environment: dict[str, str]
    user: int | None = None

    def script(self, path: str | Path, *arguments: str) -> list[str]:
        """The argv that runs the script at `path`."""
        return [self.executable, str(path), *arguments]

    def module(self, name: str, *arguments: str) -> list[str]:
        """The argv that runs the module `name`."""
        return [self.executable, "-m", name, *arguments]

    def readable(self, directory: Path) -> Path:
        """Returns `directory` if the uid can read it, else a copy of the same name."""
        return directory if _reads(directory, self.user) else _copy(directory)


@functools.cache
def interpreter_for(user: int | None = None) -> Interpreter | None:
    """A Python that uid `user` (None: this process's) can run luod's standard-library part with; None: there is none.

    This process's own is preferred: with it the packages luod needs are there too.
    """
    source = _SOURCE if _reads(_SOURCE, user) else _copy(_SOURCE)
    environment = {"PYTHONPATH": str(source.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    for executable in (sys.executable, "/usr/bin/python3"):
        if _runs([executable, "-c", "import luod.testing.agent.__main__"], user, environment):
            return Interpreter(executable, environment, user)
    return None


@functools.cache
def _reads(directory: Path, user: int | None) -> bool:
    """Whether uid `user` can list `directory`. Its files are assumed to be as readable as the directory."""
    return user in (None, os.geteuid()) or _runs(["ls", str(directory)], user, {})


@functools.cache
def _copy(directory: Path) -> Path:
    """Copies a directory of Python files to where every uid can read it, and compiles them."""
    place = Path(tempfile.mkdtemp(prefix="luod-readable-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    place.chmod(0o755)
    copy = place / directory.name
    shutil.copytree(directory, copy)
    compileall.compile_dir(copy, quiet=2)
    for path in (copy, *copy.rglob("*")):
        path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
    return copy


def _runs(command: list[str], user: int | None, environment: dict[str, str]) -> bool:
    """Whether a program that uid `user` starts ends well."""
    try:
        attempt = subprocess.run(
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
    except (OSError, subprocess.SubprocessError):
        return False
    return attempt.returncode == 0
