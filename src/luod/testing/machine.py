"""A machine under test, seen from outside: programs run in it, it does a kexec, and the test continues in the next
boot.

This is the common part of the emulated machine and of a real kernel in a virtual one. Subclasses start and end a
machine: `luod.testing.emulated`. Tests get it from the fixtures of `luod.testing.plugin`.

Every failure inside is an exception here with the boot, the program and its stderr.
"""

from __future__ import annotations

import abc
import base64
import contextlib
import json
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from luod.errors import MachineEnded, MachineError, MachineJumped, ProgramFailed
from luod.linux import Resource
from luod.testing.channel import Channel
from luod.testing.conversation import Conversation, Limit
from luod.testing.waiting import eventually

TIMEOUT = 60.0
"""Default time limit of a request in seconds. It is longer than any request takes, and ends a test that hangs."""

_OUTPUT_LINES = 20
_OUTPUT_CHARACTERS = 4000
"""How much of a failed program's stdout is in the text of the failure."""


@dataclass(frozen=True)
class Result:
    """The result of a program that ran to its end. A negative `returncode` is the signal that killed it."""

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Returns stdout as text, without the last newline."""
        return self.stdout.decode("utf-8", "replace").removesuffix("\n")


class Machine(Resource, abc.ABC):
    """A booted machine. Close it, or use it in `with`. Not thread-safe."""

    def __init__(self, channel: Channel, *, timeout: float) -> None:
        """Takes ownership of `channel`. `_boot_up()` must follow."""
        self._conversation = Conversation(
            channel,
            timeout=timeout,
            booted=self._begin_boot,
            told=self._tell,
            why_ended=self._why_ended,
            log=self.log,
        )
        self.user: int | None = None
        """The uid that runs the machine, which is root in it; None: that of the test."""
        self._kernel = ""
        self._initrd: str | None = None
        self._programs: dict[int, Program] = {}

    @property
    def boot(self) -> int:
        """Returns 1 until the first kexec, 2 until the second, and so on."""
        return self._conversation.boot

    @property
    def kernel(self) -> str:
        """Returns the path, in the machine, of an image that can be loaded and carries sessions over the kexec."""
        return self._kernel

    @property
    def initrd(self) -> str | None:
        """Returns the path, in the machine, of the initramfs to load with `kernel`; None if it needs none."""
        return self._initrd

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str | None] | None = None,
        user: int | None = None,
        group: int | None = None,
        stdin: bytes = b"",
        timeout: float | None = None,
        check: bool = True,
        forked: bool = False,
    ) -> Result:
        """Runs a program in the machine to its end.

        `env` is added to init's environment; a value None removes the variable. `group` defaults to `user`. With
        `check`, raises ProgramFailed for an exit status other than 0. After `timeout` seconds it is killed, and
        ProgramFailed raised. Raises MachineJumped when the machine does a kexec meanwhile (see `expect_jump`).

        `forked`: if `argv` is luod's Python with -m or -c, it may be a fork of a process that has imported luod, which
        takes a third of the processor time or less. It is an exec where that cannot be. Of a fork, `/proc/PID/cmdline`
        and `environ` are those of the process that it comes from, and finalizers (`__del__`) of objects that are left
        at its end do not run.
        """
        timeout = self._conversation.timeout if timeout is None else timeout
        value = self._request(
            "run",
            f"run {' '.join(argv)}",
            timeout=timeout + self._conversation.timeout,
            parameters={
                **_start(argv, env, user, group, forked),
                "stdin": base64.b64encode(stdin).decode(),
                "timeout": timeout,
            },
        )
        stdout, stderr = base64.b64decode(value["stdout"]), base64.b64decode(value["stderr"])
        result = Result(tuple(argv), value["returncode"], stdout, stderr)
        if value["timed_out"]:
            raise self._program_failed(result, f"was killed after {timeout} s")
        if check and result.returncode != 0:
            raise self._program_failed(result, f"ended with {describe(result.returncode)}")
        return result

    def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str | None] | None = None,
        user: int | None = None,
        group: int | None = None,
        forked: bool = False,
    ) -> Program:
        """Starts a program in the machine and returns at once. The arguments are those of `run`."""
        doing = f"spawn {' '.join(argv)}"
        value = self._request("spawn", doing, parameters=_start(argv, env, user, group, forked))
        program = Program(
            self, self._conversation, value["program"], value["pid"], tuple(argv), errors_file=value["stderr"]
        )
        self._programs[program.handle] = program
        return program

    def read(self, path: str) -> bytes:
        """Returns the contents of a file in the machine. Raises MachineError with the reason when it cannot be read."""
        return base64.b64decode(self._request("read", f"read {path}", parameters={"path": path}))

    def write(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Writes a file in the machine, and replaces its contents. `mode` is for a new file."""
        parameters = {"path": path, "data": base64.b64encode(data).decode(), "mode": mode}
        self._request("write", f"write {path}", parameters=parameters)

    def signal(self, pid: int, number: int) -> bool:
        """Sends a signal to a process, by its id in the machine. Returns False if there is no such process.

        Signal 0 only tests for it. A process that has ended and was not waited for still exists.
        """
        doing = f"signal {number} to process {pid}"
        there: bool = self._request("signal_process", doing, parameters={"pid": pid, "signal": int(number)})
        return there

    def end_programs(self) -> None:
        """Kills every program of this boot that was spawned, with its process group, and waits for their ends.

        For tests that share a machine: what the programs held is released.
        """
        for program in self._programs.values():
            self._end_group(program)
        self._forget_programs()

    def _end_group(self, program: Program) -> None:
        # Its number is that of its first process, and given to no other process as long as the group has one.
        eventually(
            lambda: not self.signal(-program.pid, signal.SIGKILL),
            describe=f"every process of {' '.join(program.argv)} has ended",
        )

    def bind(self, source: str, target: str) -> None:
        """Mounts `source` on `target` (bind), until the next kexec.

        Raises MachineError with the reason when it is refused.
        """
        self._request("bind", f"bind {source} on {target}", parameters={"source": source, "target": target})

    @contextlib.contextmanager
    def expect_jump(self, *, timeout: float | None = None) -> Iterator[None]:
        """Connects the test to the next boot, after a block that makes the machine do a kexec.

        A request in the block that the kexec interrupts ends there without an error. Raises MachineError when there is
        no next boot within `timeout` seconds after the block.
        """
        following = self.boot + 1
        with contextlib.suppress(MachineJumped):
            yield
        self._conversation.wait_for_boot(following, "wait for the jump", timeout=timeout)

    def close(self) -> None:
        """Ends the machine and waits for its end. Idempotent. A later request raises MachineEnded.

        Raises MachineError when it does not end by itself, or leaves processes behind: it is killed then, as when an
        exception interrupts this.
        """
        with self._channel_closed_afterwards() as open_:
            if open_:
                try:
                    answered = self._ask_to_exit()
                except BaseException:
                    with contextlib.suppress(MachineError):  # the exception is what the caller must see
                        self._shut_down(0.0)
                    raise
                self._shut_down(self._conversation.timeout if answered else 0.0)

    def _ask_to_exit(self) -> bool:
        """Asks the machine to end. Returns whether it has answered, or has ended.

        The agent of a boot that began meanwhile is asked again: the request was for the boot before.
        """
        limit = Limit(self._conversation.timeout)
        while True:
            try:
                self._request("exit", "exit", parameters={"status": 0}, timeout=limit.left())
            except MachineJumped:
                continue
            except MachineEnded:
                return True
            except MachineError:
                return False
            return True

    @abc.abstractmethod
    def _shut_down(self, patience: float) -> None:
        """Waits until the machine has ended, at most `patience` seconds; 0: it did not answer.

        Kills it if necessary, also when the wait is interrupted. Raises MachineError (`_did_not_end`) if it was
        necessary, or when a process is left.
        """

    @abc.abstractmethod
    def log(self) -> str:
        """Returns the output of the machine itself: the supervisor's stderr, or the serial console."""

    @abc.abstractmethod
    def _booted(self, hello: Mapping[str, Any]) -> None:
        """Handles the hello of a boot, the message `hello`."""

    @abc.abstractmethod
    def _why_ended(self) -> str:
        """Returns a text that says how the machine ended."""

    def _boot_up(self) -> None:
        """Waits for the first hello."""
        self._conversation.wait_for_boot(1, "boot")

    def _request(self, verb: str, doing: str, *, parameters: Mapping[str, Any], timeout: float | None = None) -> Any:
        return self._conversation.request(verb, doing, parameters=parameters, timeout=timeout)

    def _begin_boot(self, hello: Mapping[str, Any]) -> None:
        self._kernel = hello["kernel"]
        self._forget_programs()
        self._booted(hello)

    def _tell(self, message: Mapping[str, Any]) -> None:
        if program := self._programs.get(message["program"]):
            program.tell(message)

    def _forget_programs(self) -> None:
        for program in self._programs.values():
            program.read_last()
        self._programs.clear()

    def _did_not_end(self, program: str, patience: float) -> MachineError:
        """Returns the error of a machine whose `program` on the host had to be killed."""
        what = f"{program} did not end within {patience:g} s" if patience else "it did not answer"
        return MachineError(self._conversation.failure("close", f"{what}, and was killed"))

    def _program_failed(self, result: Result, what: str) -> ProgramFailed:
        stderr = result.stderr.decode("utf-8", "replace")
        output = "\n".join(result.text[-_OUTPUT_CHARACTERS:].splitlines()[-_OUTPUT_LINES:])
        doing = " ".join(result.argv)
        return ProgramFailed(self._conversation.failure(doing, what, program=stderr, output=output))

    @contextlib.contextmanager
    def _channel_closed_afterwards(self) -> Iterator[bool]:
        was_open = not self._conversation.closed
        try:
            yield was_open
        finally:
            self._conversation.close()
            self._forget_programs()


