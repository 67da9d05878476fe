"""`luoemu run` as its user sees it: statuses, streams, init's environment, signals, and that nothing stays behind."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from luod.testing import eventually
from luod.testing.starter.outside import Started
from luod.testing.tools import cannot_run, for_root, require_tool
from tests.emulator.machine import forks
from tests.emulator.machine.conftest import (
    DEVICE,
    PLAIN_USER,
    PROGRAMS,
    WAYS,
    as_plain_user,
    environment,
    interpreter,
    luoemu,
    options_for,
    python,
    require_namespaces,
    steps,
)

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def test_the_exit_status_is_that_of_init(run_machine: Run) -> None:
    assert run_machine(["sh", "-c", "exit 7"]).returncode == 7
    assert run_machine("raw.syscall('reboot', 0, 0, 0, 0)").returncode == 1
    # As PID 1 it would shrug off a signal it does not handle, even its own; a fault it cannot.
    assert run_machine("import ctypes; ctypes.string_at(0)").returncode == 128 + signal.SIGSEGV


def test_command_that_is_not_there(run_machine: Run) -> None:
    done = run_machine(["/no/such/program"])
    assert (done.returncode, done.stdout) == (127, "")
    assert "/no/such/program: No such file" in done.stderr
    assert run_machine(["/etc/passwd"]).returncode == 126
    for name in ("", "no\udcffsuch"):
        done = run_machine([name], errors="surrogateescape")
        assert (done.returncode, done.stderr.splitlines()[-1]) == (127, f"luoemu: {name}: No such file or directory")


def test_without_a_command_it_shows_its_usage() -> None:
    command = luoemu()[:-2]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "luoemu" in done.stderr


@pytest.mark.parametrize("command", ["RESTART", "HALT", "POWER_OFF"])
def test_a_reboot_or_power_off_ends_the_machine_without_an_error(run_machine: Run, command: str) -> None:
    done = run_machine(f"raw.reboot(raw.kexec_uapi.LINUX_REBOOT_CMD_{command})")
    assert done.returncode == 0, done.stderr


def test_other_commands_of_reboot_are_answered_as_by_the_kernel(run_machine: Run) -> None:
    for_root("for several users in one machine")
    source = """
        raw.reboot(raw.kexec_uapi.LINUX_REBOOT_CMD_CAD_ON)
        raw.reboot(raw.kexec_uapi.LINUX_REBOOT_CMD_CAD_OFF)
        assert errno_of(raw.reboot, raw.kexec_uapi.LINUX_REBOOT_CMD_KEXEC) == errno.EINVAL
        assert errno_of(raw.reboot, 12345) == errno.EINVAL
        os.setgroups([]); os.setuid(12345)
        assert errno_of(raw.reboot, raw.kexec_uapi.LINUX_REBOOT_CMD_POWER_OFF) == errno.EPERM
        assert errno_of(load) == errno.EPERM
        os._exit(5)
    """
    done = run_machine(source)
    assert done.returncode == 5, done.stderr


def test_streams_and_arguments_go_to_every_boot(run_machine: Run, tmp_path: Path) -> None:
    source = """
        print(BOOT, os.getpid(), os.getcwd(), sys.argv[1:], sys.stdin.readline().strip(), flush=True)
        print("boot", BOOT, file=sys.stderr, flush=True)
        if BOOT < 3: jump()
    """
    command = [*python(source), "--", "one", "two words"]
    with (tmp_path / "input").open("w+") as lines:
        lines.write("a\nb\nc\n")
        lines.seek(0)
        # One open file that each boot reads on from; unbuffered reading is up to the program.
        done = run_machine(command, cwd=tmp_path, stdin=lines)
    assert done.returncode == 0, done.stderr
    boots = done.stdout.splitlines()
    assert [line.split()[:3] for line in boots] == [[str(n), "1", str(tmp_path)] for n in (1, 2, 3)]
    assert all("'one', 'two words'" in line for line in boots)
    assert boots[0].endswith(" a")
    assert done.stderr.splitlines()[-3:] == ["boot 1", "boot 2", "boot 3"]


def test_descriptors_that_are_inherited(run_machine: Run) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        source = f"""
            channel = socket.socket(fileno=os.dup({theirs.fileno()}))
            channel.send(b"boot %d;" % BOOT)
            assert channel.recv(10) == b"go on"
            held = {{int(name) for name in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + name)}}
            # libffi, which ctypes loads, keeps an fd of itself since 3.5.
            held -= {{fd for fd in held if "/libffi" in os.readlink(f"/proc/self/fd/{{fd}}")}}
            assert held == {{0, 1, 2, {theirs.fileno()}, channel.fileno()}}, held
            if BOOT == 1: jump()
        """
        ours.sendall(b"go on")
        with subprocess.Popen(
            [*luoemu(), *python(source)], pass_fds=[theirs.fileno()], env=environment(), stdin=subprocess.DEVNULL
        ) as machine:
            ours.settimeout(30)
            assert ours.recv(7) == b"boot 1;"
            assert ours.recv(7) == b"boot 2;"
            ours.sendall(b"go on")
            assert machine.wait(30) == 0


def test_init_finds_its_boot_its_kernel_and_its_profile(run_machine: Run, tmp_path: Path) -> None:
    source = """
        assert os.environ["LUOEMU_PROFILE"] == "document"
        assert open("/run/luoemu/profile").read() == "document\\n"
        assert os.stat("/run/luoemu").st_mode & 0o022 == 0
        assert os.path.getsize(os.environ["LUOEMU_KERNEL"]) > 4096
        assert os.environ["MINE"] == "yes"
        read = lambda path: open(path).read()
        assert read("/sys/kernel/kexec_loaded") == "0\\n"
        if BOOT == 1:
            assert read("/proc/cmdline") == "liveupdate=on kho=on\\n"
            open("/run/left", "w").close()
            open("boot_id", "w").write(read("/proc/sys/kernel/random/boot_id"))
            load(b"liveupdate=on kho=on second=1")
            assert read("/sys/kernel/kexec_loaded") == "1\\n"
            raw.reboot(raw.kexec_uapi.LINUX_REBOOT_CMD_KEXEC)
        assert read("/proc/cmdline") == "liveupdate=on kho=on second=1\\n"
        assert not os.path.exists("/run/left")
        assert read("/proc/sys/kernel/random/boot_id") != read("boot_id")
        assert os.listdir("/proc/self/task")
        assert {"null", "zero", "urandom", "shm", "pts", "ptmx"} <= set(os.listdir("/dev"))
        os.close(device())
        import pty
        pty.openpty()
    """
    done = run_machine(source, "--profile", "document", env={**environment(), "MINE": "yes"}, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_no_device_without_the_parameters(run_machine: Run) -> None:
    source = """
        if BOOT == 1:
            load(b"quiet")
            raw.reboot(raw.kexec_uapi.LINUX_REBOOT_CMD_KEXEC)
        assert errno_of(device) == errno.ENOENT
        print("absent")
    """
    for way in WAYS:
        done = run_machine(source, *options_for(way))
        assert done.stdout == "absent\n", done.stderr


def test_nothing_inside_reaches_the_host(run_machine: Run) -> None:
    source = """
        assert [name for _, name in socket.if_nameindex()] == ["lo"]
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname()).close()
        socket.sethostname("inside")
        os.makedirs("/run/inside"); open("/dev/inside", "w").close(); open("/dev/shm/inside", "w").close()
        for name in ("/proc/sys/kernel/printk", "/proc/sysrq-trigger"):
            assert errno_of(open, name, "r+") in (errno.EROFS, errno.EACCES, errno.ENOENT), name
    """
    name = socket.gethostname()
    done = run_machine(source)
    assert done.returncode == 0, done.stderr
    assert socket.gethostname() == name
    assert not any(Path(directory, "inside").exists() for directory in ("/run", "/dev", "/dev/shm"))


def test_devices_of_the_host_keep_their_numbers_modes_and_owners(run_machine: Run) -> None:
    for_root("whose users are those of its machine")
    names = [f"/dev/{name}" for name in ("full", "kmsg", "null", "tty", "zero") if Path("/dev", name).exists()]
    command = ["stat", "-c", "%n %F %t:%T %a %u:%g", *names]
    host = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert run_machine(command).stdout == host


def test_network_of_the_host_on_request(run_machine: Run) -> None:
    names = [name for _, name in socket.if_nameindex()]
    done = run_machine("print([name for _, name in socket.if_nameindex()])", "--share-network")
    assert done.stdout == f"{names}\n", done.stderr


@pytest.mark.parametrize("user", [None, PLAIN_USER], ids=["own uid", "uid 1000"])
def test_init_is_root_in_the_machine(run_machine: Run, user: int | None) -> None:
    done = run_machine(["id", "-u"], user=user)
    assert done.stdout == "0\n", done.stderr


def test_plain_user_with_fuse(cycle: str) -> None:
    """Where /dev/fuse is everyone's, as distributions have it. A copy of the node, seen by this machine only."""
    command = as_plain_user(*luoemu(user=PLAIN_USER), cycle)
    done = subprocess.run(command, env=environment(PLAIN_USER), cwd="/", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "carried\n", "")


