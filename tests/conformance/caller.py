"""One process inside a machine that makes the calls of a row: the outside of `tests.programs.questions`.

`caller.ask("create", device="device", name=b"vm", slot="s")` returns the call's value; `caller.says(…)` returns "OK" or
the name of the errno. Every row of `tests/conformance/` uses it.
"""

from __future__ import annotations

import os
from typing import Any

from luod.testing import Machine, Program
from luod.testing.tools import cannot_run

Answer = dict[str, Any]


class Refusal(AssertionError):
    """A call that the row needs to succeed failed with an errno."""


class Caller:
    """A process of its own, forked for one row. Everything that it holds ends with it."""

    def __init__(self, program: Program, path: tuple[str, ...] = (), row: bytes = b"row") -> None:
        self.program = program
        self.path = path
        self.row = row
        """A session name that no other row uses."""

    def reply(self, verb: str, /, **parameters: Any) -> Answer:
        """Returns the whole answer."""
        question = {"do": verb, "in": list(self.path), **{name: _text(value) for name, value in parameters.items()}}
        answer: Answer = self.program.ask(question)
        assert "wrong" not in answer, f"{verb}({parameters}): {answer['wrong']}"
        return answer

    def ask(self, verb: str, /, **parameters: Any) -> Any:
        """Returns the value of a call that succeeds."""
        answer = self.reply(verb, **parameters)
        if "ok" not in answer:
            raise Refusal(f"{verb}({parameters}): {answer}")
        return answer["ok"]

    def says(self, verb: str, /, **parameters: Any) -> str:
        """Returns "OK", or the errno's name."""
        return str(self.reply(verb, **parameters).get("errno", "OK"))

    def fork(self, name: str, *, row: bytes | None = None) -> Caller:
        """Returns a child with duplicates of every fd of this process."""
        self.ask("fork", kid=name)
        return Caller(self.program, (*self.path, name), self.row if row is None else row)

    def become(self, uid: int) -> None:
        """Changes to another uid for good. The row is skipped where only one uid is mapped into the machine."""
        if self.says("become", uid=uid) != "OK":
            cannot_run("only root can map several uids into the machine")

    def become_program(self, *argv: str, keep: tuple[str, ...]) -> None:
        """Execs `argv`, which inherits the fds in `keep`. It answers no further question."""
        assert self.reply("exec", argv=list(argv), keep=list(keep)) == {"gone": None}

    # -- the first steps of nearly every row ------------------------------------------------------------------------

    def open_device(self) -> None:
        self.ask("open", path="/dev/liveupdate", flags=os.O_RDWR, slot="device")

    def create(self, name: bytes | None = None, *, slot: str = "s") -> None:
        """Creates a session. The device is opened for it and closed again."""
        if (said := self.can_create(name, slot=slot)) != "OK":
            raise Refusal(f"create({name!r}): {said}")

    def retrieve(self, name: bytes | None = None, *, slot: str = "s") -> None:
        """Retrieves an incoming session. The device is opened for it and closed again."""
        if (said := self.can_retrieve(name, slot=slot)) != "OK":
            raise Refusal(f"retrieve({name!r}): {said}")

    def can_create(self, name: bytes | None = None, *, slot: str = "tried") -> str:
        """Returns the result of CREATE_SESSION. After a success the session stays in `slot`."""
        return self._says_through_device("create", name, slot)

    def can_retrieve(self, name: bytes | None = None, *, slot: str = "tried") -> str:
        """Returns the result of RETRIEVE_SESSION. After a success the session stays in `slot`."""
        return self._says_through_device("retrieve", name, slot)

    def _says_through_device(self, verb: str, name: bytes | None, slot: str) -> str:
        """Opens the device, makes the call and closes the device, also after a refusal: others may wait for it."""
        self.open_device()
        said = self.says(verb, device="device", name=self.row if name is None else name, slot=slot)
        self.ask("close", fd="device")
        return said

    def preserved_memfd(self, *, token: int = 1, size: int = 4096, slot: str = "m", session: str = "s") -> str:
        """Preserves a new memfd full of data; returns the sha256 of its contents."""
        self.ask("memfd", slot=slot, size=size)
        digest: str = self.ask("fill", fd=slot, length=size, seed=token)
        self.ask("preserve", session=session, fd=slot, token=token)
        return digest


def start(machine: Machine, program: list[str], *, root: str) -> Caller:
    """Starts the question program in `machine`; its children are the rows' callers."""
    source = machine.run(["printenv", "PYTHONPATH"], check=False).text
    path = os.pathsep.join(filter(None, [source, root]))
    return Caller(machine.spawn(program, env={"PYTHONPATH": path}, forked=True))


def jump(machine: Machine, caller: Caller) -> None:
    """Calls reboot(LINUX_REBOOT_CMD_KEXEC) in `caller`, into the loaded image."""
    with machine.expect_jump():
        raise AssertionError(f"reboot came back: {caller.reply('reboot')}")


def load(machine: Machine, caller: Caller, *, command_line: bytes | None = None) -> None:
    """Loads the machine's own kernel by kexec_file_load, by default with its own command line."""
    own = machine.read("/proc/cmdline").rstrip(b"\n")
    line = own if command_line is None else command_line
    caller.ask("open", path=machine.kernel, flags=os.O_RDONLY, slot="kernel")
    try:
        if machine.initrd is None:
            caller.ask("kexec_file_load", kernel="kernel", command_line=line)
            return
        caller.ask("open", path=machine.initrd, flags=os.O_RDONLY, slot="initrd")
        try:
            caller.ask("kexec_file_load", kernel="kernel", initrd="initrd", flags=0, command_line=line)
        finally:
            caller.ask("close", fd="initrd")
    finally:
        caller.ask("close", fd="kernel")


def _text(value: Any) -> Any:
    return value.decode("latin-1") if isinstance(value, bytes) else value
