"""Which Python a given uid can run luod with: a virtual environment in somebody's home is not everybody's to read."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import luod


@dataclass(frozen=True)
class Interpreter:
    """A Python that can import luod. `environment` is what has to be added to a program's."""

    executable: str
    environment: dict[str, str]

    def script(self, path: str | Path, *arguments: str) -> list[str]:
        """The argv that runs the script at `path`."""
        return [self.executable, str(path), *arguments]

    def module(self, name: str, *arguments: str) -> list[str]:
        """The argv that runs the module `name`."""
        return [self.executable, "-m", name, *arguments]


@functools.cache
def interpreter_for(user: int | None = None) -> Interpreter | None:
    """A Python that uid `user` (None: this process's) can run luod's standard-library part with; None: there is none.

    This process's own is preferred: with it the packages luod needs are there too.
    """
    source = str(Path(luod.__file__).parent.parent)
    environment = {"PYTHONPATH": source, "PYTHONDONTWRITEBYTECODE": "1"}
    for executable in (sys.executable, "/usr/bin/python3"):
        try:
            attempt = subprocess.run(
                [executable, "-c", "import luod.testing.agent.__main__"],
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
            continue
        if attempt.returncode == 0:
            return Interpreter(executable, environment)
    return None
