"""A machine from outside: the output and ends of its programs arrive here, over kexecs too, and failures name their
place.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from luod.errors import MachineEnded, MachineError, MachineJumped, ProgramFailed
from luod.testing import EmulatedMachine, Machine, Program, eventually
from luod.testing.interpreter import interpreter_for
from luod.testing.kernel import KernelMachine
from luod.testing.plugin import BootMachine
from luod.testing.tools import cannot_run

ECHO = 'while read -r line; do echo "$line"; done'
LOAD = """
import os, sys
from luod import kexec
kernel, initrd, line = sys.argv[1:]
files = [os.open(name, os.O_RDONLY) if name else None for name in (kernel, initrd)]
kexec.load(*files, line)
"""
JUMP = """
import json, sys
from luod import kexec
for line in sys.stdin:
    print("about to jump", file=sys.stderr, flush=True)
    kexec.jump()
"""


@pytest.fixture
def load(machine: Machine) -> Callable[[], None]:
    """Loads the machine's own kernel, to boot as this one did."""

    def load() -> None:
        line = machine.read("/proc/cmdline").decode().strip()
        machine.run([sys.executable, "-c", LOAD, machine.kernel, machine.initrd or "", line])

    return load


@pytest.fixture(scope="module")
def shared_closed() -> Iterator[tuple[Machine, Program]]:
    """Yields a machine that is closed, and a program that ran in it."""
    with EmulatedMachine() as machine:
        program = machine.spawn(["cat"])
        machine.close()
        yield machine, program


@pytest.fixture
def _keeps_output(machine_kind: str) -> None:
    """Skips the test on a real kernel, whose kexec may take with it what the agent has not read."""
    if machine_kind == "kernel":
        pytest.skip("a program's last words before a kexec are kept by the emulated machine only")


def test_a_program_gets_its_input_and_its_output_comes_back(machine: Machine) -> None:
    result = machine.run(["sh", "-c", "cat; echo problems >&2"], stdin=b"\0in\n")
    assert (result.returncode, result.stdout, result.stderr) == (0, b"\0in\n", b"problems\n")


def test_run_as_another_uid(machine: Machine) -> None:
    if os.geteuid() != 0:
        cannot_run("only root can map several uids into the machine")
    assert machine.run(["id", "-u"], user=1000).text == "1000"
    assert machine.run(["id", "-G"], user=1000, group=12).text == "12"


def test_the_environment_is_inits_with_the_changes_of_the_test(machine: Machine, machine_kind: str) -> None:
    """It is init's, with what the test adds and without what it removes."""
    inits = {"emulated": "LUOEMU_BOOT=1", "kernel": "LANG=C.UTF-8"}[machine_kind]
    assert inits in machine.run(["env"]).text.splitlines()
    words = machine.run(["env"], env={"ONE": "1", "HOME": None}).text.splitlines()
    assert {inits, "ONE=1"} <= set(words)
    assert not any(word.startswith("HOME=") for word in words)


def test_failure_has_boot_program_and_stderr(machine: Machine) -> None:
    with pytest.raises(ProgramFailed) as caught:
        machine.run(["sh", "-c", "echo it went wrong >&2; exit 3"])
    for part in ("boot 1", "sh -c", "status 3", "it went wrong"):
        assert part in str(caught.value)


def test_failure_has_the_end_of_the_output(machine: Machine) -> None:
    """`luoctl update` says there why it was cancelled."""
    with pytest.raises(ProgramFailed) as caught:
        machine.run(["sh", "-c", "seq 1000; echo cancelled: a backup is running; exit 5"])
    lines = str(caught.value).splitlines()
    assert "cancelled: a backup is running" in lines
    assert "1000" in lines
    assert "1" not in lines


def test_failure_by_a_signal(machine: Machine) -> None:
    with pytest.raises(ProgramFailed, match="SIGTERM"):
        machine.run(["sh", "-c", "kill $$"])
    assert machine.run(["sh", "-c", "kill $$"], check=False).returncode == -signal.SIGTERM
    with pytest.raises(ProgramFailed, match="signal 40"):
        machine.run(["sh", "-c", "kill -40 $$"])


