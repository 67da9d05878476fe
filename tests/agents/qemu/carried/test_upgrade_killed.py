"""An agent is killed at each step of `luoctl qemu upgrade`, in each of its ways.

The guest ends with its agent, as ever (docs/qemu.md). Neither of its QEMUs is left, what it counted is on its disk, and
nothing is in the way of starting it again, from its beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from luod.testing import Program, eventually
from tests.agents.qemu.carried.host import MORE, Host, newer_qemu, qemu
from tests.agents.qemu.guests import CountingGuest
from tests.crash.endurance import build_killer

AGENT = "luod.ctl.main qemu run"
QEMU = "memory-backend=luod-ram"
"""Parts of the command lines of an agent and of its QEMUs."""
FIRST, STEP = 24, 5
"""The first call of an agent at which it is killed, about where a guest takes part in updates, and the next ones."""
LEAST = 3
"""Attempts in which each test kills during the upgrade."""
_LEFT = """
import os, pathlib, sys
for folder in pathlib.Path("/proc").glob("[0-9]*"):
    if int(folder.name) != os.getpid() and sys.argv[1].encode() in (folder / "cmdline").read_bytes():
        print(folder.name)
"""


@pytest.fixture(scope="session")
def killer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_killer(tmp_path_factory.mktemp("killer"))


@pytest.mark.parametrize(
    ("way", "offset"), [("transfer", 0), ("beside", 2), ("in turn", 4)], ids=["transfer", "beside", "in-turn"]
)
def test_it_leaves_no_qemu_and_the_name_for_the_next_start(
    host: Host, tmp_path: Path, killer: str, way: str, offset: int
) -> None:
    program = newer_qemu() if way == "transfer" else qemu()
    only_one = ["-serial", "tcp:127.0.0.1:7000,server=on,wait=off"] if way == "in turn" else []
    host.luod.machine.run(["busybox", "ifconfig", "lo", "up"])
    call, killed = FIRST + offset, []
    while True:
        folder = tmp_path / str(call)
        folder.mkdir()
        guest, report = CountingGuest("vm", folder, mebibytes=16), folder / "killed"
        agent = run_under(host, guest, [killer, AGENT, str(call), str(report), AGENT, "--"], [program, *only_one])
        call += STEP
        if not ended(host, agent):
            said = host.luod.luoctl("qemu", "upgrade", guest.name, "--qemu", program, check=False)
            if not report.exists():
                break
            killed.append(report.read_text())
        until_all_ended(host, agent)
        guest.assert_nothing_is_lost()
    assert len(killed) >= LEAST, killed
    assert said.returncode == 0, said.stderr
    assert f"({way})" in said.text
    host.agents[guest.name] = agent
    host.until_it_counts(guest)
    guest.assert_nothing_is_lost()


def run_under(host: Host, guest: CountingGuest, tracer: list[str], program: Sequence[str]) -> Program:
    """Starts the guest under the tracer. Returns when the agent has ended, or when it takes part in updates."""
    guest.make_disk()
    python = host.luod.python()
    qemu, *only_one = program
    command = ["run", "--name", guest.name, "--", qemu, *guest.arguments(), *only_one]
    agent = host.luod.machine.spawn(
        [*tracer, *python.module("luod.ctl.main", "qemu", *command)], env=python.environment
    )
    eventually(
        lambda: ended(host, agent) or ("takes part" in agent.stderr and len(guest.numbers()) > MORE),
        describe="the agent has ended, or the guest takes part in updates",
    )
    return agent


def until_all_ended(host: Host, agent: Program) -> None:
    eventually(lambda: ended(host, agent), describe="the agent has ended")
    eventually(lambda: not qemus(host), describe="no QEMU is left")


def ended(host: Host, agent: Program) -> bool:
    return not host.luod.machine.signal(agent.pid, 0)


def qemus(host: Host) -> list[str]:
    """Returns the process ids of the QEMUs in the machine."""
    return host.luod.run_source(_LEFT, QEMU, check=False).text.split()