def test_root_without_capabilities(cycle: str) -> None:
    """As in many containers: root in name. A user namespace gives what is missing."""
    for_root("to be root without capabilities")
    require_tool("setpriv", package="util-linux")
    command = ["setpriv", "--bounding-set=-sys_admin", *luoemu(), cycle]
    done = subprocess.run(command, env=environment(), cwd="/", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "carried\n"), done.stderr


def test_fallback_is_announced(run_machine: Run) -> None:
    done = run_machine(["true"], "--trap-opens")
    assert done.returncode == 0
    assert "opening is trapped" in done.stderr
    assert run_machine(["true"]).stderr == "" or not os.access("/dev/fuse", os.R_OK | os.W_OK)


def test_machines_do_not_nest(run_machine: Run) -> None:
    done = run_machine([*luoemu(), "true"])
    assert done.returncode == 125
    assert "another seccomp listener" in done.stderr


def test_no_user_namespaces(tmp_path: Path) -> None:
    """In a chroot the kernel makes none."""
    for_root("to make a chroot")
    command = [*luoemu(user=PLAIN_USER), "true"]
    command = interpreter(None).script(PROGRAMS / "chroot_as.py", str(tmp_path), str(PLAIN_USER), *command)
    done = subprocess.run(command, env=environment(PLAIN_USER), cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 125, done.stderr
    assert "run luoemu as root" in done.stderr


def test_a_chroot_whose_root_directory_is_no_mount_point(tmp_path: Path) -> None:
    """As after chroot(8) into a directory. luoemu changes nothing outside."""
    for_root("to make a chroot")
    inner = python("print(os.getcwd(), BOOT, flush=True)\nos.close(device())\nif BOOT == 1: jump()")
    command = interpreter(None).script(PROGRAMS / "plain_chroot.py", str(tmp_path), *luoemu(), *inner)
    done = subprocess.run(command, env=environment(), cwd="/usr", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "/ 1\n/ 2\n"), done.stderr


def test_carried_memory_is_given_back(tmp_path: Path) -> None:
    """After FINISH neither the supervisor nor a process it started holds what was carried, open or mapped."""
    source = """
        fd = device()
        if BOOT == 1:
            session = create(fd, b"s")
            for token in range(5):
                carried = os.memfd_create("carried")
                os.truncate(carried, 4096)
                preserve(session, carried, token)
            os.write(1, b"preserved\\n"); sys.stdin.readline()
            jump()
        session = retrieve_session(fd, b"s")
        files = [retrieve(session, token) for token in range(5)]
        os.write(1, b"retrieved\\n"); sys.stdin.readline()
        finish(session)
        os.close(session)
        os.write(1, b"finished\\n"); sys.stdin.readline()
    """
    counts = {}
    told = ("preserved", "retrieved", "finished")
    for step, pid in zip(told, steps(source, lines=told), strict=True):
        keepers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        counts[step] = [memfds(pid), *map(memfds, map(int, keepers))]
    # Kept: while preserved the files themselves and a page of each, once retrieved what they became.
    assert counts == {"preserved": [10, 0], "retrieved": [5, 0], "finished": [0, 0]}


def test_boots_leave_nothing_in_the_supervisor() -> None:
    source = """
        os.close(create(device(), b"s"))
        os.write(1, b"%d\\n" % BOOT); sys.stdin.readline()
        if BOOT < 4: jump()
    """
    counts = [len(os.listdir(f"/proc/{pid}/fd")) for pid in steps(source, lines=range(1, 5))]
    assert len(set(counts)) == 1, counts


def memfds(pid: int) -> int:
    """Returns how many fds and mappings of memfds a process has."""
    opened = sum(os.readlink(link).startswith("/memfd:") for link in Path(f"/proc/{pid}/fd").iterdir())
    return opened + Path(f"/proc/{pid}/maps").read_text().count("/memfd:")


# -- signals and sudden ends ---------------------------------------------------------------------------------------

HOLDER = """
    signal.signal(signal.SIGINT, lambda *_: None)
    fd = device()
    session = create(fd, b"s")
    if os.fork() == 0: os.setsid()
    if os.fork() == 0: pass
    os.write(1, b"%d\\n" % os.getpid())
    while True: signal.pause()
"""


@contextmanager
def started(source: str, *options: str, user: int | None = None) -> Iterator[tuple[Started, IO[str]]]:
    """Starts a machine. Yields luoemu and the output when each of the machine's four processes has written a line."""
    require_namespaces(user)
    words = (interpreter(user), options, python(source, user), environment(user))
    with forks.started(*words, stderr=sys.stderr.fileno()) as machine:
        for _ in range(4):
            assert machine.stdout.readline()
        yield machine.process, machine.stdout


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_machine(number: int, way: str) -> None:
    with started(HOLDER, *options_for(way)) as (machine, output):
        os.kill(machine.pid, number)
        # The pipe's end: no process of the machine is left that could write to it.
        assert output.read() == ""
        assert machine.wait(30) == 128 + number


HANGING_START = """
import signal, sys
from luod.emulator.machine import nodes
from luod.emulator.machine.main import main

def hang(*_):
    print("hangs", flush=True)
    while True: signal.pause()

nodes.furnish = hang
sys.exit(main(["run", "true"]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_a_start_that_hangs(number: int) -> None:
    """As at a dead network file system in /dev."""
    command = [interpreter(None).executable, "-c", HANGING_START]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as machine:
        try:
            assert machine.stdout is not None
            assert machine.stdout.readline() == "hangs\n"
            machine.send_signal(number)
            # The pipe's end: the process that hung is gone, too.
            assert machine.stdout.read() == ""
            assert machine.wait(30) == 128 + number
        finally:
            machine.kill()


UNENDING = """
import sys
from luod.emulator.machine import running
from luod.emulator.machine.main import main

running._signal = lambda init: None     # as for an init that waits for a process that cannot end
sys.exit(main(["run", *sys.argv[1:]]))
"""


def pending(pid: int) -> bool:
    """Returns whether the process has a signal that it has not taken."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return any(int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd:", "ShdPnd:")))


