"""H16, H18, H19, H21, H23: the kexec itself: what it carries, what refuses it, and the clocks afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from luod.testing import Machine, eventually, require_tool
from luod.testing.interpreter import Interpreter
from tests.conformance import caller as raw
from tests.daemon.host import Luod
from tests.daemon.participant import Participant, begin, prepare
from tests.kernel.booting import booted
from tests.library import ROOT, Vmm, jump, load, start_vmm

DISK = "/run/disk"
BIG = "/run/initrd"
TOO_BIG = 256 << 20
"""Bytes of an initrd that do not fit kexec handover's scratch, which is 272 of 1024 MiB."""
OLD, NEW = b"old" * 5000, b"new" * 5000


# -- two kexecs that several tests use -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """The machine's clocks, in nanoseconds and ticks, and the host's between `began` and `ended`, in ns."""

    began: int
    ended: int
    realtime: int
    monotonic: int
    tsc: int


@dataclass(frozen=True)
class Crossing:
    """One kexec: the disk's files afterwards, and the clocks: at first, right before the kexec, and after it."""

    files: dict[str, bytes]
    clocks: tuple[Reading, Reading, Reading]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Yields the module's machine, with an ext4 on /dev/vda."""
    mkfs = require_tool("mkfs.ext4", package="e2fsprogs")
    disk = tmp_path_factory.mktemp("disk") / "image"
    disk.touch()
    os.truncate(disk, 32 << 20)
    subprocess.run([mkfs, "-q", str(disk)], check=True, timeout=60)
    arguments = ("-drive", f"file={disk},format=raw,if=none,id=disk", "-device", "virtio-blk-pci,drive=disk")
    with booted(tmp_path_factory, arguments=arguments) as booted_machine:
        yield booted_machine


@pytest.fixture
def vmm(machine: Machine, machine_python: Interpreter) -> Iterator[Vmm]:
    vmm = start_vmm(machine, machine_python)
    yield vmm
    vmm.program.kill()


def clocks(machine: Machine, python: Interpreter) -> Reading:
    began = time.monotonic_ns()
    said = json.loads(machine.run(python.module("tests.programs.clocks"), env={"PYTHONPATH": str(ROOT)}).stdout)
    return Reading(began, time.monotonic_ns(), said["realtime"], said["monotonic"], said["tsc"])


def mount(machine: Machine) -> dict[str, bytes]:
    """Mounts the disk so that nothing is written back by itself; returns its files."""
    machine.write("/proc/sys/vm/dirty_writeback_centisecs", b"0")
    machine.run(["mkdir", "-p", DISK])
    machine.run(["mount", "-t", "ext4", "-o", "commit=300", "/dev/vda", DISK])
    names = machine.run(["ls", DISK]).text.split()
    return {name: machine.read(f"{DISK}/{name}") for name in names if name != "lost+found"}


def write_files(machine: Machine, boot: int) -> None:
    """Writes a file that is fsynced, an image that is fsynced and then overwritten, and a new file."""
    for name in ("synced", "image"):
        machine.write(f"{DISK}/{name}-{boot}", OLD)
        machine.run(["sync", f"{DISK}/{name}-{boot}"])
    machine.run(["dd", f"of={DISK}/image-{boot}", "conv=notrunc", "status=none"], stdin=NEW)
    machine.write(f"{DISK}/new-{boot}", NEW)


@pytest.fixture(scope="module")
def by_reboot(machine: Machine, machine_python: Interpreter) -> Crossing:
    """Goes from boot 1 to 2 by reboot(2) itself."""
    first = clocks(machine, machine_python)
    mount(machine)
    write_files(machine, 1)
    vmm = start_vmm(machine, machine_python)
    raw.load(machine, vmm)
    before = clocks(machine, machine_python)
    raw.jump(machine, vmm)
    after = clocks(machine, machine_python)
    return Crossing(mount(machine), (first, before, after))


