"""Section 6 of docs/kernel.md: kexec_file_load, kexec_load and reboot(LINUX_REBOOT_CMD_KEXEC)."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable

import pytest

from luod.testing import Machine, require_tool
from luod.testing.interpreter import Interpreter
from luod.uapi import kexec as kexec_api
from tests.conformance.caller import Caller, jump, load, start
from tests.conformance.conftest import ROOT
from tests.conformance.voyage import Voyage, across_jumps
from tests.programs.descriptors import KINDS

UNLOAD, ON_CRASH, NO_SUCH_FLAG = 1, 2, 0x4000
LIMIT = "/proc/sys/kernel/kexec_load_limit_reboot"
HUGE = 2**31 - 1
WRITABLE = (
    *("tmpfs file, linked", "tmpfs file, unlinked", "tmpfs O_TMPFILE", "file on a disk, unlinked"),
    *("/proc/self/mem", "message queue"),
)
"""The kinds of regular files that are open for writing."""
PLACE = 0x2000000
"""An address of physical memory that both machines have."""


@pytest.fixture
def fresh(machine: Machine, machine_python: Interpreter) -> Callable[[], Caller]:
    """Starts a caller in the present boot of a machine of the test's own."""
    return lambda: start(machine, machine_python.module("tests.programs.questions"), root=str(ROOT))


def test_nothing_loaded(caller: Caller, shared_machine: Machine) -> None:
    caller.create()
    digest = caller.preserved_memfd()
    assert shared_machine.read("/sys/kernel/kexec_loaded") == b"0\n"
    assert caller.says("reboot") == "EINVAL"
    assert caller.ask("get_name", session="s").startswith(caller.row.decode())
    caller.preserved_memfd(token=2, slot="another")
    assert caller.ask("digest", fd="m") == digest


@pytest.mark.parametrize(("magic1", "magic2"), [(0, 672274793), (0xFEE1DEAD, 0), (0xFEE1DEAD, 672274794)])
def test_wrong_magic(caller: Caller, magic1: int, magic2: int) -> None:
    assert caller.says("reboot", magic1=magic1, magic2=magic2) == "EINVAL"


def test_without_the_capability(caller: Caller) -> None:
    caller.become(1000)
    assert caller.says("reboot") == "EPERM"
    assert caller.says("kexec_file_load", kernel=-1) == "EPERM"


@pytest.mark.parametrize(
    ("command", "ended"),
    [
        (kexec_api.LINUX_REBOOT_CMD_KEXEC, errno.EINVAL),
        (kexec_api.LINUX_REBOOT_CMD_CAD_OFF, errno.EINVAL),
        (kexec_api.LINUX_REBOOT_CMD_RESTART, -signal.SIGHUP),
        (kexec_api.LINUX_REBOOT_CMD_HALT, -signal.SIGINT),
    ],
)
def test_in_a_pid_namespace_of_its_own(caller: Caller, shared_machine: Machine, command: int, ended: int) -> None:
    """At most the init of that namespace ends."""
    caller.create()
    load(shared_machine, caller)
    assert caller.ask("reboot_in_pid_namespace", command=command) == ended
    assert caller.ask("get_name", session="s").startswith(caller.row.decode())
    caller.ask("kexec_file_load", kernel=-1, flags=UNLOAD)


def test_what_is_no_kernel_image(caller: Caller) -> None:
    caller.ask("memfd", slot="m", size=65536)
    caller.ask("fill", fd="m", length=65536, seed=1)
    assert caller.says("kexec_file_load", kernel="m") == "ENOEXEC"
    assert caller.says("kexec_file_load", kernel=-1) == "EBADF"
    assert caller.says("reboot") == "EINVAL"


def test_files_of_live_update_are_no_kernel_images(caller: Caller) -> None:
    caller.create()
    caller.open_device()
    load = {"kernel": "device"}, {"kernel": "s"}
    assert [caller.says("kexec_file_load", **files) for files in load] == ["EINVAL", "EINVAL"]
    caller.ask("close", fd="device")


@pytest.mark.parametrize("which", ["kernel", "initrd"])
def test_files_of_other_kinds_are_no_images(caller: Caller, shared_machine: Machine, which: str) -> None:
    kinds = [kind for kind in KINDS if kind != "pidfd"]  # a regular file since Linux 6.9, which the host may not be
    caller.ask("open", path=shared_machine.kernel, flags=os.O_RDONLY, slot="image")
    said = {}
    for kind in kinds:
        if caller.says("make", kind=kind, slot="file") == "OK":
            files = {"kernel": "file"} if which == "kernel" else {"kernel": "image", "initrd": "file", "flags": 0}
            said[kind] = caller.says("kexec_file_load", **files)
            caller.ask("close", fd="file")
    assert said == {
        kind: "ETXTBSY" if kind in WRITABLE else "EBADF" if kind == "pipe, write end" else "EINVAL" for kind in said
    }


