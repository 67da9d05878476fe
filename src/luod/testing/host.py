"""luod on a machine under test: start it, use luoctl, update. It is for luod's own tests and those of VMM authors.

host = Host(machine, state_directory=tmp_path)
host.start()
...
host.update()          # a kexec; luod must be started again
host.start()
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from luod.errors import MachineUnavailable
from luod.testing.interpreter import Interpreter, needed_interpreter
from luod.testing.machine import Machine, Program, Result

SOCKET = "/run/luod/luod.sock"
ADMIN_SOCKET = "/run/luod/admin.sock"


class Host:
    """A machine as a host of VMMs. `supervisor` is the process of this boot that `start` has started, None before."""

    forked = True
    """Whether luod may be a fork of a process that has imported its modules. A test of luod's start sets False."""

    def __init__(self, machine: Machine, *, state_directory: str | os.PathLike[str]) -> None:
        """`state_directory` is a path in the machine that outlives its kexecs."""
        self.machine = machine
        self._state_directory = os.fspath(state_directory)
        self.supervisor: Program | None = None

    def python(self, user: int | None = None) -> Interpreter:
        """Returns a Python with which `user` can run luod's library in the machine. Raises MachineUnavailable."""
        return needed_interpreter(self.machine.user if user is None else user)

    def start(self, *arguments: str) -> Program:
        """Starts `luod` with `arguments` added, and returns when it is ready."""
        python = self.python()
        command = python.module(
            "luod.testing.started",
            *(["--fork"] if self.forked else []),
            *python.module("luod.daemon.main", "--state-directory", self._state_directory, *arguments),
        )
        supervisor = self.machine.spawn(command, env=python.environment, forked=True)
        answer = supervisor.ask({})
        if not answer.get("ready"):
            raise MachineUnavailable(f"luod ended: {answer}\n{supervisor.stderr}")
        # Only now: where a luod runs already, this one ends, and `stop` is for that which runs.
        self.supervisor = supervisor
        return supervisor

    def stop(self) -> None:
        """Ends luod with SIGTERM, and waits for it."""
        if self.supervisor is not None:
            supervisor, self.supervisor = self.supervisor, None
            supervisor.end_input()
            supervisor.wait()

    def luoctl(self, *arguments: str, check: bool = True) -> Result:
        """Runs luoctl in the machine, forked if that can be. With `check`, raises ProgramFailed for a failure."""
        python = self.python()
        return self.machine.run(
            python.module("luod.ctl.main", *arguments), env=python.environment, check=check, forked=True
        )

    def luoctl_json(self, *arguments: str) -> Any:
        """Returns the decoded output of `luoctl --json`."""
        return json.loads(self.luoctl("--json", *arguments).stdout)

    def load(self, kernel: str | None = None) -> None:
        """Runs `luoctl load` for a kernel image in the machine, by default its own, with the machine's initramfs."""
        initrd = () if self.machine.initrd is None else ("--initrd", self.machine.initrd)
        self.luoctl("load", "--kernel", kernel or self.machine.kernel, *initrd, "--reuse-cmdline")

    def update(self, *, ignore: Sequence[str] = ()) -> None:
        """Runs `luoctl update`, and returns in the next boot, before anything runs there. An image must be loaded.

        `ignore` are findings of `luoctl check` that do not refuse the update: the values of its option
        --ignore-finding. A session whose program does not take part in updates is refused without
        "contents-undeclared". Raises ProgramFailed when the update is refused or cancelled; its text has the findings.
        """
        with self.machine.expect_jump():
            self.luoctl("update", *(f"--ignore-finding={name}" for name in ignore))
        self.supervisor = None