@pytest.fixture(scope="module")
def by_library(machine: Machine, machine_python: Interpreter, by_reboot: Crossing) -> Crossing:
    """Goes from boot 2 to 3 by the library, in place of an image loaded by the older call. It carries "vm"."""
    first = clocks(machine, machine_python)
    write_files(machine, 2)
    vmm = start_vmm(machine, machine_python)
    vmm.create(b"vm")
    older_load(machine)
    load(machine, vmm)
    before = clocks(machine, machine_python)
    jump(machine, vmm)
    after = clocks(machine, machine_python)
    return Crossing(mount(machine), (first, before, after))


# -- before any jump ----------------------------------------------------------------------------------------------


def kexec_in_sys(machine: Machine) -> str:
    return machine.run(["sh", "-c", "grep -rs . /sys/kernel/kexec*"]).text


def older_load(machine: Machine) -> None:
    """Loads the machine's own kernel by kexec_load(2)."""
    kexec = require_tool("kexec", package="kexec-tools")
    machine.run([kexec, "-c", "-l", machine.kernel, "--command-line", "console=ttyS0"])


def test_h19_nothing_tells_by_which_call_an_image_was_loaded(machine: Machine, vmm: Vmm) -> None:
    load(machine, vmm)
    ours = kexec_in_sys(machine)
    vmm.call("unload")
    assert kexec_in_sys(machine) != ours
    older_load(machine)
    assert kexec_in_sys(machine) == ours
    vmm.call("unload")


def test_h18_no_jump_out_of_a_pid_namespace(machine: Machine, vmm: Vmm, machine_python: Interpreter) -> None:
    load(machine, vmm)
    program = machine_python.module("tests.programs.library")
    questions = b'{"do": "reboot"}\n{"do": "library", "call": "jump"}\n'
    inside = machine.run(
        ["unshare", "--pid", "--fork", *program],
        env={"PYTHONPATH": f"{machine_python.environment['PYTHONPATH']}:{ROOT}"},
        stdin=questions,
    )
    by_hand, by_us = map(json.loads, inside.stdout.splitlines())
    assert by_hand == {"errno": "EINVAL"}
    assert (by_us["ok"]["error"], by_us["ok"]["errno"]) == ("NoImageLoaded", "EINVAL")
    assert "initial PID namespace" in by_us["ok"]["message"]
    assert vmm.call("loaded") is True
    vmm.call("unload")


def test_h18_no_jump_during_another_kexec_call(machine: Machine, vmm: Vmm, machine_python: Interpreter) -> None:
    # Nothing is loaded, and the image to load does not fit: none of these reboots can start a kernel.
    assert vmm.call("loaded") is False
    machine.run(["truncate", "-s", str(TOO_BIG), BIG])
    loader = start_vmm(machine, machine_python)
    answers: set[str] = set()

    def busy() -> bool:
        under_way = loader.program.send(
            {"do": "library", "in": [], "call": "load", "kernel": machine.kernel, "initrd": BIG, "command_line": ""}
        )
        answers.add(vmm.says("reboot"))
        error = vmm.refused("jump")
        answers.add(f"{error.errno} by us")
        assert error.kind == {"EBUSY": "JumpRefused", "EINVAL": "NoImageLoaded"}[error.errno or ""]
        assert loader.program.answer(under_way)["ok"]["error"] == "ImageDoesNotFit"
        return {"EBUSY", "EBUSY by us"} <= answers

    eventually(busy, describe="a jump was refused during a load, to the bare call and to the library")
    loader.program.kill()