@pytest.mark.parametrize(
    ("segments", "readable", "answer"),
    [
        ([[4096, PLACE, 4096]], True, "OK"),
        ([[4096, PLACE, 4096]], False, "EFAULT"),
        ([[4097, PLACE, 4096]], True, "EINVAL"),
        ([[1 << 60, PLACE, 4096]], False, "EINVAL"),
        ([[0, PLACE + 1, 4096]], True, "EADDRNOTAVAIL"),
        ([[0, PLACE, 4095]], True, "EADDRNOTAVAIL"),
        ([[0, (1 << 64) - 4096, 4096]], True, "EADDRNOTAVAIL"),
        ([[0, (1 << 52) - 4096, 4096]], True, "EADDRNOTAVAIL"),
        ([[0, PLACE, 8192], [0, PLACE + 4096, 4096]], True, "EINVAL"),
        ([[0, PLACE, 8192], [0, PLACE, 0]], True, "OK"),
        ([[0, PLACE, 1 << 45]], True, "EINVAL"),
    ],
    ids=[
        *(
            "loads",
            "unreadable",
            "larger than its place",
            "larger and unreadable",
            "address",
            "length",
            "beyond 64 bits",
        ),
        *("beyond memory", "overlap", "empty in another", "larger than memory"),
    ],
)
def test_segments(caller: Caller, segments: list[list[int]], readable: bool, answer: str) -> None:
    assert caller.says("kexec_segments", segments=segments, readable=readable) == answer
    caller.ask("kexec_load")


def test_load_and_unload(caller: Caller, shared_machine: Machine) -> None:
    load(shared_machine, caller)
    assert shared_machine.read("/sys/kernel/kexec_loaded") == b"1\n"
    caller.ask("kexec_file_load", kernel=-1, flags=UNLOAD)
    assert shared_machine.read("/sys/kernel/kexec_loaded") == b"0\n"
    assert caller.says("reboot") == "EINVAL"


def test_command_line_of_the_next_kernel(machine: Machine, fresh: Callable[[], Caller]) -> None:
    caller = fresh()
    line = machine.read("/proc/cmdline").rstrip(b"\n") + b" answer=42"
    load(machine, caller, command_line=line)
    assert machine.read("/proc/cmdline").rstrip(b"\n") != line
    jump(machine, caller)
    assert machine.boot == 2
    assert machine.read("/proc/cmdline").rstrip(b"\n") == line
    assert machine.read("/sys/kernel/kexec_loaded") == b"0\n"


def initrd(machine: Machine) -> tuple[str, ...]:
    """Returns what a real kernel needs besides itself to boot."""
    return () if machine.initrd is None else ("--initrd", machine.initrd)


def test_kexec_tools_by_file(machine: Machine, fresh: Callable[[], Caller]) -> None:
    kexec = require_tool("kexec", package="kexec-tools")
    caller = fresh()
    caller.create(b"vm")
    digest = caller.preserved_memfd()
    machine.run([kexec, "-s", "-l", machine.kernel, *initrd(machine), "--reuse-cmdline"])
    with machine.expect_jump():
        machine.run([kexec, "-e"])
    caller = fresh()
    caller.retrieve(b"vm")
    caller.ask("retrieve_fd", session="s", token=1, slot="m")
    assert caller.ask("digest", fd="m") == digest


def test_kexec_load_loses_everything(machine: Machine, fresh: Callable[[], Caller]) -> None:
    kexec = require_tool("kexec", package="kexec-tools")
    caller = fresh()
    caller.create(b"vm")
    caller.preserved_memfd()
    machine.run([kexec, "-c", "-l", machine.kernel, *initrd(machine), "--reuse-cmdline"])
    with machine.expect_jump():
        machine.run([kexec, "-e"])
    assert machine.boot == 2
    assert fresh().can_retrieve(b"vm") == "ENOENT"


def test_device_open_during_the_jump(machine: Machine, fresh: Callable[[], Caller]) -> None:
    caller = fresh()
    caller.create(b"vm")
    load(machine, caller)
    caller.open_device()
    jump(machine, caller)
    assert fresh().can_retrieve(b"vm") == "OK"


# -- the limit on loads ---------------------------------------------------------------------------------------------


def limit(machine: Machine) -> int:
    return int(machine.read(LIMIT))


def set_limit(caller: Caller, value: int) -> str:
    caller.ask("open", path=LIMIT, flags=os.O_WRONLY | os.O_TRUNC, slot="limit")
    said = caller.says("write", fd="limit", data=str(value))
    caller.ask("close", fd="limit")
    return said


