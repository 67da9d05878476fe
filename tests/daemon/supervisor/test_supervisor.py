"""`luod` by itself: what it refuses, what it holds, what it passes on. No machine but where one is named."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from luod.daemon.log import Log
from luod.daemon.supervisor import init_store
from luod.daemon.supervisor.custody import Custody
from luod.daemon.supervisor.init_store import InitStore
from luod.daemon.supervisor.sockets import Listening
from luod.daemon.supervisor.supervisor import Supervisor
from luod.linux import Fd
from luod.testing import Machine, eventually
from luod.testing.tools import for_root
from luod.version import __version__
from tests.daemon.host import Luod, states
from tests.daemon.supervisor.pid_1 import Pid1, close

SUPERVISOR = [sys.executable, "-m", "luod.daemon.main"]

_CAP_SYS_RESOURCE = 24

IDLE = ["/bin/sh", "-c", "exec cat <&3"]
"""A serve that does nothing, and ends with the supervisor: until the channel is at its end."""
DEAF = [
    sys.executable,
    "-c",
    "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); open(3).read()",
]
"""One that does not end when asked to."""

_UNDYING = """
import sys
from pathlib import Path
from tests.programs.foreign import silent_file
place = Path(sys.argv[1])
if not place.exists():
    place.mkdir()
    print(silent_file(Path("/dev/fuse"), place)[1], flush=True)
print("waits", flush=True)
open(3).read()
"""
UNDYING = [sys.executable, "-c", _UNDYING]
"""One that cannot be killed, since it would have to close a file that cannot be closed, until the process ends whose
pid it prints. The second one only waits.
"""

Start = Callable[..., "subprocess.Popen[str]"]


SUPERVISE = """
import fcntl, os, sys
from luod.daemon.log import Log
from luod.daemon.supervisor.sockets import Listening
from luod.daemon.supervisor.supervisor import Supervisor

def become(given):
    sockets = (given.channel, given.sessions, given.admin)
    copies = [fcntl.fcntl(each.fileno(), fcntl.F_DUPFD_CLOEXEC, 10) for each in sockets]
    for number, copy in enumerate(copies, 3):
        os.dup2(copy, number)
    os.execv(sys.argv[4], sys.argv[4:])

log = Log("supervisor", "debug")
with Listening(*sys.argv[1:4], log) as listening:
    Supervisor(listening, become, log).run()
"""
"""Runs a Supervisor with the sockets and the state directory of its first arguments. The others are the program that
its serve becomes, with the channel and the listening sockets from fd 3 on.
"""


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    """Returns the sockets and the state directory of the test's own supervisor."""
    return {
        "socket": str(tmp_path / "run" / "luod.sock"),
        "admin-socket": str(tmp_path / "run" / "admin.sock"),
        "state-directory": str(tmp_path / "state"),
    }


@pytest.fixture
def start(places: dict[str, str]) -> Iterator[Start]:
    """Runs a Supervisor whose serve is another program: `start(program, argument, …)`. No device is needed for that."""
    started: list[subprocess.Popen[str]] = []

    def run(*serve: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISE, *places.values(), *serve],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def options(places: dict[str, str]) -> list[str]:
    return [word for name, value in places.items() for word in (f"--{name}", value)]


def lines_with(process: subprocess.Popen[str], word: str, count: int) -> list[str]:
    """Returns the first `count` lines of its log that have `word`."""
    assert process.stderr is not None
    found: list[str] = []
    while len(found) < count:
        line = process.stderr.readline()
        assert line, "its log ended"
        if word in line:
            found.append(line)
    return found


@pytest.fixture
def pid_1(tmp_path: Path) -> Iterator[Pid1]:
    with Pid1(tmp_path, 3) as pid_1:
        yield pid_1