class Program:
    """A program that runs in a machine. It ends with its boot or before.

    `ask` is for programs that answer one JSON line on stdout for one on stdin.
    """

    def __init__(
        self,
        machine: Machine,
        conversation: Conversation,
        handle: int,
        pid: int,
        argv: tuple[str, ...],
        *,
        errors_file: str | None = None,
    ) -> None:
        """`errors_file` is the path, outside the machine, of its stderr; None: `tell` receives it."""
        self.machine = machine
        self._conversation = conversation
        self.handle = handle
        self.pid = pid
        """Its process id, as the machine counts."""
        self.argv = argv
        self.boot = machine.boot
        """The boot it runs in."""
        self._errors = ""
        self._errors_file = errors_file
        self._returncode: int | None = None

    @property
    def returncode(self) -> int | None:
        """Returns its exit status, or minus the signal that killed it; None: the agent has not told of its end."""
        self._hear()
        return self._returncode

    @property
    def stderr(self) -> str:
        """Returns its stderr so far: in the emulated machine all of it, also after a kexec.

        In a virtual machine it is the part that the agent has sent by now, and complete when the program has ended.
        """
        if self._errors_file is None:
            self._hear()
            return self._errors
        with open(self._errors_file, encoding="utf-8", errors="replace") as file:
            return file.read()

    def read_last(self) -> None:
        """Reads its remaining output, since its boot is over or its machine ends."""
        self._errors, self._errors_file = self.stderr, None

    def ask(self, question: object, *, timeout: float | None = None) -> Any:
        """Sends `question` as a JSON line and returns the answer. Raises MachineError for a program of an earlier boot.

        Raises ProgramFailed when it ends without answering, or answers with anything else than JSON.
        """
        return self.answer(self.send(question), timeout=timeout)

    def send(self, question: object) -> int:
        """Sends `question` and returns at once. `answer` takes the result."""
        self._same_boot("ask")
        return self._conversation.send(
            "ask", self._doing("ask"), parameters={"program": self.handle, "line": json.dumps(question)}
        )

    def answer(self, question: int, *, timeout: float | None = None) -> Any:
        """Waits for the answer to a question that was sent. Raises the errors of `ask`."""
        try:
            line = self._conversation.wait(question, self._doing("ask"), timeout=timeout)
        except (MachineEnded, MachineJumped):
            raise
        except MachineError as error:
            raise ProgramFailed(f"{error}\n--- the program's stderr\n{self.stderr}") from None
        try:
            return json.loads(line)
        except ValueError:
            what = f"its answer is not JSON: {line!r:.200}"
            raise ProgramFailed(self._conversation.failure(self._doing("ask"), what, program=self.stderr)) from None

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Sends it a signal. Does nothing when it has ended."""
        self._request("signal", signal=int(number))

    def end_input(self) -> None:
        """Closes its stdin, once it has read all questions."""
        self._request("end_input")

    def wait(self, *, timeout: float | None = None) -> int:
        """Waits for its end and returns the exit status, or minus the signal that killed it."""
        status: int = self._request("wait", timeout=timeout)
        return status

    def kill(self) -> None:
        """Kills it with SIGKILL, and waits for the end."""
        self.signal(signal.SIGKILL)
        self.wait()

    def tell(self, message: Mapping[str, Any]) -> None:
        """Handles a message of the agent about this program. Only the machine uses it."""
        self._errors += message.get("stderr", "")
        self._returncode = message.get("ended", self._returncode)

    def _hear(self) -> None:
        """Handles what the agent has sent about this program, in the boot of the program."""
        if self.boot == self.machine.boot:
            self._conversation.handle_arrived()

    def _request(self, verb: str, *, timeout: float | None = None, **parameters: Any) -> Any:
        self._same_boot(verb)
        parameters["program"] = self.handle
        return self._conversation.request(verb, self._doing(verb), parameters=parameters, timeout=timeout)

    def _same_boot(self, verb: str) -> None:
        if self.boot != self.machine.boot:
            what = f"it ran in boot {self.boot}, which is over"
            raise MachineError(self._conversation.failure(self._doing(verb), what))

    def _doing(self, verb: str) -> str:
        return f"{verb} {' '.join(self.argv)}"


def describe(returncode: int) -> str:
    """Returns a text for an exit status."""
    if returncode < 0:
        try:
            return f"signal {signal.Signals(-returncode).name}"
        except ValueError:  # most real-time signals have no name
            return f"signal {-returncode}"
    return f"status {returncode}"


def _start(
    argv: Sequence[str], env: Mapping[str, str | None] | None, user: int | None, group: int | None, forked: bool
) -> dict[str, Any]:
    return {
        "argv": list(argv),
        "env": dict(env or {}),
        "user": user,
        "group": user if group is None else group,
        "forked": forked,
    }
