"""H1, H2, H3: PRESERVE_FD and RETRIEVE_FD take memory and time, and one that runs out of memory destroys data."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from luod.testing import Machine
from luod.testing.interpreter import Interpreter
from tests.conformance.caller import Caller
from tests.conformance.voyage import Voyage, across_jumps
from tests.daemon.host import Luod
from tests.daemon.participant import Operator, Participant, file
from tests.kernel.hazards.cgroup import limited
from tests.library import Vmm, start_vmm

MIB = 1 << 20


def number(machine: Machine, path: str, name: str) -> int:
    """Returns the number after `name` in a file of lines `name number` or `name: number kB`."""
    fields = dict(line.replace(":", " ").split()[:2] for line in machine.read(path).decode().splitlines())
    return int(fields[name])


def as_vmm(caller: Caller) -> Vmm:
    return Vmm(caller.program, caller.path, caller.row)


# -- H2: in the first boot, before the rows below take their memory -----------------------------------------------


@pytest.fixture
def expendable(shared: Machine, machine_python: Interpreter) -> Iterator[Vmm]:
    """Yields a VMM with a memfd "ram", written through, of 700 of the machine's 1024 MiB; the first to be killed."""
    root = start_vmm(shared, machine_python)
    pid = root.ask("fork", kid="vmm")
    vmm = Vmm(root.program, ("vmm",))
    shared.write(f"/proc/{pid}/oom_score_adj", b"1000")
    vmm.ask("memfd", slot="ram", size=700 * MIB)
    vmm.ask("fallocate", fd="ram", mode=0, offset=0, length=700 * MIB)
    vmm.create(b"h2")
    yield vmm
    root.program.kill()


def test_h02_preserving_memory_that_is_there_already_gets_the_vmm_killed(expendable: Vmm, shared: Machine) -> None:
    moved = number(shared, "/proc/vmstat", "pgmigrate_success")
    assert "gone" in expendable.reply("preserve", session="s", fd="ram", token=1)
    assert number(shared, "/proc/vmstat", "oom_kill") > 0
    # No page of the memfd was missing. The memory went to pages that moved out of kexec handover's scratch.
    assert number(shared, "/proc/vmstat", "pgmigrate_success") > moved


def test_h02_luod_grants_no_preserve_that_would_get_its_caller_killed(machine: Machine, tmp_path: Path) -> None:
    luod = Luod(machine, tmp_path / "state")
    luod.start()
    luod.load()
    big = Participant(luod, "big")
    size = 700 * MIB
    big.vmm.ask("memfd", slot="guest", size=size)
    big.vmm.ask("fallocate", fd="guest", mode=0, offset=0, length=size)
    operator = Operator(luod)
    operator.update()
    big.expect("preparing")
    big.declare(file(1), file(2, size=size, allocated=size, when="preparing"))
    assert "PRESERVE for big takes" in operator.until("cancelled")["reason"]
    assert luod.status()["state"] == "idle"
    assert number(machine, "/proc/vmstat", "oom_kill") == 0


# -- H1: a RETRIEVE_FD that fails is final ------------------------------------------------------------------------


def carry_two(caller: Caller) -> None:
    """Carries two sessions with 64 MiB each: one to be lost, one to be kept. The second has a manifest."""
    vmm = as_vmm(caller)
    vmm.create(caller.row + b" raw", slot="raw")
    vmm.preserved_memfd(size=64 * MIB, slot="raw ram", session="raw")
    vmm.ask("close", fd="raw ram")
    vmm.call("create", name=f"{caller.row.decode()} ours", slot="ours")
    vmm.memfd("ram", size=64 * MIB, seed=1)
    vmm.call("preserve", session="ours", file="ram", token=1, name="ram")
    vmm.ask("close", fd="ram")


def bring_two(caller: Caller) -> Vmm:
    """Retrieves them as the fds "raw" and "ours"."""
    vmm = as_vmm(caller)
    vmm.retrieve(caller.row + b" raw", slot="raw")
    vmm.retrieve(caller.row + b" ours", slot="ours")
    return vmm


