"""luod on a machine, seen from outside: its two processes, and programs of several users. Used by tests/daemon/."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from luod.errors import MachineUnavailable
from luod.testing import Host, Machine, Program, eventually
from luod.testing.host import SOCKET
from luod.testing.interpreter import Interpreter
from luod.testing.machine import Result
from luod.testing.tools import cannot_run, require_tool
from tests.library import Vmm, start_vmm

LOAD_LIMIT = "/proc/sys/kernel/kexec_load_limit_reboot"
_READ_ONLY = """
import sys
from luod.linux import MS_BIND, syscall
MS_RDONLY, MS_REMOUNT = 1, 32
syscall("mount", None, sys.argv[1].encode(), None, MS_REMOUNT | MS_BIND | MS_RDONLY, None)
"""
_FILL = """
import os, sys
with open(sys.argv[1] + "/filler", "wb", 0) as file:
    size = 65536
    while size:
        try:
            file.write(b"x" * size)
        except OSError:
            size //= 2
"""


class Luod(Host):
    """A host on which luod's processes can be told apart and killed."""

    def __init__(self, machine: Machine, state_directory: Path) -> None:
        super().__init__(machine, state_directory=state_directory)
        self.state_directory = str(state_directory)

    def python(self, user: int | None = None) -> Interpreter:
        """Skips the test if there is no Python for `user`, such as for other users in a plain user's machine."""
        try:
            return super().python(user)
        except MachineUnavailable as error:
            cannot_run(error.message)

    @property
    def supervisor_pid(self) -> int:
        assert self.supervisor is not None
        pid: int = self.supervisor.ask({})["pid"]
        return pid

    def serve_pid(self) -> int:
        """Returns the pid of serve. Waits while the supervisor starts one."""
        children = f"/proc/{self.supervisor_pid}/task/{self.supervisor_pid}/children"
        return int(eventually(lambda: self.machine.read(children).split(), describe="the supervisor has a serve")[0])

    def kill_serve(self) -> None:
        """Sends SIGKILL to serve; the supervisor starts the next one."""
        self.machine.signal(self.serve_pid(), signal.SIGKILL)

    def kill_both(self) -> None:
        """Sends SIGKILL to the supervisor and to serve."""
        supervisor, serve = self.supervisor_pid, self.serve_pid()
        for pid in (supervisor, serve):
            self.machine.signal(pid, signal.SIGKILL)

    def links(self, pid: int) -> list[str]:
        """Returns the targets of a process's fds, except those that it closes meanwhile."""
        names = self.machine.run(["ls", "-l", f"/proc/{pid}/fd"], check=False).text.splitlines()[1:]
        return [name.partition(" -> ")[2] for name in names]

    def sockets(self, pid: int) -> set[str]:
        """Returns unique names of the sockets of a process."""
        return {link for link in self.links(pid) if link.startswith("socket:")}

    def terminate(self) -> str:
        """Terminates luod with SIGTERM. Returns its log."""
        supervisor = self.supervisor
        assert supervisor is not None
        self.stop()
        return supervisor.stderr

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.luoctl_json("status")
        return status

    def vmm(self, user: int | None = None, *, surface: str = "blocking", socket: str = SOCKET) -> Vmm:
        """Starts a program of this user with one of the library's surfaces, blocking or asyncio."""
        return start_vmm(self.machine, self.python(user), "client", (surface, socket), user=user)

    def answers(self, *arguments: str) -> list[dict[str, Any]]:
        """Returns the objects that `luoctl --json` prints, each with the exit status as "status"."""
        result = self.luoctl("--json", *arguments, check=False)
        return [{"status": result.returncode, **json.loads(line)} for line in result.stdout.splitlines()]

    def answer(self, *arguments: str) -> dict[str, Any]:
        """Returns the last object that `luoctl --json` prints."""
        return self.answers(*arguments)[-1]

    def run_source(self, source: str, *arguments: object, check: bool = True) -> Result:
        """Runs a Python program as luod's user, in the machine."""
        python = self.python()
        return self.machine.run(
            [python.executable, "-c", source, *map(str, arguments)], env=python.environment, check=check, forked=True
        )

    def force_update(self) -> None:
        """Runs an update that carries sessions of programs that do not take part in updates.

        Most programs of these tests are such, and an update is refused for them without the option.
        """
        self.update(ignore=("contents-undeclared",))

    def jump(self) -> None:
        """Does a live update that is forced, and starts luod after it."""
        self.load()
        self.force_update()
        self.start()


