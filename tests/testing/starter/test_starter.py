"""The process that forks machines: what it gives them, and what becomes of them when it is killed, hangs or fails."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from luod.daemon import later
from luod.errors import MachineError
from luod.linux import Fd, has_ended
from luod.testing import EmulatedMachine, Machine
from luod.testing.interpreter import Interpreter
from luod.testing.preload import Suite
from luod.testing.starter import outside
from luod.testing.starter.outside import Order, Started, Starter
from tests.daemon.test_path import LUOD


@pytest.fixture
def starter(machine_python: Interpreter) -> Starter:
    """Returns the starter of the next machine. It runs."""
    environment = {**os.environ, **machine_python.environment}
    found = outside.starter_for(machine_python, environment)
    ended = found._process.poll() is not None  # by a test before
    return outside.starter_for(machine_python, environment, instead_of=found) if ended else found


def test_a_machine_boots_after_the_starter_was_killed(starter: Starter) -> None:
    with EmulatedMachine() as before:
        os.kill(starter.pid, signal.SIGKILL)
        with EmulatedMachine() as after:
            assert after.run(["echo", "one"]).text == "one"
        assert before.run(["echo", "two"]).text == "two"


def test_a_machine_whose_starter_was_killed_runs_until_it_ends_or_is_killed(starter: Starter) -> None:
    with EmulatedMachine() as machine:
        os.kill(starter.pid, signal.SIGKILL)
        os.waitid(os.P_PID, starter.pid, os.WEXITED | os.WNOWAIT)

        assert machine.returncode is None
        with pytest.raises(subprocess.TimeoutExpired):
            machine._process.wait(0.01)
        machine._process.kill()

        assert machine._process.wait(10) == -signal.SIGKILL


def test_a_luoemu_whose_pid_the_test_cannot_have_does_nothing(
    starter: Starter, machine_python: Interpreter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test asks another starter then: there would be two on one channel."""

    def gone(control: socket.socket, suite: Suite) -> Started:
        control.close()
        raise outside.StarterEnded

    monkeypatch.setattr(outside, "Started", gone)
    monkeypatch.setattr(outside, "_CLOSING_SECONDS", 0.1)
    os.kill(starter.pid, signal.SIGSTOP)
    ours, theirs = socket.socketpair()
    with ours, tempfile.TemporaryFile() as log:
        environment = {**os.environ, **machine_python.environment}
        with theirs, pytest.raises(outside.StarterEnded):
            starter.start(Order([], [], environment, log.fileno(), log.fileno(), channel=theirs.fileno()))
        os.kill(starter.pid, signal.SIGCONT)
        ours.settimeout(30)

        assert ours.recv(1) == b""
        assert os.fstat(log.fileno()).st_size == 0


def test_another_starter_is_asked_when_one_has_no_fd_left(starter: Starter) -> None:
    with EmulatedMachine():  # its imports are done
        used = len(os.listdir(f"/proc/{starter.pid}/fd"))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.prlimit(starter.pid, resource.RLIMIT_NOFILE, (used, hard))

    with EmulatedMachine() as machine:
        assert machine.run(["echo", "one"]).text == "one"
    assert starter._process.returncode == 1


def test_a_starter_that_hangs_fails_the_boot_and_is_killed_when_it_is_closed(
    starter: Starter, monkeypatch: pytest.MonkeyPatch, machine_python: Interpreter
) -> None:
    monkeypatch.setattr(outside, "_SECONDS", 0.1)
    monkeypatch.setattr(outside, "_CLOSING_SECONDS", 0.1)
    os.kill(starter.pid, signal.SIGSTOP)

    with pytest.raises(MachineError, match="started none within 0 s"):
        EmulatedMachine()
    another = outside.starter_for(machine_python, {**os.environ, **machine_python.environment}, instead_of=starter)

    assert starter._process.returncode == -signal.SIGKILL
    assert another.pid != starter.pid


def test_a_starter_ends_although_a_child_of_this_process_has_its_socket(
    starter: Starter, machine_python: Interpreter
) -> None:
    begin, go = os.pipe()
    if (child := os.fork()) == 0:
        os.close(go)
        os.read(begin, 1)
        os._exit(0)
    os.close(begin)
    try:
        outside.starter_for(machine_python, {**os.environ, **machine_python.environment}, instead_of=starter)
        assert starter._process.returncode == 0
    finally:
        os.close(go)
        os.waitpid(child, 0)