@across_jumps
def test_h01_in_a_cgroup_without_room_for_it(caller: Caller) -> Voyage:
    carry_two(caller)
    caller = yield
    holder = bring_two(caller)
    # Raw: the caller is killed half way, and the rest of the file is freed.
    victim = limited(holder, "h1-raw", limit=32 * MIB)
    assert "gone" in victim.reply("retrieve_fd", session="raw", token=1, slot="ram")
    for _ in range(2):
        assert holder.says("retrieve_fd", session="raw", token=1, slot="ram") == "ENOMEM"
    # Ours: refused before the kernel is asked, and still there for a process with enough memory.
    careful = limited(holder, "h1-ours", limit=32 * MIB)
    careful.call("wrap_incoming", fd="ours", slot="s")
    error = careful.refused("retrieve", session="s", file="ram", slot="ram")
    assert (error.kind, error.needed) == ("NotEnoughMemory", 64 * MIB)
    assert "/sys/fs/cgroup/h1-ours" in error.message
    holder.call("wrap_incoming", fd="ours", slot="s")
    holder.call("retrieve", session="s", file="ram", slot="ours ram")
    assert holder.ask("stat", fd="ours ram")["size"] == 64 * MIB


@contextlib.contextmanager
def strict_overcommit(machine: Machine, *, left: int) -> Iterator[None]:
    """Sets `vm.overcommit_memory=2`, with `left` bytes that may still be committed."""
    committed = number(machine, "/proc/meminfo", "Committed_AS")
    machine.write("/proc/sys/vm/overcommit_kbytes", b"%d" % (committed + left // 1024))
    machine.write("/proc/sys/vm/overcommit_memory", b"2")
    try:
        yield
    finally:
        machine.write("/proc/sys/vm/overcommit_memory", b"0")


@across_jumps
def test_h01_under_strict_overcommit(caller: Caller) -> Voyage:
    carry_two(caller)
    caller = yield
    holder = bring_two(caller)
    holder.call("wrap_incoming", fd="ours", slot="s")
    with strict_overcommit(caller.program.machine, left=48 * MIB):
        assert holder.says("retrieve_fd", session="raw", token=1, slot="ram") == "ENOSPC"
        error = holder.refused("retrieve", session="s", file="ram", slot="ram")
        assert (error.kind, error.needed) == ("NotEnoughMemory", 64 * MIB)
        assert "strict overcommit" in error.message
    # Without the limit, ours is there, the other one is not.
    assert holder.says("retrieve_fd", session="raw", token=1, slot="ram") == "ENOSPC"
    holder.call("retrieve", session="s", file="ram", slot="ram")
    assert holder.ask("stat", fd="ram")["size"] == 64 * MIB


@across_jumps
def test_h01_what_is_discarded_is_charged_to_nobody(caller: Caller) -> Voyage:
    vmm = as_vmm(caller)
    vmm.call("create", name=caller.row.decode(), slot="s")
    vmm.memfd("ram", size=64 * MIB)
    vmm.call("preserve", session="s", file="ram", token=1)
    caller = yield
    holder = as_vmm(caller)
    holder.retrieve()
    reaper = limited(holder, "h1-reaper", limit=32 * MIB)
    reaper.call("wrap_incoming", fd="s", slot="s")
    reaper.call("finish", session="s", discard=True)
    assert holder.says("retrieve_fd", session="s", token=1, slot="ram") == "ENOENT"


# -- H3: what costs time is a page, not a byte --------------------------------------------------------------------


@across_jumps
def test_h03_memory_of_the_library_comes_in_large_pages_and_a_plain_memfd_does_not(caller: Caller) -> Voyage:
    vmm = as_vmm(caller)
    machine = caller.program.machine
    large = number(machine, "/proc/meminfo", "ShmemHugePages")
    vmm.create()
    vmm.preserved_memfd(size=32 * MIB, slot="plain", token=1)
    assert number(machine, "/proc/meminfo", "ShmemHugePages") == large
    vmm.call("memory", slot="ours", size=32 * MIB)
    vmm.ask("preserve", session="s", fd="ours", token=2)
    assert number(machine, "/proc/meminfo", "ShmemHugePages") - large == 32 * 1024
    caller = yield
    # They return in the same pages, so RETRIEVE_FD has 16 folios to put in place for the one, 8192 for the other.
    machine = caller.program.machine
    large = number(machine, "/proc/meminfo", "ShmemHugePages")
    caller.retrieve()
    caller.ask("retrieve_fd", session="s", token=1, slot="plain")
    assert number(machine, "/proc/meminfo", "ShmemHugePages") == large
    caller.ask("retrieve_fd", session="s", token=2, slot="ours")
    assert number(machine, "/proc/meminfo", "ShmemHugePages") - large == 32 * 1024