def test_run_that_takes_too_long(machine: Machine) -> None:
    with pytest.raises(ProgramFailed, match=r"killed after 0\.2 s"):
        machine.run(["sleep", "1000"], timeout=0.2)


def test_a_program_that_is_not_there_is_an_error_with_the_reason(machine: Machine) -> None:
    with pytest.raises(MachineError, match="No such file"):
        machine.run(["/no/such/program"])


def test_a_file_that_is_written_in_the_machine_is_read_back_and_not_on_the_host(machine: Machine) -> None:
    data = os.urandom(1 << 20)
    machine.write("/run/file", data, mode=0o600)
    assert machine.read("/run/file") == data
    assert machine.run(["stat", "-c", "%a", "/run/file"]).text == "600"
    assert not os.path.exists("/run/file")


def test_a_signal_to_a_process_by_its_id(machine: Machine) -> None:
    program = machine.spawn(["sleep", "1000"])
    assert machine.signal(program.pid, 0)
    assert machine.signal(program.pid, signal.SIGKILL)
    assert program.wait() == -signal.SIGKILL
    assert not machine.signal(program.pid, 0)


def test_the_programs_of_a_boot_are_ended_together_with_their_processes(machine: Machine) -> None:
    leader = machine.spawn(["sh", "-c", "trap '' TERM; read line; sleep 1000 & echo $!; wait"])
    orphan = machine.spawn(["sh", "-c", "read line; sleep 1000 & echo $!"])
    pids = [leader.ask({}), orphan.ask({})]
    orphan.wait()

    machine.end_programs()

    assert [machine.signal(pid, 0) for pid in (leader.pid, *pids)] == [False] * 3
    assert machine.run(["echo", "on"]).text == "on"


def test_a_file_is_bound_over_another_until_the_jump(machine: Machine, load: Callable[[], None]) -> None:
    load()
    machine.write("/run/meminfo", b"MemFree: 1 kB\n")
    machine.bind("/run/meminfo", "/proc/meminfo")
    assert machine.read("/proc/meminfo") == b"MemFree: 1 kB\n"
    with pytest.raises(MachineError, match=r"bind /run/nothing on /proc/meminfo: .*No such file"):
        machine.bind("/run/nothing", "/proc/meminfo")
    jumper = machine.spawn([sys.executable, "-c", JUMP])
    with machine.expect_jump():
        jumper.ask({})
    assert machine.read("/proc/meminfo") != b"MemFree: 1 kB\n"


def test_a_program_is_asked_line_by_line_until_its_input_ends(machine: Machine) -> None:
    program = machine.spawn(["sh", "-c", ECHO])
    for question in ({"a": [1, None]}, "text", 3, "x" * 1_000_000):
        assert program.ask(question) == question
    program.end_input()
    assert program.wait() == 0
    assert program.returncode == 0


def test_what_a_program_writes_and_its_end_are_seen_without_a_request(machine: Machine) -> None:
    program = machine.spawn(["sh", "-c", "echo working >&2; sleep 0.2; exit 3"])

    eventually(lambda: "working" in program.stderr, describe="the program has written")
    eventually(lambda: program.returncode == 3, describe="the program has ended")


def test_several_questions_under_way(machine: Machine) -> None:
    program, other = machine.spawn(["sh", "-c", ECHO]), machine.spawn(["sh", "-c", ECHO])
    questions = [program.send(number) for number in range(10)]
    assert other.ask("meanwhile") == "meanwhile"
    assert [program.answer(question) for question in questions] == list(range(10))


def test_program_that_dies_instead_of_answering(machine: Machine) -> None:
    program = machine.spawn(["sh", "-c", "read line; echo dying >&2; exit 9"])
    with pytest.raises(ProgramFailed, match="ended with 9") as caught:
        program.ask({})
    assert "dying" in str(caught.value)
    with pytest.raises(ProgramFailed, match="has ended with 9"):
        program.ask({})


