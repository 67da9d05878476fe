"""serve or the carrier is killed while a session is preserved again: nothing is lost.

strace kills the carrier at each of its ioctls on a session, RETRIEVE_FD, FINISH and PRESERVE_FD, whose numbers come
from a first run without a kill. It kills serve when it writes its registry's file, once the supervisor has the files.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Final

import pytest

from luod.testing.tools import require_tool
from tests.daemon.host import Luod, states, until_traced
from tests.daemon.participant import start

MOST: Final = 12
"""More than the carrier has ioctls on sessions to make, for one file and a manifest."""


@pytest.fixture
def strace() -> str:
    return require_tool("strace", package="strace")


def forward(luod: Luod, strace: str, name: str, *how: str) -> str:
    """Runs `luoctl carry-over` while strace traces serve. Returns the name of the process that strace killed."""
    serve = luod.serve_pid()
    luod.status()  # it answers, so it is not on its way any more
    tracer = luod.machine.spawn([strace, "-f", "-qq", *how, "-p", str(serve)])
    until_traced(luod, serve)
    done = luod.luoctl("carry-over", name, check=False)
    luod.status()  # a serve answers: if one was killed, the supervisor has seen its end, and started another
    who = "nobody" if done.returncode == 0 else "carrier" if luod.serve_pid() == serve else "serve"
    luod.machine.signal(tracer.pid, signal.SIGTERM)
    tracer.wait()
    return who


def killing_at(number: int) -> tuple[str, ...]:
    return "-o", "/dev/null", "-e", f"inject=ioctl:signal=KILL:when={number}"


def session_ioctls(trace: str) -> list[int]:
    """Returns the numbers, from 1 on, of a process's ioctls on sessions. Python makes many others."""
    processes: dict[str, list[str]] = {}
    for line in trace.splitlines():
        pid, _, call = line.partition(" ")
        if call.lstrip().startswith("ioctl("):
            processes.setdefault(pid, []).append(call)
    found = [[n for n, call in enumerate(calls, 1) if "0xba" in call.lower()] for calls in processes.values()]
    (points,) = filter(None, found)
    return points


def test_killed_at_any_ioctl_of_the_work_nothing_is_lost(luod: Luod, strace: str, tmp_path: Path) -> None:
    vmm = luod.vmm()
    digests = {}
    for number in range(MOST):
        name = f"vm{number}"
        vmm.call("create", name=name, slot=name)
        digests[name] = vmm.memfd(f"ram {name}", seed=number)
        vmm.call("preserve", session=name, file=f"ram {name}", token=number, name="ram")
    luod.jump()

    watcher = luod.vmm()
    assert forward(luod, strace, "vm0", "-e", "trace=ioctl", "-o", str(tmp_path / "trace")) == "nobody"
    points = session_ioctls(luod.machine.read(str(tmp_path / "trace")).decode())
    killed = {"vm0": "nobody", "vm1": forward(luod, strace, "vm1", *killing_at(1))}
    for number, point in enumerate(points, 2):
        killed[f"vm{number}"] = forward(luod, strace, f"vm{number}", *killing_at(point))
    for name in killed:
        while f"outgoing {name}" not in states(watcher):
            luod.luoctl("carry-over", name, check=False)
    assert len(points) >= 5, points
    assert list(killed.values()) == ["nobody", "serve"] + ["carrier"] * len(points)
    for number in range(len(killed), MOST):
        watcher.call("release_named", name=f"vm{number}", direction="incoming")

    luod.jump()
    vmm = luod.vmm()
    for name in killed:
        vmm.call("retrieve_session", name=name, slot=name)
        vmm.call("retrieve", session=name, file="ram", slot=f"ram {name}")
        assert vmm.ask("digest", fd=f"ram {name}") == digests[name], (name, killed)
        vmm.call("finish", session=name)
    assert states(vmm) == {}


def test_killed_while_its_vmm_replaces_a_session_it_is_whole_or_not_carried_as_complete(
    luod: Luod, strace: str
) -> None:
    vmm = luod.vmm()
    vmm.call("create", name="vm", slot="s")
    digest = vmm.memfd("ram", seed=1)
    vmm.call("preserve", session="s", file="ram", token=1, name="ram")
    luod.jump()
    luod.luoctl("carry-over", "vm")
    vmm, serve = start(luod), luod.serve_pid()
    killing = "-e", "inject=pwrite64:signal=KILL:when=1"  # at the first write of the registry
    tracer = luod.machine.spawn([strace, "-f", "-qq", "-o", "/dev/null", *killing, "-p", str(serve)])
    until_traced(luod, serve)

    vmm.refused("method", method="io.luod.Sessions.Replace", parameters={"name": "vm"})
    tracer.wait()

    assert luod.serve_pid() != serve
    luod.load()
    luod.force_update()
    luod.start()
    vmm = luod.vmm()
    vmm.call("retrieve_session", name="vm", slot="s")
    vmm.call("retrieve", session="s", file="ram", slot="ram")
    assert vmm.ask("digest", fd="ram") == digest