def test_signals_while_the_machine_cannot_end() -> None:
    """The first is answered by waiting, the second by waiting without answers, the third by no wait."""
    source = """
        fd = device()
        for _ in sys.stdin:
            print(errno_of(lambda: os.close(create(fd, b"s"))), flush=True)
    """
    command = [interpreter(None).executable, "-c", UNENDING, *python(source)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment(), stdin=pipe, stdout=pipe, text=True, bufsize=1) as machine:
        try:
            assert machine.stdin is not None
            assert machine.stdout is not None
            lines = machine.stdout

            def ask() -> int:
                print("create", file=machine.stdin)
                return int(lines.readline())

            def signal_it() -> None:
                machine.send_signal(signal.SIGTERM)
                eventually(lambda: not pending(machine.pid), describe="luoemu has taken the signal")

            assert ask() == 0
            signal_it()
            assert ask() == 0
            signal_it()
            eventually(lambda: ask() == errno.ENOSYS, describe="luoemu answers no longer")
            signal_it()
            assert lines.read() == ""
            assert machine.wait(30) == 128 + signal.SIGTERM
        finally:
            machine.kill()


@pytest.mark.parametrize("user", [None, PLAIN_USER], ids=["own uid", "uid 1000"])
@pytest.mark.parametrize("way", WAYS)
def test_killed_supervisor_takes_the_machine_along(way: str, user: int | None) -> None:
    if user is not None:
        for_root("to start a machine as another user")
    before = Path("/proc/self/mountinfo").read_text()
    with started(HOLDER, *options_for(way), user=user) as (machine, output):
        machine.kill()
        assert output.read() == ""
        assert machine.wait(30) == -signal.SIGKILL
    assert Path("/proc/self/mountinfo").read_text() == before