def states(vmm: Vmm) -> dict[str, str]:
    """Returns the sessions that this user sees, such as "outgoing vm", and their states."""
    return {f"{entry['direction']} {entry['name']}": entry["state"] for entry in vmm.call("sessions")}


def fill_disk(luod: Luod) -> None:
    """Fills the file system of the state directory to its last byte."""
    luod.run_source(_FILL, luod.state_directory)


def preserve_two(luod: Luod, user: int | None = None) -> None:
    """Creates the sessions "vm" and "other" of this user, each with memory of the name "ram" under token 1."""
    vmm = luod.vmm(user)
    for name in ("vm", "other"):
        vmm.call("create", name=name, slot=name)
        vmm.memfd(f"ram {name}", seed=len(name))
        vmm.call("preserve", session=name, file=f"ram {name}", token=1, name="ram")


def until_complete(luod: Luod) -> None:
    """Waits until serve has opened all that it opens after its start. The last is its process that closes files."""
    serve = luod.serve_pid()
    children = f"/proc/{serve}/task/{serve}/children"
    eventually(lambda: luod.machine.read(children).split(), describe="serve has opened all")


def until_no_session(vmm: Vmm) -> None:
    """Waits until this user sees no session."""
    eventually(lambda: not states(vmm), describe="every session is gone")


def until_gone(vmm: Vmm, session: str) -> None:
    """Waits until this user no longer sees the session, such as "outgoing vm"."""
    eventually(lambda: session not in states(vmm), describe=f"{session} is gone")


def until_traced(luod: Luod, pid: int) -> None:
    """Waits until strace traces the process; strace does not report that."""
    status = f"/proc/{pid}/status"
    eventually(lambda: b"TracerPid:\t0\n" not in luod.machine.read(status), describe=f"process {pid} is traced")


def refuse_next_fork(luod: Luod) -> Program:
    """Has strace refuse the next process that serve forks, with EAGAIN. Returns strace, which the caller ends."""
    strace = require_tool("strace", package="strace")
    until_complete(luod)
    serve = luod.serve_pid()
    refusing = "inject=?vfork,?fork,?clone:error=EAGAIN:when=1"
    tracer = luod.machine.spawn([strace, "-qq", "-o", "/dev/null", "-e", refusing, "-p", str(serve)])
    until_traced(luod, serve)
    return tracer


def without_counted_loads(luod: Luod) -> None:
    """Makes the kernel's limit on loads read-only, so that luod does not notice a load of another process."""
    luod.machine.bind(LOAD_LIMIT, LOAD_LIMIT)
    luod.run_source(_READ_ONLY, LOAD_LIMIT)


def until_loaded(luod: Luod) -> None:
    """Waits until a kernel image is loaded."""
    loaded = "/sys/kernel/kexec_loaded"
    eventually(lambda: luod.machine.read(loaded).strip() == b"1", describe="a kernel is loaded")


def until_followed(luod: Luod, participants: int) -> None:
    """Waits until so many participants follow luod."""
    eventually(lambda: luod.status()["participants"] == participants, describe=f"{participants} participants follow")


def until_deadline(luod: Luod) -> None:
    """Waits until the restore deadline has passed."""
    eventually(lambda: luod.status()["restore_seconds_left"] == 0.0, describe="the restore deadline has passed")
