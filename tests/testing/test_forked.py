"""Programs that are forks of the agent, and machines that are forks of the starter, are as those after an exec."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from luod.errors import MachineError, ProgramFailed
from luod.testing import EmulatedMachine, Host, Machine
from luod.testing.interpreter import Interpreter, interpreter_for
from luod.testing.plugin import BootMachine
from luod.testing.starter import outside
from luod.testing.tools import cannot_run

SHOW = """
import json, os, signal, sys
print(json.dumps({
    "argv": sys.argv, "name": __name__, "path": [place for place in sys.path if "site-packages" not in place],
    "env": {name: value for name, value in os.environ.items() if name not in ("_", "LC_CTYPE")},
    "cwd": os.getcwd(), "uid": os.getuid(), "groups": os.getgroups(), "session": os.getsid(0) == os.getpid(),
    "signals": [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGCHLD)],
    "fds": sorted(int(name) for name in os.listdir("/proc/self/fd"))[:3], "open": len(os.listdir("/proc/self/fd")),
    "own": os.stat("/proc/self/fd").st_uid, "stdin": sys.stdin.read(), "main": sys.modules["__main__"].__name__,
    "buffered": not sys.stdout.line_buffering, "locals": sorted(name for name in globals() if name[:2] != "__"),
}))
"""


def both(machine: Machine, argv: list[str], *, user: int | None = None, env: dict[str, str] | None = None) -> list[str]:
    """Returns what the program prints as a fork, and after an exec."""
    runs = (machine.run(argv, user=user, env=env, stdin=b"a line\n", forked=forked) for forked in (True, False))
    return [run.text for run in runs]


def was_forked(machine: Machine, argv: list[str], **how: object) -> bool:
    """Returns whether a program that prints its command line is a fork."""
    source = "print(open('/proc/self/cmdline').read())"
    return "luod.testing.starter" in machine.run([*argv, "-c", source], forked=True, **how).text  # type: ignore[arg-type]


@pytest.mark.parametrize("user", [None, 1000])
def test_a_forked_program_is_like_one_after_an_exec(
    machine: Machine, machine_python: Interpreter, user: int | None
) -> None:
    if user is not None and os.geteuid() != 0:
        cannot_run("only root can map several uids into the machine")
    env = {**machine_python.environment, "ONE": "1", "PYTHONPATH": machine_python.environment["PYTHONPATH"] + ":/more"}
    words = [machine_python.executable, "-c", SHOW, "x", ""]
    forked, executed = map(json.loads, both(machine, words, user=user, env=env))
    assert forked == executed
    assert forked["stdin"] == "a line\n"


def test_a_forked_module_has_its_arguments_and_its_own_globals(machine: Machine, machine_python: Interpreter) -> None:
    forked, executed = both(machine, machine_python.module("luod.ctl.main", "--version"))
    assert forked == executed
    assert forked.startswith("luoctl ")


def test_only_this_python_with_its_settings_is_forked(machine: Machine, machine_python: Interpreter) -> None:
    assert was_forked(machine, [machine_python.executable])
    assert not was_forked(machine, [machine_python.executable], env={"PYTHONOPTIMIZE": "1"})
    assert not was_forked(machine, [machine_python.executable], env={"PYTHONPATH": "/elsewhere"})
    assert not was_forked(machine, [machine_python.executable, "-I"])


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("import sys; sys.exit(7)", 7),
        ("import sys; sys.exit('words')", 1),
        ("raise ValueError", 1),
        ("import os; os.kill(os.getpid(), 15)", -signal.SIGTERM),
        ("raise KeyboardInterrupt", -signal.SIGINT),
    ],
)
def test_its_end_is_that_of_a_program(machine: Machine, machine_python: Interpreter, source: str, status: int) -> None:
    for forked in (True, False):
        done = machine.run([machine_python.executable, "-c", source], forked=forked, check=False)
        assert done.returncode == status


def test_the_end_waits_for_threads_and_runs_exit_functions(machine: Machine, machine_python: Interpreter) -> None:
    source = (
        "import atexit, threading\natexit.register(print, 'last')\ngo = threading.Event()\n"
        "threading.Thread(target=lambda: (go.wait(), print('thread'))).start()\ngo.set()"
    )
    assert both(machine, [machine_python.executable, "-c", source]) == ["thread\nlast"] * 2


def test_a_uid_that_cannot_be_taken_is_an_error(boot_machine: BootMachine) -> None:
    if os.geteuid() != 0:
        cannot_run("only root can start a machine as another user")
    machine = boot_machine(user=1000)
    python = interpreter_for(1000) or cannot_run("uid 1000 has no Python that can import luod")
    for forked in (True, False):
        with pytest.raises(MachineError, match="not permitted"):
            machine.run([python.executable, "-c", "pass"], env=python.environment, user=1, forked=forked)


def test_the_programs_of_a_boot_are_not_seen_in_the_next(machine: Machine, tmp_path: Path) -> None:
    host = Host(machine, state_directory=tmp_path)
    host.start()
    host.load()
    host.update()
    assert machine.boot == 2
    with pytest.raises(ProgramFailed):
        host.luoctl("status")


def test_a_luod_that_does_not_start_is_told(machine: Machine, tmp_path: Path) -> None:
    host = Host(machine, state_directory=tmp_path)
    for forked in (True, False):
        host.forked = forked
        with pytest.raises(Exception, match="ended': 2"):
            host.start("--no-such-option")


def test_a_machine_boots_after_the_starter_was_killed(machine_python: Interpreter) -> None:
    starter = outside.starter_for(machine_python, {**os.environ, **machine_python.environment})
    with EmulatedMachine() as before:
        os.kill(starter.pid, signal.SIGKILL)
        with EmulatedMachine() as after:
            assert after.run(["echo", "one"]).text == "one"
        assert before.run(["echo", "two"]).text == "two"