def test_program_that_answers_nonsense(machine: Machine) -> None:
    with pytest.raises(ProgramFailed, match="not JSON: 'nonsense'"):
        machine.spawn(["sh", "-c", "read line; echo nonsense; read line"]).ask({})


def test_program_that_never_answers(machine: Machine) -> None:
    program = machine.spawn(["sleep", "1000"])
    with pytest.raises(MachineError, match=r"no answer within 0\.2 s"):
        program.ask({}, timeout=0.2)
    program.kill()
    assert program.returncode == -signal.SIGKILL


def test_jump(machine: Machine, machine_kind: str, load: Callable[[], None]) -> None:
    echo = machine.spawn(["sh", "-c", ECHO])
    jumper = machine.spawn([sys.executable, "-c", JUMP])
    machine.write("/run/file", b"in boot 1")
    for boot in (2, 3):
        load()
        with machine.expect_jump():
            machine.run([sys.executable, "-c", "from luod import kexec; kexec.jump()"])
        assert machine.boot == boot
        told = machine.run(["printenv", "LUOEMU_BOOT"], check=False).text
        assert told == ("" if machine_kind == "kernel" else str(boot))
    assert machine.run(["test", "-e", "/run/file"], check=False).returncode == 1
    for program in (echo, jumper):
        assert program.boot == 1
        with pytest.raises(MachineError, match="ran in boot 1, which is over"):
            program.ask({})


@pytest.mark.usefixtures("_keeps_output")
def test_what_was_written_before_the_jump_is_known_after_it(machine: Machine, load: Callable[[], None]) -> None:
    load()
    jumper = machine.spawn([sys.executable, "-c", JUMP])
    with machine.expect_jump():
        jumper.ask({})
    assert jumper.stderr == "about to jump\n"


@pytest.mark.usefixtures("_keeps_output")
def test_nothing_is_missing_of_what_was_written_right_before_the_jump(
    machine: Machine, load: Callable[[], None]
) -> None:
    load()
    source = """
import os, sys
from luod import linux
from luod.uapi import kexec
sys.stdin.readline()
for number in range(3000):
    os.write(2, b"%080d\\n" % number)
magic = kexec.LINUX_REBOOT_MAGIC1, kexec.LINUX_REBOOT_MAGIC2
linux.syscall("reboot", *magic, kexec.LINUX_REBOOT_CMD_KEXEC, None)
"""
    jumper = machine.spawn([sys.executable, "-c", source])
    with machine.expect_jump():
        jumper.ask({})
    assert [int(line) for line in jumper.stderr.splitlines()] == list(range(3000))


def test_jump_that_nobody_expected(machine: Machine, load: Callable[[], None]) -> None:
    load()
    with pytest.raises(MachineJumped, match="boot 2"):
        machine.run([sys.executable, "-c", "from luod import kexec; kexec.jump()"])
    assert machine.boot == 2


def test_jump_that_does_not_come(machine: Machine) -> None:
    with (
        pytest.raises(MachineError, match=r"wait for the jump: no answer within 0\.2 s"),
        machine.expect_jump(timeout=0.2),
    ):
        machine.run(["true"])
    assert machine.boot == 1


def test_a_request_to_a_machine_that_has_ended_says_how_it_ended(machine: Machine) -> None:
    reboot = "import ctypes; ctypes.CDLL(None).reboot(0x4321FEDC); input()"
    with pytest.raises(MachineEnded, match=r"(luoemu|QEMU) ended with status 0"):
        machine.run([sys.executable, "-c", reboot])
    with pytest.raises(MachineEnded):
        machine.run(["true"])


def test_supervisor_that_is_killed(boot_machine: BootMachine) -> None:
    machine = boot_machine()
    assert isinstance(machine, EmulatedMachine | KernelMachine)
    program = machine.spawn(["cat"])
    assert program.ask({}) == {}
    os.kill(machine.pid, signal.SIGKILL)
    with pytest.raises(MachineEnded, match="SIGKILL"):  # noqa: PT012 - the machine follows its supervisor, not at once
        while True:
            program.ask({})