def test_a_limit_on_loads_counts_every_call_before_it_is_checked(machine: Machine, fresh: Callable[[], Caller]) -> None:
    caller = fresh()
    load(machine, caller)
    assert limit(machine) == -1
    assert set_limit(caller, HUGE) == "OK"
    load(machine, caller)
    assert limit(machine) == HUGE - 1
    caller.ask("kexec_file_load", kernel=-1, flags=UNLOAD)
    assert limit(machine) == HUGE - 2
    assert caller.says("kexec_file_load", kernel=-1) == "EBADF"
    assert limit(machine) == HUGE - 3
    assert caller.says("kexec_file_load", kernel=-1, flags=NO_SUCH_FLAG) == "EINVAL"
    assert limit(machine) == HUGE - 4
    # kexec_load(2), which unloads too, and with an invalid flag.
    caller.ask("kexec_load")
    assert caller.says("kexec_load", flags=NO_SUCH_FLAG) == "EINVAL"
    assert limit(machine) == HUGE - 6


def test_a_limit_on_loads_does_not_count_crash_kernels_and_callers_without_the_capability(
    machine: Machine, fresh: Callable[[], Caller]
) -> None:
    caller = fresh()
    assert set_limit(caller, HUGE) == "OK"
    caller.reply("kexec_file_load", kernel=-1, flags=UNLOAD | ON_CRASH)
    assert caller.says("kexec_file_load", kernel=-1, flags=ON_CRASH | NO_SUCH_FLAG) == "EINVAL"
    caller.fork("other").become(1000)
    assert Caller(caller.program, ("other",)).says("kexec_file_load", kernel=-1) == "EPERM"
    assert limit(machine) == HUGE


def test_at_a_limit_of_0_nothing_is_loaded_and_the_next_kernel_has_no_limit(
    machine: Machine, fresh: Callable[[], Caller]
) -> None:
    caller = fresh()
    assert set_limit(caller, 1) == "OK"
    load(machine, caller)
    assert limit(machine) == 0
    assert caller.says("kexec_file_load", kernel=-1, flags=UNLOAD) == "EPERM"
    assert caller.says("kexec_load") == "EPERM"
    assert limit(machine) == 0
    jump(machine, caller)
    assert limit(machine) == -1


@pytest.mark.divergence("test_settings_of_kexec_take_any_value_until_the_next_load")
def test_a_limit_on_loads_is_only_lowered(machine: Machine, fresh: Callable[[], Caller]) -> None:
    caller = fresh()
    assert [set_limit(caller, value) for value in (-1, 5, 5, 6, -1, 4)] == ["EINVAL", "OK", *["EINVAL"] * 3, "OK"]
    assert limit(machine) == 4


# -- holders of the session at the kexec ---------------------------------------------------------------------------


def retrieved(caller: Caller) -> str:
    caller.retrieve()
    caller.ask("retrieve_fd", session="s", token=1, slot="m")
    digest: str = caller.ask("digest", fd="m")
    return digest


@across_jumps
def test_held_by_a_process_that_does_nothing(caller: Caller) -> Voyage:
    caller.create()
    digest = caller.preserved_memfd()
    caller = yield
    assert retrieved(caller) == digest


@across_jumps
def test_held_by_a_forked_child(caller: Caller) -> Voyage:
    caller.create()
    digest = caller.preserved_memfd()
    caller.fork("child")
    caller.ask("close", fd="s")
    caller = yield
    assert retrieved(caller) == digest


@across_jumps
def test_held_by_an_executed_program(caller: Caller) -> Voyage:
    caller.create()
    digest = caller.preserved_memfd()
    caller.fork("child").become_program("/bin/sleep", "1000", keep=("s",))
    caller.ask("close", fd="s")
    caller = yield
    assert retrieved(caller) == digest


@across_jumps
def test_held_by_a_message_in_flight(caller: Caller) -> Voyage:
    caller.create()
    digest = caller.preserved_memfd()
    caller.ask("socketpair", slots=["one", "other"])
    caller.ask("send_fd", over="one", fd="s")
    caller.ask("close", fd="s")
    caller = yield
    assert retrieved(caller) == digest


@across_jumps
def test_closed_before_the_jump(caller: Caller) -> Voyage:
    caller.create()
    caller.preserved_memfd()
    caller.ask("close", fd="s")
    caller = yield
    assert caller.can_retrieve() == "ENOENT"


@across_jumps
def test_holder_killed_before_the_jump(caller: Caller) -> Voyage:
    holder = caller.fork("holder")
    holder.create()
    holder.preserved_memfd()
    caller.ask("end", kid="holder")
    caller = yield
    assert caller.can_retrieve() == "ENOENT"


def test_a_writer_that_never_stops(machine: Machine, fresh: Callable[[], Caller]) -> None:
    caller = fresh()
    caller.create(b"vm")
    caller.preserved_memfd()
    caller.fork("writer").ask("scribble", fd="m")
    load(machine, caller)
    jump(machine, caller)
    caller = fresh()
    caller.retrieve(b"vm")
    caller.ask("retrieve_fd", session="s", token=1, slot="m")
    assert caller.ask("pread", fd="m", length=8, offset=0) == "scribble"
    assert caller.ask("getfl", fd="m") & os.O_ACCMODE == os.O_RDWR