def test_a_starter_that_was_closed_is_not_used_when_no_other_can_be_started(
    starter: Starter, machine_python: Interpreter, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {**os.environ, **machine_python.environment}
    with monkeypatch.context() as patched:
        patched.setattr(Interpreter, "module", lambda self, *words: ["/nowhere/python"])
        with pytest.raises(FileNotFoundError):
            outside.starter_for(machine_python, environment, instead_of=starter)

    with EmulatedMachine() as machine:
        assert machine.run(["echo", "one"]).text == "one"


def test_a_starter_that_is_closed_stays_for_the_machines_that_run(
    starter: Starter, machine_python: Interpreter
) -> None:
    with EmulatedMachine() as machine:
        outside.starter_for(machine_python, {**os.environ, **machine_python.environment}, instead_of=starter)
        assert machine.run(["echo", "on"]).text == "on"
        assert starter._process.returncode is None

    assert machine.returncode == 0
    assert starter._process.wait(30) == 0


def test_a_machine_ends_with_a_test_that_is_killed_whatever_its_init_is() -> None:
    source = """
import os, sys, time
from luod.testing.interpreter import interpreter_for
from luod.testing.starter.outside import Order, start, starter_for
python = interpreter_for()
environment = {**os.environ, **python.environment}
with open(os.devnull, "w") as null:
    started = start(python, Order([], ["sleep", "1000"], environment, null.fileno(), null.fileno()))
print(started.pid, starter_for(python, environment).pid, flush=True)
sys.stdin.read()
"""
    test = subprocess.Popen([sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with test:
        assert test.stdout is not None
        pidfds = [Fd(os.pidfd_open(int(pid))) for pid in test.stdout.readline().split()]
        test.kill()
    ended = [has_ended(pidfd, within=30) for pidfd in pidfds]
    for pidfd in pidfds:
        pidfd.close()

    assert ended == [True, True]


def test_it_keeps_no_output_of_the_test_open(starter: Starter) -> None:
    assert os.readlink(f"/proc/{starter.pid}/fd/1") == os.devnull


def test_a_machine_has_the_umask_and_the_limits_of_the_test_at_its_boot() -> None:
    """Also hard limits, which no process can raise again without CAP_SYS_RESOURCE."""
    source = """
import json, os, resource, sys
from luod.testing import EmulatedMachine
show = "import os, resource; print(oct(os.umask(0)), resource.getrlimit(resource.RLIMIT_CORE))"
for umask, limit in ((0o22, (4096, 8192)), (0o77, (0, 4096)), (0o22, (4096, 4096))):
    os.umask(umask)
    resource.setrlimit(resource.RLIMIT_CORE, limit)
    with EmulatedMachine() as machine:
        print(machine.run([sys.executable, "-c", show]).text)
"""
    printed = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True, timeout=50)
    assert printed.stdout.splitlines() == ["0o22 (4096, 8192)", "0o77 (0, 4096)", "0o22 (4096, 4096)"]


@pytest.mark.parametrize(
    ("module", "status"), [("luod.no_such_module", 1), ("json.no_such_module", 0), ("no_such_package", 0)]
)
def test_only_modules_of_other_packages_may_be_missing(machine_python: Interpreter, module: str, status: int) -> None:
    ended, said = imported(machine_python, module)
    assert ended == status
    assert ("ModuleNotFoundError" in said) == bool(status)


def imported(python: Interpreter, modules: str, **environment: str) -> tuple[int, str]:
    """Returns the status and the stderr of a starter that imports the modules, and whose connection is closed."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.shutdown(socket.SHUT_WR)
        ran = subprocess.run(
            python.module("luod.testing.starter", str(theirs.fileno()), modules),
            env={**os.environ, **python.environment, **environment},
            pass_fds=[theirs.fileno()],
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=30,
        )
    return ran.returncode, ran.stderr


@pytest.mark.parametrize(
    "source", ["1 / 0", "raise ImportError('needs another')", "not python", "raise SystemExit", "open('/no/such/file')"]
)
def test_a_package_that_does_not_work_is_left_to_the_programs_that_need_it(
    machine_python: Interpreter, tmp_path: Path, source: str
) -> None:
    (tmp_path / "rich").mkdir()
    (tmp_path / "rich" / "__init__.py").write_text(source)
    path = os.pathsep.join([machine_python.environment["PYTHONPATH"], str(tmp_path)])

    assert imported(machine_python, "rich luod.ctl.progress", PYTHONPATH=path) == (0, "")


def test_a_module_of_luod_that_does_not_work_ends_it(machine_python: Interpreter, tmp_path: Path) -> None:
    source = Path(machine_python.environment["PYTHONPATH"]) / "luod"
    (tmp_path / "luod").mkdir()
    for path in source.iterdir():
        (tmp_path / "luod" / path.name).symlink_to(path)
    for name, text in (("fails", "1 / 0"), ("no_python", "not python"), ("lacks", "from luod.errors import Nothing")):
        (tmp_path / "luod" / f"{name}.py").write_text(text)

        status, said = imported(machine_python, f"luod.{name}", PYTHONPATH=str(tmp_path))

        assert status == 1
        assert "Error" in said.splitlines()[-1]


def test_a_program_finds_the_modules_on_the_path_of_luods_start_imported(
    machine: Machine, machine_python: Interpreter
) -> None:
    argv = [machine_python.executable, "-c", "import sys; print(*sys.modules)"]
    imported = machine.run(argv, env=machine_python.environment, forked=True).text.split()

    assert sorted({*LUOD.split(), *later.MODULES, *later.FURTHER} - set(imported)) == []


def test_a_luoemu_has_the_directory_the_streams_and_the_command_that_it_is_started_with(
    machine_python: Interpreter, tmp_path: Path
) -> None:
    source = "import os, sys; print(os.getcwd(), sys.argv, sys.stdin.read()); print('said', file=sys.stderr)"
    environment = {**os.environ, **machine_python.environment}
    command = [machine_python.executable, "-c", source, "one"]
    with (
        (tmp_path / "in").open("w+") as stdin,
        (tmp_path / "out").open("w+") as out,
        (tmp_path / "err").open("w+") as err,
    ):
        print("line", file=stdin, flush=True)
        stdin.seek(0)
        order = Order([], command, environment, out.fileno(), err.fileno(), stdin.fileno(), directory=str(tmp_path))
        status = outside.start(machine_python, order).wait(30)

    assert status == 0
    assert (tmp_path / "out").read_text() == f"{tmp_path} ['-c', 'one'] line\n\n"
    assert (tmp_path / "err").read_text().splitlines()[-1] == "said"


@pytest.mark.parametrize(("executed", "is_fork"), [(False, True), (True, False)])
def test_an_init_is_a_fork_if_it_is_a_program_of_this_python(
    machine_python: Interpreter, tmp_path: Path, executed: bool, is_fork: bool
) -> None:
    command = [machine_python.executable, "-c", "print(open('/proc/self/cmdline').read())"]
    command = ["env", *command] if executed else command
    environment = {**os.environ, **machine_python.environment}
    with (tmp_path / "out").open("w+") as out:
        order = Order([], command, environment, out.fileno(), out.fileno())
        assert outside.start(machine_python, order).wait(30) == 0

    assert ("luod.testing.starter" in (tmp_path / "out").read_text()) is is_fork


def test_a_program_finds_modules_in_a_longer_search_path_and_needs_no_other_starter(
    starter: Starter, machine_python: Interpreter, tmp_path: Path
) -> None:
    (tmp_path / "only_here.py").write_text("print('found')")
    path = os.pathsep.join([machine_python.environment["PYTHONPATH"], str(tmp_path)])
    environment = {**os.environ, **machine_python.environment, "PYTHONPATH": path}
    with (tmp_path / "out").open("w+") as out:
        command = [machine_python.executable, "-c", "import only_here"]
        order = Order([], command, environment, out.fileno(), out.fileno())
        assert outside.start(machine_python, order).wait(30) == 0

    assert (tmp_path / "out").read_text() == "found\n"
    assert outside.starter_for(machine_python, environment) is starter
