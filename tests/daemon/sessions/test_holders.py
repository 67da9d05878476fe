"""Who has a session of luod open, besides luod."""

from __future__ import annotations

import os
import subprocess
import sys

from luod.linux import Fd

_LOOK = """
import os, sys
from luod.daemon.sessions.holders import open_elsewhere
from luod.linux import Fd
with Fd(int(sys.argv[1])) as session:
    print(open_elsewhere({"outgoing.vm": session}, os.getpid(), custodian=int(sys.argv[2])))
"""


def found_with(custodian: int) -> str:
    """Returns what a process finds that has a file open which this one has open too."""
    with Fd(os.memfd_create("session")) as session:
        number = str(session.fileno())
        command = [sys.executable, "-c", _LOOK, number, str(custodian)]
        return subprocess.run(
            command, pass_fds=(session.fileno(),), check=True, capture_output=True, text=True
        ).stdout.strip()


def test_a_process_that_has_the_sessions_for_luod_does_not_use_them() -> None:
    """PID 1 has every session in its store: a dead guest's must be freed nevertheless."""
    assert found_with(custodian=0) == str({"outgoing.vm": os.getpid()})
    assert found_with(custodian=os.getpid()) == "{}"
