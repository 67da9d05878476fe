"""The processes that receive files for luod may be stopped or killed: their client gets an error."""

from __future__ import annotations

import re
import signal

from luod.testing.host import SOCKET
from luod.testing.tools import for_root
from tests.daemon.host import Luod
from tests.hostile.figures import Figures, footprint
from tests.library import start_vmm

OWNER = 1001


def receivers(luod: Luod) -> set[int]:
    """Returns the processes that receive or close files for luod."""
    found = luod.machine.run(["sh", "-c", "grep -l receiver.py /proc/[0-9]*/cmdline 2>/dev/null; true"]).text
    return {int(number) for number in re.findall(r"/proc/(\d+)/", found)}


def test_a_client_whose_receiver_hangs_is_told_that_nothing_was_done(luod: Luod, figures: Figures) -> None:
    for_root("since it has several users")
    before = footprint(luod)
    owner = start_vmm(luod.machine, luod.python(OWNER), "participant", (SOCKET, SOCKET), user=OWNER)
    closers = receivers(luod)
    owner.call("create", name="first", slot="first")
    for pid in receivers(luod) - closers:
        luod.machine.signal(pid, signal.SIGSTOP)

    error = owner.refused("create", name="second", slot="second")

    figures.line(f"a client whose receiver hangs: {error.message}")
    assert "its files could not be received" in error.message
    assert "call again" in error.hint
    owner.call("create", name="second", slot="second")
    assert footprint(luod).pid == before.pid
