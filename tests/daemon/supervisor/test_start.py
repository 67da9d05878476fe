"""The start of the supervisor: what it must know before it takes over what PID 1 has kept."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace

import pytest

from luod.daemon.options import Options
from luod.daemon.supervisor import start
from luod.errors import Refused


def test_without_the_id_of_this_boot_it_ends_and_has_touched_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fd in PID 1's store would seem to be of another boot, and be closed."""

    def no_files() -> str:
        raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))

    def touched() -> None:
        raise AssertionError("the passed fds were taken")

    monkeypatch.setattr(start, "LiveUpdate", lambda: SimpleNamespace(close=lambda: None))
    monkeypatch.setattr(start, "boot_id", no_files)
    monkeypatch.setattr(start, "passed", touched)
    with pytest.raises(Refused, match="the id of this boot cannot be read: Too many open files in system"):
        start.run(Options(), lambda given: 0, ())
