"""Runs programs of systemd, such as systemctl, with a time limit. Nothing here knows updates."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from luod.errors import Refused
from luod.frozen import frozen
from luod.static import Final

_ROOT: Final = Path("/")
_NAME: Final = "systemd"
_QUIET: Final = {"LC_ALL": "C.UTF-8", "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0", "SYSTEMD_URLIFY": "0"}
_REASON_CHARACTERS: Final = 300


@frozen
class Answer:
    """The end of a program. `failure` is the reason of a failure, "" without one. `late`: it took too long."""

    failure: str
    text: str
    late: bool = False


def booted(root: Path = _ROOT) -> bool:
    """Returns whether systemd is PID 1 of this machine, as luod sees it. `root` has /run and /proc.

    A machine of luoemu has another PID 1, and may show the host's /run.
    """
    try:
        name = (root / "proc/1/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return False
    return name == _NAME and (root / "run/systemd/system").is_dir()


def require_booted(root: Path = _ROOT) -> None:
    """Raises Refused: systemd does not run this machine."""
    if not booted(root):
        raise Refused(
            message="systemd does not run this machine: /run/systemd/system is missing, or PID 1 is another program",
            hint="update with --direct: luod starts the next kernel itself",
        )


def properties(text: str) -> Iterator[dict[str, str]]:
    """Yields the properties of each unit in what `systemctl show` printed."""
    for block in text.split("\n\n"):
        if block.strip():
            yield dict(line.partition("=")[::2] for line in block.splitlines())


def ask(words: Sequence[str], seconds: float) -> Answer:
    """Runs a program to its end, and kills it after `seconds`. Blocks: for a thread.

    What it has asked of PID 1 continues when it is killed.
    """
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            env={**os.environ, **_QUIET},
            check=False,
            encoding="utf-8",
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        return Answer(f"{words[0]} took longer than {seconds:g} s", "", late=True)
    except OSError as error:
        return Answer(f"{words[0]}: {error.strerror}", "")
    if done.returncode == 0:
        return Answer("", done.stdout)
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    reason = said[0][:_REASON_CHARACTERS] if said else f"{words[0]} ended with status {done.returncode}"
    return Answer(reason, done.stdout)