def test_h21_an_initrd_that_does_not_fit_scratch(machine: Machine, vmm: Vmm) -> None:
    load(machine, vmm)
    machine.run(["truncate", "-s", str(TOO_BIG), BIG])
    vmm.ask("open", path=machine.kernel, flags=os.O_RDONLY, slot="kernel")
    vmm.ask("open", path=BIG, flags=os.O_RDONLY, slot="initrd")
    loading = {"kernel": "kernel", "initrd": "initrd", "flags": 0}
    assert vmm.says("kexec_file_load", **loading) == "EADDRNOTAVAIL"
    error = vmm.refused("load", kernel=machine.kernel, initrd=BIG, command_line="")
    assert (error.kind, error.errno) == ("ImageDoesNotFit", "EADDRNOTAVAIL")
    assert "scratch" in error.hint
    # The previous image is still loaded.
    assert vmm.call("loaded") is True
    vmm.call("unload")


# -- over the jumps -----------------------------------------------------------------------------------------------


def test_h16_reboot_does_not_write_files_back(by_reboot: Crossing) -> None:
    assert by_reboot.files["synced-1"] == OLD
    assert by_reboot.files["image-1"] == OLD
    assert by_reboot.files.get("new-1", b"") == b""


def test_h16_the_librarys_jump_does(by_library: Crossing) -> None:
    ours = {name: data for name, data in by_library.files.items() if name.endswith("-2")}
    assert ours == {"synced-2": OLD, "image-2": NEW, "new-2": NEW}


def test_h19_the_library_loads_in_place_of_what_was_there(by_library: Crossing, vmm: Vmm) -> None:
    assert vmm.can_retrieve(b"vm") == "OK"


def lost(crossing: Crossing) -> tuple[float, float]:
    """Returns the seconds of the kexec that CLOCK_REALTIME and CLOCK_MONOTONIC missed, by the TSC."""
    first, before, after = crossing.clocks
    ticks_a_nanosecond = (before.tsc - first.tsc) / (before.monotonic - first.monotonic)
    passed = (after.tsc - before.tsc) / ticks_a_nanosecond
    # The TSC itself missed nothing, by the host's clock.
    assert 0.99 * (after.began - before.ended) < passed < 1.01 * (after.ended - before.began)
    return (passed - (after.realtime - before.realtime)) / 1e9, (passed - (after.monotonic - before.monotonic)) / 1e9


def test_h23_the_tsc_runs_through_and_the_kernels_clocks_do_not(by_reboot: Crossing, by_library: Crossing) -> None:
    by_tsc = [lost(by_reboot), lost(by_library)]
    print("seconds lost over the jumps, CLOCK_REALTIME and CLOCK_MONOTONIC:", by_tsc)
    # CLOCK_REALTIME begins at the RTC's time, in whole seconds; CLOCK_MONOTONIC at 0.
    assert max(abs(realtime) for realtime, _ in by_tsc) > 1e-3
    assert all(monotonic > 1 for _, monotonic in by_tsc)


def test_h23_luoctl_tells_the_time_over_a_jump(machine: Machine, machine_python: Interpreter, tmp_path: Path) -> None:
    luod = Luod(machine, tmp_path / "state")
    luod.start()
    first = clocks(machine, machine_python)
    vm = Participant(luod, "vm-1")
    begin(luod)
    prepare(vm)
    vm.expect("freezing")
    frozen = clocks(machine, machine_python)
    with machine.expect_jump():
        vm.vote("freezing")
    booted = clocks(machine, machine_python)
    luod.start()
    served = clocks(machine, machine_python)
    told = luod.luoctl_json("timeline")["timeline"]
    (session,) = told["sessions"]
    print("luoctl tells of a jump:", told)
    # By the TSC, from between freezing and the vote to luod's start: luod's own times lie around that.
    ticks_a_second = (frozen.tsc - first.tsc) / (frozen.monotonic - first.monotonic) * 1e9
    least, most = ((reading.tsc - frozen.tsc) / ticks_a_second for reading in (booted, served))
    assert told["arrived"] - told["freezing"] > least
    assert told["arrived"] - session["frozen"] < most
    assert told["clock"] == "tsc"
    assert told["error"] < 0.01
    assert told["freezing"] < session["frozen"] <= told["jumping"] < told["arrived"]
