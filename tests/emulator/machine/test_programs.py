"""Every kind of program runs in a machine: the table of docs/luoemu.md, row by row.

`test_machine` has the rows of chroots. What a row needs of Debian is named when it is skipped.
"""

from __future__ import annotations

import errno
import os
import platform
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.emulator.machine.conftest import PROGRAMS, interpreter, without_notice

KINDS = PROGRAMS / "kinds"


def tool(name: str, package: str) -> str:
    """Returns the path of a program. These are large, so a missing one is a skip in CI, too."""
    return shutil.which(name) or pytest.skip(f"needs {name}, of the Debian package {package}")


def built(*command: str | Path, folder: Path) -> str:
    """Runs a compiler, which makes `folder`/program. Skips where it has no libraries for this kind of program."""
    program = folder / "program"
    home = {**os.environ, "GOCACHE": str(folder / "go"), "GOFLAGS": "-buildvcs=false"}
    done = subprocess.run([*command, "-o", program], capture_output=True, text=True, check=False, env=home)
    if done.returncode and ("cannot find" in done.stderr or "No such file" in done.stderr):
        pytest.skip(f"needs the libraries for {' '.join(map(str, command[:2]))}, of the Debian package gcc-multilib")
    assert done.returncode == 0, done.stderr
    return str(program)


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(run_machine: Callable[..., subprocess.CompletedProcess[str]]) -> Run:
    """Runs a command as init. Returns its status, its output, and what luoemu wrote to stderr."""

    def run(*command: str) -> tuple[int, str, str]:
        done = run_machine(command, timeout=100)
        return done.returncode, done.stdout, without_notice(done.stderr)

    return run


def test_c(run: Run, session: str) -> None:
    assert run(session) == (0, "a session\n", "")


def test_static_c(run: Run, tmp_path: Path) -> None:
    gcc = tool("gcc", "gcc")
    assert run(built(gcc, "-static", KINDS / "session.c", folder=tmp_path)) == (0, "a session\n", "")


def test_c_for_ia32(run: Run, tmp_path: Path) -> None:
    gcc = tool("gcc", "gcc")
    assert run(built(gcc, "-m32", "-static", KINDS / "session.c", folder=tmp_path)) == (0, "a session\n", "")


def test_c_with_musl(run: Run, tmp_path: Path) -> None:
    gcc = tool("musl-gcc", "musl-tools")
    assert run(built(gcc, "-static", KINDS / "session.c", folder=tmp_path)) == (0, "a session\n", "")


def test_go(run: Run, tmp_path: Path) -> None:
    go = tool("go", "golang-go")
    source = shutil.copy(KINDS / "session.go", tmp_path)
    program = tmp_path / "program"
    settings = {**os.environ, "CGO_ENABLED": "0", "GOCACHE": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    subprocess.run([go, "build", "-o", program, source], check=True, env=settings, cwd=tmp_path)
    assert run(str(program)) == (0, "a session\n", "")


def test_rust(run: Run, tmp_path: Path) -> None:
    rustc = tool("rustc", "rustc")
    assert run(built(rustc, KINDS / "session.rs", folder=tmp_path)) == (0, "a session\n", "")


def test_java(run: Run, tmp_path: Path) -> None:
    java = tool("java", "default-jre-headless")
    javac = tool("javac", "default-jdk-headless")
    quick = ["-J-XX:TieredStopAtLevel=1", "-J-XX:+UseSerialGC", "-proc:none"]
    subprocess.run([javac, *quick, "-d", tmp_path, KINDS / "Device.java"], check=True)
    assert run(java, "-cp", str(tmp_path), "Device") == (0, "the device\n", "")


def test_node(run: Run) -> None:
    node = tool("node", "nodejs")
    assert run(node, str(KINDS / "device.js")) == (0, "the device\n", "")


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Compiles a dynamic C program that makes a session."""
    return built(tool("gcc", "gcc"), KINDS / "session.c", folder=tmp_path_factory.mktemp("session"))


def test_x32_is_refused(run: Run, tmp_path: Path) -> None:
    """By the kernel of the host, or, where that has the ABI, call by call."""
    if platform.machine() != "x86_64":
        pytest.skip("x32 is an ABI of x86-64 only")
    program = tmp_path / "program"
    program.write_bytes(_x32_program())
    program.chmod(0o755)
    try:
        on_the_host = f"ended with {subprocess.run([program], check=False).returncode}\n"
    except OSError as error:
        on_the_host = f"{errno.errorcode[error.errno or 0]}\n"
    assert on_the_host in ("ENOEXEC\n", "ended with 1\n")

    start = """
import errno, subprocess, sys
try:
    print("ended with", subprocess.run(sys.argv[1:]).returncode)
except OSError as error:
    print(errno.errorcode[error.errno])
"""
    inside = run(interpreter(None).executable, "-c", start, str(program))

    expected = "ENOEXEC\n" if on_the_host == "ENOEXEC\n" else f"ended with {errno.ENOSYS}\n"
    assert inside == (0, expected, "")


def _x32_program() -> bytes:
    """Returns a program of the x32 ABI that ends with 1, or with ENOSYS where that call of exit is refused so."""
    code = b"\xbf\x01\x00\x00\x00\xb8\x3c\x00\x00\x40\x0f\x05"  # edi = 1; eax = exit, of x32; syscall
    code += b"\x89\xc7\xf7\xdf\xb8\x3c\x00\x00\x00\x0f\x05"  # edi = -eax; eax = exit; syscall
    address, size = 0x400000, 52 + 32 + len(code)
    identity = b"\x7fELF\x01\x01\x01" + bytes(9)  # 32 bits, little-endian
    entry = address + 52 + 32
    header = struct.pack("<16sHHIIIIIHHHHHH", identity, 2, 62, 1, entry, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    segment = struct.pack("<8I", 1, 0, address, address, size, size, 5, 4096)
    return header + segment + code


@pytest.mark.parametrize("child", [False, True], ids=["as init", "as a child"])
def test_strace(run: Run, tmp_path: Path, session: str, child: bool) -> None:
    strace = tool("strace", "strace")
    trace = tmp_path / "trace"
    command = [strace, "-f", "-o", str(trace), "sh", "-c", f"{session}; true"]
    assert run(*(["sh", "-c", '"$@"; true', "sh"] if child else []), *command) == (0, "a session\n", "")
    assert "_IOC(_IOC_NONE, 0xba, 0, 0)" in trace.read_text()


@pytest.mark.parametrize("child", [False, True], ids=["as init", "as a child"])
def test_gdb(run: Run, session: str, child: bool) -> None:
    gdb = tool("gdb", "gdb")
    command = [gdb, "-nx", "-batch", "-ex", "catch syscall ioctl", "-ex", "run", "-ex", "delete", "-ex", "continue"]
    status, output, _ = run(*(["sh", "-c", '"$@"; true', "sh"] if child else []), *command, session)
    assert status == 0
    assert "Catchpoint 1 (call to syscall ioctl)" in output
    assert "a session\n" in output
    assert "exited normally" in output


def test_a_program_that_has_a_listener_of_its_own_is_told(run: Run, tmp_path: Path) -> None:
    """Such as a machine in a machine, or a container engine that uses seccomp's notifications."""
    python = interpreter(None)
    inner = python.module("luod.emulator.machine", "run", "true")
    status, _, errors = run(*inner)
    assert status == 125
    assert "nest" in errors or "listener" in errors
