"""The disk of the state directory is full, the supervisor is killed at each of its calls, and then serve is killed.

The fds that luod alone held since are still held. docs/operate.md: the death of a supervisor loses only what luod alone
had.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from luod.testing import Machine
from tests.crash.endurance import SUPERVISOR, build_killer
from tests.daemon.host import Luod, fill_disk, states

_SHARES = 4
_FULL = """
import os, sys
from luod.linux import syscall
os.makedirs(sys.argv[1], exist_ok=True)
syscall("mount", b"tmpfs", sys.argv[1].encode(), b"tmpfs", 0, b"size=192k,mode=0700")
"""


@pytest.fixture(scope="session")
def killer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_killer(tmp_path_factory.mktemp("killer"))


@pytest.mark.parametrize("share", range(_SHARES))
def test_what_luod_alone_holds_outlives_serve_after_keep_died_on_a_full_disk(
    machine: Machine, tmp_path: Path, killer: str, share: int
) -> None:
    luod = Luod(machine, state_directory=tmp_path / "state")
    luod.run_source(_FULL, luod.state_directory)
    luod.start()
    owner = luod.vmm()
    owner.call("create", name="old", slot="s")
    fill_disk(luod)
    call, killed = 1 + share, 0
    while True:
        luod.stop()
        report = tmp_path / "killed"
        report.unlink(missing_ok=True)
        interpreter = luod.python()
        supervisor = interpreter.module("luod.daemon.main", "--state-directory", luod.state_directory)
        trace = [killer, SUPERVISOR, str(call), str(report), SUPERVISOR, "--", *supervisor]
        started = machine.spawn(interpreter.module("luod.testing.started", *trace), env=interpreter.environment)
        started.ask({})
        started.end_input()
        started.wait()
        died = report.exists()
        luod.start()
        alone = luod.vmm()
        for number in range(3):
            alone.call("create", name=f"new-{number}", slot=f"n{number}")
        alone.program.kill()
        luod.kill_serve()
        found = states(luod.vmm())
        assert {f"outgoing new-{number}": "held" for number in range(3)}.items() <= found.items(), (call, found)
        assert "outgoing old" in found, (call, found)
        if not died:
            break
        killed += 1
        call += _SHARES
        for number in range(3):
            luod.vmm().call("release_named", name=f"new-{number}", direction="outgoing")
    assert killed
