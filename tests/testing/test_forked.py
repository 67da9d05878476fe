"""Programs that are forks of the agent, and machines that are forks of the starter, are as those after an exec."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

from luod.errors import MachineError, ProgramFailed
from luod.testing import EmulatedMachine, Host, Machine
from luod.testing.interpreter import Interpreter, interpreter_for
from luod.testing.plugin import BootMachine
from luod.testing.starter.outside import Order, start
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
    "status": [line for line in open("/proc/self/status") if line.split(":")[0] in (
        "Uid", "Gid", "Umask", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "SigBlk",
        "SigIgn", "SigCgt", "Threads", "Cpus_allowed")], "limits": open("/proc/self/limits").read(),
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
    for name in ("LD_BIND_NOW", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES"):
        assert not was_forked(machine, [machine_python.executable], env={name: "1"})
    assert not was_forked(machine, [machine_python.executable, "-I"])


def test_a_program_has_the_search_path_of_its_own_with_safe_paths_too(machine_python: Interpreter) -> None:
    with EmulatedMachine(env={"PYTHONSAFEPATH": "1"}) as machine:
        forked, executed = map(json.loads, both(machine, [machine_python.executable, "-c", SHOW]))
    assert forked["path"] == executed["path"]


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


@pytest.mark.parametrize(
    ("source", "status", "output"),
    [
        # A compiler inherits the __future__ statements of its caller's module.
        ("def f(x: int): pass\nprint(f.__annotations__)", 0, "{'x': <class 'int'>}"),
        ("import atexit\natexit.register(print, 'last')\nprint('out')\nraise KeyboardInterrupt", -2, "out\nlast"),
        ("import sys\nprint('out', flush=True)\nsys.stdout.close()", 0, "out"),
        (
            "from concurrent import futures\npool = futures.ThreadPoolExecutor()\npool.submit(print, 'in a thread')",
            0,
            "in a thread",
        ),
        ("import os\nfile = open(os.dup(1), 'w')\nfile.write('not closed')\nfile.loop = file", 0, "not closed"),
        ("import os\nfile = open(os.dup(1), 'wb')\nfile.write(b'not closed')", 0, "not closed"),
        ("import io, sys\nprint('before')\nsys.stdout = io.StringIO()\nprint('after')", 0, "before"),
        ("import sys\nprint('out')\nsys.stdout.flush()\nsys.stdout = object()", 120, "out"),
        (
            "import sys\nsys.excepthook = lambda kind, error, trace: print(kind.__name__, trace.tb_lineno)\n1 / 0",
            1,
            "ZeroDivisionError 3",
        ),
        (
            "import sys\nsys.excepthook = lambda *error: print('interrupted')\nraise KeyboardInterrupt",
            -2,
            "interrupted",
        ),
    ],
)
def test_its_output_at_its_end_is_that_of_a_program(
    machine: Machine, machine_python: Interpreter, source: str, status: int, output: str
) -> None:
    for forked in (True, False):
        done = machine.run([machine_python.executable, "-c", source], forked=forked, check=False, timeout=20)
        assert (done.returncode, done.text) == (status, output)


@pytest.mark.parametrize("end", ["1 / 0", "raise KeyboardInterrupt", "exec('one two')"])
def test_its_last_words_are_about_its_own_code(machine: Machine, machine_python: Interpreter, end: str) -> None:
    source = f"def inner():\n    {end}\n\ninner()\n"
    said = [
        machine.run([machine_python.executable, "-c", source], forked=forked, check=False).stderr.decode()
        for forked in (True, False)
    ]
    # Newer Pythons show the source, too, after an exec.
    forked, executed = ([line for line in text.splitlines() if re.match(r'\S|  File "', line)] for text in said)
    assert forked == executed
    assert "inner" in said[0]


def test_a_hook_that_fails_hides_no_error(machine: Machine, machine_python: Interpreter) -> None:
    source = "import sys\nsys.excepthook = lambda *error: {}['hook']\nraise ValueError('the first')"
    for forked in (True, False):
        said = machine.run([machine_python.executable, "-c", source], forked=forked, check=False).stderr.decode()
        assert "Error in sys.excepthook:" in said
        assert "KeyError: 'hook'" in said
        assert said.splitlines()[-1] == "ValueError: the first"


def test_an_init_that_a_keyboard_interrupt_ends_has_the_status_of_one(
    machine_python: Interpreter, tmp_path: Path
) -> None:
    environment = {**os.environ, **machine_python.environment}
    program = [machine_python.executable, "-c", "raise KeyboardInterrupt"]
    with (tmp_path / "out").open("w+") as out:
        orders = [Order([], [*before, *program], environment, out.fileno(), out.fileno()) for before in ([], ["env"])]
        statuses = [start(machine_python, order).wait(30) for order in orders]

    assert statuses == [130, 130]


def test_a_group_is_taken_without_a_user(machine: Machine, machine_python: Interpreter) -> None:
    if os.geteuid() != 0:
        cannot_run("only root can map several gids into the machine")
    source = "import os; print(os.getresgid(), os.getresuid(), os.stat('/proc/self/fd').st_gid)"
    runs = [
        machine.run([machine_python.executable, "-c", source], group=12, forked=forked).text for forked in (True, False)
    ]
    assert runs == ["(12, 12, 12) (0, 0, 0) 12"] * 2


@pytest.mark.parametrize("number", [-1, 2**32 - 1, 2**64])
def test_a_number_that_is_no_uid_is_refused(machine: Machine, machine_python: Interpreter, number: int) -> None:
    for forked in (True, False):
        with pytest.raises(MachineError, match=f"BadRequest: .*user: {number} is not between 0 and 4294967294"):
            machine.run([machine_python.executable, "-c", "pass"], user=number, forked=forked)
    assert machine.run(["echo", "on"]).text == "on"


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