@pytest.fixture
def supervisor(places: dict[str, str], pid_1: Pid1) -> Iterator[Supervisor]:
    """Yields a supervisor that does not run yet, with copies in PID 1's store."""
    log = Log("supervisor", "error")
    with Listening(places["socket"], places["admin-socket"], places["state-directory"], log) as listening:
        custody = Custody(InitStore(pid_1.manager, 3, "11111111"), log)
        supervisor = Supervisor(listening, lambda given: 0, log, manager=pid_1.manager, custody=custody)
        supervisor._start_at = time.monotonic() + 3600
        yield supervisor


def turn(supervisor: Supervisor, *signals: int) -> None:
    """Makes one turn in which these signals arrive."""
    awake, wake = socket.socketpair()
    with awake, wake:
        wake.send(bytes((*signals, 0)))
        supervisor._turn(awake)


def test_a_pid_1_that_was_stuck_has_every_file_soon_after(
    supervisor: Supervisor, pid_1: Pid1, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(init_store, "TOTAL_SECONDS", 0.05)
    pid_1.stop()
    supervisor.custody.keep("outgoing.vm", Fd(os.memfd_create("session")))
    supervisor.custody.settle()
    assert supervisor.custody.copies.missing == 1
    pid_1.go_on()

    def complete() -> bool:
        turn(supervisor)
        return supervisor.custody.copies.complete

    eventually(complete, describe="PID 1 has every file")
    assert close(pid_1.given()) == {"11111111.outgoing.vm"}
    supervisor.custody.forget("outgoing.vm")


def test_a_reload_that_is_requested_while_no_serve_runs_is_reported(supervisor: Supervisor, pid_1: Pid1) -> None:
    """The next serve reads the policy, and reports the end. Without a beginning PID 1 would wait for one."""
    turn(supervisor, signal.SIGHUP)

    pid_1.given()
    assert [words for words in pid_1.others if "RELOADING" in words]


@pytest.mark.skipif(Path("/dev/liveupdate").exists(), reason="this host has live update")
def test_without_the_device_it_says_so_in_one_sentence(places: dict[str, str]) -> None:
    ended = subprocess.run([*SUPERVISOR, *options(places)], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert re.fullmatch(r"luod: open /dev/liveupdate: .+\nhint: .*luoemu run.*\n", ended.stderr)
    assert not Path(places["socket"]).exists()


def test_the_supervisor_has_one_thread_and_its_name_and_serve_has_another_name(luod: Luod) -> None:
    """A fork copies one thread only."""
    luod.vmm().call("create", name="vm", slot="s")
    assert len(luod.machine.run(["ls", f"/proc/{luod.supervisor_pid}/task"]).text.split()) == 1
    assert luod.machine.read(f"/proc/{luod.serve_pid()}/comm") == b"luod-serve\n"
    assert luod.machine.read(f"/proc/{luod.supervisor_pid}/comm") != b"luod-serve\n"


def test_a_serve_that_dies_at_once_is_started_again_later_and_later(start: Start) -> None:
    supervisor = start("/bin/false")
    pauses = [float(line.rpartition("again_in=")[2]) for line in lines_with(supervisor, "serve-ended", 3)]
    assert pauses[0] < pauses[1] < pauses[2]


def test_the_first_line_of_the_log_says_which_luod_it_is(start: Start) -> None:
    supervisor = start(*IDLE)
    assert supervisor.stderr is not None
    line = supervisor.stderr.readline()
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert f" started version={__version__} supervisor={supervisor.pid} serve=" in line
    assert line.endswith(f" boot_id={boot_id}\n")


def test_a_host_without_room_for_serve_does_not_end_the_supervisor(start: Start) -> None:
    """It would end every session that only the supervisor holds."""
    supervisor = start(*IDLE)
    (started,) = lines_with(supervisor, "serve-started", 1)
    limits = resource.prlimit(supervisor.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(supervisor.pid, resource.RLIMIT_NOFILE, (4, limits[1]))
    os.kill(int(started.rpartition("pid=")[2].split()[0]), signal.SIGKILL)
    lines_with(supervisor, "serve-not-started", 2)
    resource.prlimit(supervisor.pid, resource.RLIMIT_NOFILE, limits)
    lines_with(supervisor, "serve-started", 1)


def test_a_serve_that_cannot_be_killed_is_left_and_another_started(start: Start, tmp_path: Path) -> None:
    for_root("to mount FUSE in a process that the supervisor starts")
    supervisor = start(*UNDYING, str(tmp_path / "place"), environment={"PYTHONPATH": str(Path(__file__).parents[3])})
    (started,) = lines_with(supervisor, "serve-started", 1)
    undying = int(started.rpartition("pid=")[2].split()[0])
    assert supervisor.stdout is not None
    server = int(supervisor.stdout.readline())
    try:
        assert supervisor.stdout.readline() == "waits\n"
        os.kill(undying, signal.SIGKILL)
        lines_with(supervisor, "serve-does-not-end", 1)
        lines_with(supervisor, "serve-started", 1)
        assert supervisor.stdout.readline() == "waits\n"
        assert Path(f"/proc/{undying}").exists()
        # Nor does it keep the next luod from its place.
        supervisor.kill()
        supervisor.wait()
        again = start(*IDLE)
        lines_with(again, "serve-started", 1)
    finally:
        os.kill(server, signal.SIGKILL)


def test_serve_has_what_it_is_given_and_nothing_else_of_the_supervisor(places: dict[str, str]) -> None:
    source = (
        "import os, signal, sys\n"
        "from luod.daemon.log import Log\n"
        "from luod.daemon.supervisor.sockets import Listening\n"
        "from luod.daemon.supervisor.supervisor import Supervisor\n"
        "def serve(given):\n"
        "    numbers = sorted(each.fileno() for each in (given.channel, given.sessions, given.admin))\n"
        "    opened = [int(n) for n in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{n}')]\n"
        "    print(sorted(opened) == [0, 1, 2, *numbers], 'NOTIFY_SOCKET' in os.environ)\n"
        "    print(*(signal.getsignal(n).name for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)), flush=True)\n"
        "    os.kill(os.getppid(), signal.SIGTERM)\n"
        "log = Log('supervisor', 'error')\n"
        "with Listening(*sys.argv[1:], log) as listening: Supervisor(listening, serve, log).run()"
    )
    environment = {**os.environ, "NOTIFY_SOCKET": "/nowhere"}
    words = [sys.executable, "-c", source, *places.values()]
    done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.splitlines()[:2] == ["True False", "SIG_DFL SIG_DFL SIG_IGN"]


def test_the_next_serve_has_what_serve_imports_later(places: dict[str, str], tmp_path: Path) -> None:
    """It needs no disk for that, and is of the version that runs."""
    (tmp_path / "module_of_serve.py").write_text("print('imported', flush=True)")
    source = (
        "import sys\n"
        "from luod.daemon.log import Log\n"
        "from luod.daemon.supervisor.sockets import Listening\n"
        "from luod.daemon.supervisor.supervisor import Supervisor\n"
        "from luod.ipc import framing\n"
        "def serve(given):\n"
        "    print('module_of_serve' in sys.modules, flush=True)\n"
        "    framing.send(given.channel, b'READY=1', ())\n"
        "    return len(sys.stdin.readline())\n"
        "log = Log('supervisor', 'error')\n"
        "with Listening(*sys.argv[1:], log) as listening:\n"
        "    Supervisor(listening, serve, log, modules=('module_of_serve',)).run()"
    )
    words = [sys.executable, "-c", source, *places.values()]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with subprocess.Popen(
        words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as supervisor:
        assert supervisor.stdout is not None
        assert supervisor.stdin is not None
        assert [supervisor.stdout.readline() for _ in range(2)] == ["False\n", "imported\n"]
        print(file=supervisor.stdin, flush=True)
        assert supervisor.stdout.readline() == "True\n"
        supervisor.terminate()


def test_the_sockets_are_for_all_and_for_root_and_go_with_the_supervisor(start: Start, places: dict[str, str]) -> None:
    supervisor = start(*IDLE)
    lines_with(supervisor, "serve-started", 1)
    modes = [oct(Path(places[name]).stat().st_mode & 0o777) for name in ("socket", "admin-socket")]
    assert modes == ["0o666", "0o600"]
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait() == 0
    assert list(Path(places["socket"]).parent.iterdir()) == []


@pytest.mark.parametrize("shared", ["socket", "admin-socket", "state-directory"])
def test_another_luod_in_the_same_place_is_refused(start: Start, places: dict[str, str], shared: str) -> None:
    first = start(*IDLE)
    lines_with(first, "serve-started", 1)
    for name in set(places) - {shared}:
        places[name] += "-2"
    second = start(*IDLE)
    _output, log = second.communicate()
    assert second.returncode == 1
    assert "Refused" in log
    assert places[shared] in log
    assert first.poll() is None


def test_what_a_killed_keep_left_is_replaced(start: Start, places: dict[str, str]) -> None:
    first = start(*IDLE)
    lines_with(first, "serve-started", 1)
    first.kill()
    first.wait()
    lines_with(start(*IDLE), "serve-started", 1)


def test_a_serve_that_does_not_end_is_killed(start: Start) -> None:
    """It takes the supervisor ten seconds to lose patience."""
    supervisor = start(*DEAF)
    assert supervisor.stdout is not None
    assert supervisor.stdout.readline() == "deaf\n"
    supervisor.send_signal(signal.SIGTERM)
    lines_with(supervisor, "serve-killed", 1)
    assert supervisor.wait() == 0


def test_a_luod_started_again_finds_what_waits_in_the_kernel(luod: Luod) -> None:
    """The kernel keeps unclaimed sessions; luod must not lose their owners."""
    luod.vmm().call("create", name="vm", slot="s")
    luod.jump()
    luod.stop()
    luod.start()
    vmm = luod.vmm()
    assert states(vmm) == {"incoming vm": "waiting"}
    assert luod.status()["boot"] == 2
    vmm.call("retrieve_session", name="vm", slot="s")


def test_a_session_is_created_once_the_device_is_free(luod: Luod) -> None:
    holder, vmm = luod.vmm(), luod.vmm()
    holder.open_device()
    question = vmm.program.send({"do": "library", "in": [], "call": "create", "name": "vm", "slot": "s"})
    assert states(luod.vmm()) == {}  # others are served meanwhile
    holder.ask("close", fd="device")
    assert "value" in vmm.program.answer(question)["ok"]
    assert states(vmm) == {"outgoing vm": "held"}


def test_a_serve_killed_while_the_device_is_busy_leaves_no_session(luod: Luod) -> None:
    holder, vmm = luod.vmm(), luod.vmm()
    holder.open_device()
    question = vmm.program.send({"do": "library", "in": [], "call": "create", "name": "vm", "slot": "s"})
    luod.kill_serve()
    assert "error" in vmm.program.answer(question)["ok"]
    holder.ask("close", fd="device")
    vmm.call("create", name="vm", slot="s")


def test_while_the_device_stays_busy_the_caller_is_told_so(luod: Luod) -> None:
    """After the supervisor's patience, ten seconds."""
    holder, vmm = luod.vmm(), luod.vmm()
    holder.open_device()
    refused = vmm.refused("create", name="vm", slot="s")
    assert "/dev/liveupdate" in refused.message
    assert refused.hint
    holder.ask("close", fd="device")
    vmm.call("create", name="vm", slot="s")


def test_seconds_that_are_none_are_said_in_words() -> None:
    done = subprocess.run([*SUPERVISOR, "--end-stuck-after", "soon"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "'soon' must be a positive number of seconds" in done.stderr


def test_fds_that_it_was_started_without_are_not_its_sockets(places: dict[str, str]) -> None:
    """stderr would be one of them, and the log be written to it."""
    closing = "import os, sys; os.closerange(0, 3); os.execv(sys.argv[1], sys.argv[1:])"
    inside = (
        "import os, sys; from luod.daemon import main; sys.argv[1:] = sys.argv[2:]\n"
        "try: main.main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "open(os.environ['OUT'], 'w').write(' '.join(os.readlink(f'/proc/self/fd/{n}') for n in range(3)))"
    )
    out = Path(places["state-directory"] + ".out")
    words = [sys.executable, "-c", closing, sys.executable, "-c", inside, "luod", "check-config", "/dev/null"]
    subprocess.run(words, check=True, env={**os.environ, "OUT": str(out)})
    assert out.read_text() == "/dev/null /dev/null /dev/null"


def test_a_limit_of_files_that_is_too_low_is_said_before_anything_is_held(places: dict[str, str]) -> None:
    """Where it cannot be raised: here, by a user."""
    source = (
        "import resource, sys; from luod.daemon.options import Options\n"
        "from luod.daemon.supervisor import start\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20)); import os; os.geteuid() or os.setuid(65534)\n"
        "from luod.errors import LuodError\n"
        "try: start.run(Options(*sys.argv[1:4]), lambda given: 0, ())\n"
        "except LuodError as error: print(error, error.hint)"
    )
    done = subprocess.run([sys.executable, "-c", source, *places.values()], capture_output=True, text=True, check=False)
    assert "20 files open (RLIMIT_NOFILE), and needs 64 or more" in done.stdout, done.stderr
    assert "LimitNOFILE=" in done.stdout


def test_a_low_limit_that_root_may_raise_is_raised(places: dict[str, str]) -> None:
    source = (
        "import resource; from luod.daemon.supervisor import open_files\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20)); print(open_files.raise_limit())"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    capabilities = int(Path("/proc/self/status").read_text().partition("CapEff:")[2].split()[0], 16)
    assert int(done.stdout) == (1024 if capabilities & 1 << _CAP_SYS_RESOURCE else 20)


def test_modes_are_set_whatever_the_umask(start: Start, places: dict[str, str], tmp_path: Path) -> None:
    for name in places:
        places[name] = places[name].replace(str(tmp_path), str(tmp_path / "deep" / "er"))
    before = os.umask(0o077)
    try:
        supervisor = start(*IDLE)
    finally:
        os.umask(before)
    lines_with(supervisor, "serve-started", 1)
    modes = {
        str(path.relative_to(tmp_path)): oct(path.stat().st_mode & 0o777)
        for path in (tmp_path / "deep", tmp_path / "deep/er/run", *map(Path, places.values()))
    }
    assert modes == {
        "deep": "0o755",
        "deep/er/run": "0o755",
        "deep/er/run/luod.sock": "0o666",
        "deep/er/run/admin.sock": "0o600",
        "deep/er/state": "0o700",
    }


def test_children_that_the_kernel_reaps_do_not_end_the_supervisor(start: Start) -> None:
    """Started with SIGCHLD ignored, as some supervisors and shells do."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        supervisor = start(*IDLE)
    finally:
        signal.signal(signal.SIGCHLD, before)
    (started,) = lines_with(supervisor, "serve-started", 1)
    os.kill(int(started.rpartition("pid=")[2].split()[0]), signal.SIGKILL)
    lines_with(supervisor, "serve-ended", 1)
    lines_with(supervisor, "serve-started", 1)


def test_signals_that_were_blocked_arrive(start: Start) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        supervisor = start(*IDLE)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    lines_with(supervisor, "serve-started", 1)
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait() == 0


LINGERING = [
    sys.executable,
    "-c",
    "import os, time; print('listening', flush=True); os.read(3, 1); time.sleep(float(os.environ['LINGER']))",
]
"""A serve that outlives its supervisor for $LINGER seconds, with the sockets."""


def orphaned(start: Start) -> int:
    """Returns the pid of a serve that listens and whose supervisor has ended."""
    first = start(*LINGERING, environment={"LINGER": "60"})
    assert first.stdout is not None
    assert first.stdout.readline() == "listening\n"
    (started,) = lines_with(first, "serve-started", 1)
    first.kill()
    first.wait()
    return int(started.rpartition("pid=")[2].split()[0])


def test_the_serve_of_a_killed_supervisor_is_waited_for(start: Start) -> None:
    orphan = orphaned(start)
    second = start(*IDLE)
    lines_with(second, "orphan-awaited", 1)
    os.kill(orphan, signal.SIGKILL)
    lines_with(second, "serve-started", 1)


def test_a_supervisor_starts_beside_a_serve_that_cannot_end(start: Start, places: dict[str, str]) -> None:
    """It waits five seconds for it."""
    orphan = orphaned(start)
    try:
        second = start(*IDLE)
        lines_with(second, "orphan-left", 1)
        lines_with(second, "serve-started", 1)
    finally:
        os.kill(orphan, signal.SIGKILL)


def test_a_reader_of_the_log_that_stops_does_not_stop_the_supervisor(places: dict[str, str]) -> None:
    """Its pipe is full; serve is started nevertheless."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writer, True)
    words = [sys.executable, "-c", SUPERVISE, *places.values(), "/bin/sh", "-c", "echo started; exec cat <&3"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=writer, text=True) as supervisor:
        os.close(writer)
        assert supervisor.stdout is not None
        assert supervisor.stdout.readline() == "started\n"
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait() == 0
    os.close(reader)


def test_a_second_luod_in_other_places_is_told_of_the_first(luod: Luod) -> None:
    """It waits five seconds, since the first might be about to end."""
    vmm = luod.vmm()
    vmm.call("create", name="vm", slot="s")
    python = luod.python()
    places = ["--socket", "/run/other/luod.sock", "--admin-socket", "/run/other/admin.sock"]
    command = python.module("luod.daemon.main", "--state-directory", luod.state_directory + "-2", *places)
    second = luod.machine.run(command, env=python.environment, check=False)
    assert second.returncode == 1
    assert b"another luod runs on this machine" in second.stderr
    assert states(vmm) == {"outgoing vm": "held"}


def test_luod_runs_without_assertions_and_docstrings(machine: Machine, tmp_path: Path) -> None:
    luod = Luod(machine, state_directory=tmp_path / "state")
    luod.forked = False
    python = luod.python()
    environment = {**python.environment, "PYTHONOPTIMIZE": "2"}
    command = python.module("luod.daemon.main", "--state-directory", luod.state_directory)
    luod.supervisor = machine.spawn(python.module("luod.testing.started", *command), env=environment)
    assert luod.supervisor.ask({})["ready"]
    vmm = luod.vmm()
    vmm.call("create", name="vm", slot="s")
    luod.kill_serve()
    assert states(vmm) == {"outgoing vm": "held"}
    luod.jump()
    assert states(luod.vmm()) == {"incoming vm": "waiting"}


def test_luod_carries_sessions_where_memory_may_not_be_executable(machine: Machine, tmp_path: Path) -> None:
    """vm.memfd_noexec=2, of the machine's PID namespace."""
    luod = Luod(machine, state_directory=tmp_path / "state")
    luod.forked = False
    for boot in (1, 2):
        # Where the machine's own /proc/sys is read-only.
        source = (
            "import os; from luod.linux import syscall; os.makedirs('/run/proc', exist_ok=True)\n"
            "syscall('mount', b'proc', b'/run/proc', b'proc', 0, None)\n"
            "open('/run/proc/sys/vm/memfd_noexec', 'w').write('2')"
        )
        if luod.run_source(source, check=False).returncode:
            pytest.skip("this kernel has no vm.memfd_noexec, or this user may not set it")
        supervisor = luod.start()
        vmm = luod.vmm()
        if boot == 1:
            vmm.call("create", name="vm", slot="s")
            refused = vmm.refused("memory", size=4096, slot="m")
            assert refused.errno == "EACCES"
            assert "vm.memfd_noexec" in refused.hint
            luod.load()
            luod.force_update()
            assert "serve-ended" not in supervisor.stderr
    assert states(vmm) == {"incoming vm": "waiting"}
    assert luod.status()["registry"] == []