def test_machine_that_cannot_boot() -> None:
    with pytest.raises(MachineEnded) as caught:
        EmulatedMachine(arguments=["--no-such-option"])
    assert "status 2" in str(caught.value)
    assert "--no-such-option" in str(caught.value)


def init_of(machine: EmulatedMachine) -> int:
    """Returns the pid of the agent on the host."""
    statuses = {pid: Path(f"/proc/{pid}/status").read_text() for pid in machine._namespaces.processes()}
    (found,) = (pid for pid, status in statuses.items() if re.search(r"^NSpid:.*\t1$", status, re.MULTILINE))
    return found


def test_a_machine_that_does_not_answer_is_killed_when_it_is_closed() -> None:
    machine = EmulatedMachine(timeout=60)
    os.kill(init_of(machine), signal.SIGSTOP)
    machine._conversation.timeout = 0.1

    with pytest.raises(MachineError, match="close: it did not answer, and was killed"):
        machine.close()

    assert machine.returncode == -signal.SIGKILL


def test_a_machine_is_killed_when_its_close_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = EmulatedMachine()
    os.kill(machine.pid, signal.SIGSTOP)  # it answers, and does not end
    wait = machine._process.wait

    def interrupted(timeout: float | None = None) -> int:
        if timeout is not None:
            raise KeyboardInterrupt
        return wait()

    monkeypatch.setattr(machine._process, "wait", interrupted)

    with pytest.raises(KeyboardInterrupt):
        machine.close()

    assert machine.returncode == -signal.SIGKILL


def test_a_time_limit_may_be_longer_than_poll_takes() -> None:
    with EmulatedMachine(timeout=1e9) as machine:
        assert machine.run(["echo", "on"]).text == "on"
        assert machine.spawn(["cat"]).ask({}) == {}


def test_a_machine_may_be_closed_twice(machine: Machine) -> None:
    machine.close()
    machine.close()


@pytest.mark.parametrize(
    "request_",
    [
        lambda machine, program: machine.run(["true"]),
        lambda machine, program: machine.spawn(["true"]),
        lambda machine, program: machine.read("/proc/version"),
        lambda machine, program: machine.write("/run/file", b""),
        lambda machine, program: machine.signal(1, 0),
        lambda machine, program: program.ask({}),
        lambda machine, program: program.wait(),
    ],
    ids=["run", "spawn", "read", "write", "signal", "ask", "wait"],
)
def test_a_request_to_a_closed_machine_says_that_it_is_closed(
    shared_closed: tuple[Machine, Program], request_: Callable[[Machine, Program], object]
) -> None:
    with pytest.raises(MachineEnded, match="the machine is closed"):
        request_(*shared_closed)


def test_a_jump_of_a_closed_machine_is_not_waited_for(shared_closed: tuple[Machine, Program]) -> None:
    machine, _ = shared_closed
    with pytest.raises(MachineEnded, match="wait for the jump: the machine is closed"), machine.expect_jump():
        pass


def test_host_that_allows_no_namespaces(tmp_path: Path) -> None:
    """In a chroot the kernel makes none for a plain user."""
    if os.geteuid() != 0:
        cannot_run("only root can make a host where nobody else may have namespaces")
    boot = """
from luod.errors import MachineUnavailable
from luod.testing import EmulatedMachine
try:
    EmulatedMachine()
except MachineUnavailable as error:
    print(error)
"""
    python = interpreter_for(1000) or cannot_run("uid 1000 has no Python that can import luod")
    program = Path(__file__).parents[1] / "programs" / "chroot_as.py"
    done = subprocess.run(
        [sys.executable, program, tmp_path, "1000", python.executable, "-c", boot],
        env={**os.environ, **python.environment},
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    assert "run luoemu as root" in done.stdout