def test_killed_keeper_ends_the_machine() -> None:
    """The process between `luoemu` and init, as the OOM killer might choose it."""
    with started(HOLDER) as (machine, output):
        (keeper,) = Path(f"/proc/{machine.pid}/task/{machine.pid}/children").read_text().split()
        os.kill(int(keeper), signal.SIGKILL)
        assert output.read() == ""
        assert machine.wait(30) == 128 + signal.SIGKILL


# -- an init that the kernel does not kill with its parent any more ------------------------------------------------

CHANGED = """
    {change}
    os.fork(); os.fork()
    os.write(1, b"there\\n")
    while True: signal.pause()
"""
OTHER_UID = "os.setgroups([]); os.setgid(1000); os.setuid(1000)"
BY_ITSELF = "import ctypes; ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)"  # PR_SET_PDEATHSIG
CHANGES = pytest.mark.parametrize("change", [OTHER_UID, BY_ITSELF], ids=["another uid", "by itself"])


@contextmanager
def changed(change: str, *options: str) -> Iterator[tuple[Started, IO[str]]]:
    if change == OTHER_UID:
        for_root("for several users in one machine")
    with started(CHANGED.format(change=change), *options) as (machine, output):
        yield machine, output


@CHANGES
@pytest.mark.parametrize("options", [(), DEVICE], ids=["no devices", "devices"])
def test_killed_supervisor_takes_every_init_along(change: str, options: tuple[str, ...]) -> None:
    if options and not os.access("/dev/fuse", os.R_OK | os.W_OK):
        cannot_run("no /dev/fuse that this uid may use, and devices need it: modprobe fuse, as root")
    with changed(change, *options) as (machine, output):
        machine.kill()
        assert output.read() == ""


