"""Runs real programs as inits of real machines: `luoemu` in a process of its own, as a user starts it or as a fork."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pytest

from luod.emulator.machine import devices
from luod.testing.emulated import may_make_namespaces
from luod.testing.interpreter import Interpreter, interpreter_for
from luod.testing.tools import cannot_run, for_root, require_tool
from tests.emulator.machine import forks

ROOT = Path(__file__).parents[3]
PROGRAMS = ROOT / "tests" / "programs"
PLAIN_USER = 1000

WAYS = ["fuse", "trap"]
"""The ways in which /dev/liveupdate is opened."""


def interpreter(user: int | None) -> Interpreter:
    found = interpreter_for(user)
    if found is None:
        cannot_run(f"no Python that uid {user} can run luod with")
    return found


@functools.cache
def _has_namespaces(user: int) -> bool:
    return may_make_namespaces(interpreter(user), user)


def require_namespaces(user: int | None) -> None:
    """Skips the test unless uid `user` can start a machine here."""
    if user is not None and not _has_namespaces(user):
        cannot_run(f"uid {user} gets no user namespaces, such as in a chroot")


def luoemu(*options: str, user: int | None = None) -> list[str]:
    """Returns the argv of `luoemu run OPTIONS --`."""
    return interpreter(user).module("luod.emulator.machine", "run", *options, "--")


def options_for(way: str) -> list[str]:
    return ["--trap-opens"] if way == "trap" else []


def environment(user: int | None = None) -> dict[str, str]:
    found = interpreter(user)
    settings = found.environment
    path = os.pathsep.join([settings["PYTHONPATH"], str(found.readable(PROGRAMS))])
    return {**os.environ, **settings, "PYTHONPATH": path}


def python(source: str, user: int | None = None) -> list[str]:
    """Returns the argv of a Python program that can use all names of tests/programs/raw.py."""
    prelude = (
        "import os, sys, errno, fcntl, mmap, signal, socket, struct, threading, time\nfrom raw import *\nimport raw\n"
    )
    return [interpreter(user).executable, "-c", prelude + textwrap.dedent(source)]


def steps(source: str, *options: str, lines: Iterable[object]) -> Iterator[int]:
    """Runs a machine whose program writes these lines and reads one after each. Yields luoemu's pid after each."""
    reader, writer = os.pipe()
    with open(reader) as stdin, open(writer, "w", buffering=1) as answers:
        words = (interpreter(None), options, python(source), environment())
        with forks.started(*words, stdin=stdin.fileno(), stderr=sys.stderr.fileno()) as machine:
            for line in lines:
                assert machine.stdout.readline() == f"{line}\n"
                yield machine.process.pid
                answers.write("go on\n")
            assert machine.process.wait(30) == 0


@pytest.fixture
def run_machine() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs COMMAND, a list or the source of a Python program, as init until the machine ends.

    `forked` False: luoemu and init are started by an exec each.
    """

    def run(
        command: Sequence[str] | str,
        *options: str,
        user: int | None = None,
        forked: bool = True,
        env: Mapping[str, str] | None = None,
        cwd: str | Path = "/",
        stdin: IO[str] | None = None,
        timeout: float = 60,
        errors: str = "strict",
    ) -> subprocess.CompletedProcess[str]:
        if os.geteuid() != 0 and user is not None:
            for_root("to start a machine as another user")
        require_namespaces(user)
        argv = python(command, user) if isinstance(command, str) else list(command)
        env = environment(user) if env is None else env
        if forked:
            fd = None if stdin is None else stdin.fileno()
            words = (interpreter(user), options, argv, env)
            with forks.started(*words, directory=cwd, stdin=fd, errors=errors) as machine:
                return forks.finished(machine, argv, timeout)
        return subprocess.run(
            [*luoemu(*options, user=user), *argv],
            stdin=stdin or subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            errors=errors,
            env=env,
            cwd=cwd,
            timeout=timeout,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )

    return run


DEVICE = ("--vfio", "0000:01:00.0")

RunDevices = Callable[..., str]


def without_notice(stderr: str) -> str:
    """Returns what luoemu wrote to standard error, without the line that it works without FUSE."""
    return re.sub(r"^luoemu: no FUSE node.*\n", "", stderr)


@pytest.fixture
def devices_work() -> None:
    """Skips tests of devices where this uid cannot use FUSE."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        cannot_run("no /dev/fuse that this uid may use, and devices need it: modprobe fuse, as root")


@pytest.fixture
def run_devices(run_machine: Callable[..., subprocess.CompletedProcess[str]], devices_work: None) -> RunDevices:
    """Runs the source of a program that has tests/programs/raw_vfio.py. Returns its output; it must succeed.

    The machine has one device unless options say otherwise.
    """

    def run(source: str, *options: str, **changes: Any) -> str:
        program = "from raw_vfio import *\n" + textwrap.dedent(source)
        done = run_machine(program, *(options or DEVICE), **changes)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def mapping() -> None:
    """Skips tests that map a BAR where this host cannot map one."""
    if not devices.can_map():
        cannot_run("BARs are mapped only as root of the host, by Linux 6.9 or newer")


def as_plain_user(*command: str) -> list[str]:
    """Returns `command` to run as uid 1000 with a copy of /dev/fuse that all users may open, as in distributions."""
    for_root("to open /dev/fuse to a plain user")
    require_namespaces(PLAIN_USER)
    if not Path("/dev/fuse").exists():
        cannot_run("there is no /dev/fuse: modprobe fuse")
    return interpreter(None).script(PROGRAMS / "open_fuse.py", *command)


@pytest.fixture(scope="session")
def c_compiler() -> str:
    return require_tool("gcc", package="gcc")


CompileC = Callable[[str], str]


@pytest.fixture(scope="session")
def compile_c(tmp_path_factory: pytest.TempPathFactory, c_compiler: str) -> CompileC:
    """Compiles the text of a C program statically. Returns the program's path."""

    @functools.cache
    def compile_c(text: str) -> str:
        folder = tmp_path_factory.mktemp("compiled")
        source, program = folder / "program.c", folder / "program"
        source.write_text(text)
        subprocess.run([c_compiler, "-O1", "-static", "-o", program, source], check=True)
        return str(program)

    return compile_c


def compiled(compiler: str, name: str) -> Iterator[str]:
    """Compiles tests/programs/NAME.c statically, in a directory of all users: pytest's are private. Yields its path."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        program = Path(directory, name)
        options = ["-static", "-Wall", "-Wextra", "-Werror", "-O1"]
        subprocess.run([compiler, *options, "-o", program, PROGRAMS / f"{name}.c"], check=True)
        yield str(program)


@pytest.fixture(scope="session")
def cycle(c_compiler: str) -> Iterator[str]:
    """Yields a program that preserves a memfd over a kexec."""
    yield from compiled(c_compiler, "cycle")


@pytest.fixture(scope="session")
def vmm(c_compiler: str) -> Iterator[str]:
    """Yields a program that preserves a device, and memory that the device reaches, over a kexec."""
    yield from compiled(c_compiler, "vmm")