@CHANGES
def test_killed_keeper_takes_every_init_along(change: str) -> None:
    with changed(change) as (machine, output):
        (keeper,) = Path(f"/proc/{machine.pid}/task/{machine.pid}/children").read_text().split()
        os.kill(int(keeper), signal.SIGKILL)
        assert output.read() == ""
        assert machine.wait(30) == 128 + signal.SIGKILL


def interrupted(source: str) -> int:
    """Sends ^C to a machine's terminal when its init is ready. Returns the exit status of the machine."""
    import pty

    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(luoemu()[0], [*luoemu(), *python(source)], environment())
    try:
        seen = b""
        while b"ready" not in seen:
            seen += os.read(terminal, 1000)
        os.write(terminal, b"\x03")
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        os.close(terminal)


def test_interrupt_from_a_terminal_is_left_to_an_init_that_handles_it() -> None:
    source = """
        signal.signal(signal.SIGINT, lambda *_: os._exit(9))
        os.write(1, b"ready\\n")
        while True: signal.pause()
    """
    assert interrupted(source) == 9


def test_interrupt_from_a_terminal_ends_a_machine_whose_init_does_not_handle_it() -> None:
    # Not a shell: many handle SIGINT while they wait for a command.
    source = """
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.write(1, b"ready\\n")
        while True: signal.pause()
    """
    assert interrupted(source) == 128 + signal.SIGINT
