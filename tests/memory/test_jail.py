"""A VMM in a chroot without /proc, as Firecracker's jailer makes it: nothing is retrieved while limits are unknown."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from luod.testing.host import SOCKET
from luod.testing.tools import cannot_run
from tests.daemon.host import Luod

MIB = 1 << 20
JAIL = "/run/jail"


@pytest.fixture
def jailer(luod: Luod) -> Luod:
    """Starts luod with a session "vm" of the previous boot, with 8 MiB under the name `ram` and token 0."""
    vmm = luod.vmm()
    vmm.call("create", name="vm", slot="vm")
    vmm.memfd("ram", size=8 * MIB)
    vmm.call("preserve", session="vm", file="ram", name="ram")
    luod.jump()
    luod.machine.run(["mkdir", JAIL])
    return luod


@pytest.fixture
def cgroup() -> Iterator[tuple[str, str]]:
    """Yields the directory of a new memory cgroup and the name of its limit's file, and removes the cgroup."""
    name = f"luod-test-{os.getpid()}"
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        place, file = f"/sys/fs/cgroup/{name}", "memory.max"
    else:
        place, file = f"/sys/fs/cgroup/memory/{name}", "memory.limit_in_bytes"
    try:
        os.mkdir(place)
        if not os.path.exists(f"{place}/{file}"):
            raise FileNotFoundError(file)
    except OSError as error:
        with suppress(OSError):
            os.rmdir(place)
        cannot_run(f"no memory cgroup can be made here: {error}")
    yield place, file
    for pid in Path(place, "cgroup.procs").read_text(encoding="ascii").split():
        Path(os.path.dirname(place), "cgroup.procs").write_text(pid, encoding="ascii")
    os.rmdir(place)


def link_socket(jailer: Luod) -> None:
    """Puts luod's socket into the jail."""
    jailer.machine.run(["mkdir", "-p", JAIL + os.path.dirname(SOCKET)])
    jailer.machine.run(["ln", SOCKET, JAIL + SOCKET])


def test_h1_where_the_limits_cannot_be_read_nothing_is_retrieved_unless_asked_for(jailer: Luod) -> None:
    vmm = jailer.vmm()
    vmm.call("retrieve_session", name="vm", slot="vm")
    vmm.call("fd", session="vm", slot="fd")
    vmm.call("jail", directory=JAIL)
    # A session that luod gave to another process, which handed it on.
    vmm.call("wrap_incoming", fd="fd", slot="handed on")
    refused = vmm.refused("retrieve", session="handed on", file="ram", slot="ram")
    assert refused.kind == "MemoryUnknown"
    assert "/proc/self/cgroup" in refused.message
    assert refused.needed == 8 * MIB
    assert "check_memory=False" in refused.hint
    vmm.call("retrieve", session="handed on", file="ram", slot="ram", check_memory=False)


def test_a_session_that_luod_gave_knows_the_limits_after_chroot(jailer: Luod) -> None:
    vmm = jailer.vmm()
    vmm.call("retrieve_session", name="vm", slot="vm")
    vmm.call("jail", directory=JAIL)
    vmm.call("retrieve", session="vm", file="ram", slot="ram")


def test_luod_is_asked_where_its_socket_is_in_the_jail(jailer: Luod) -> None:
    link_socket(jailer)
    vmm = jailer.vmm()
    vmm.call("jail", directory=JAIL)
    vmm.call("retrieve_session", name="vm", slot="vm")
    vmm.call("retrieve", session="vm", file="ram", slot="ram")


def test_holes_are_not_filled_in_a_jail_while_memory_is_unknown(jailer: Luod) -> None:
    link_socket(jailer)
    vmm = jailer.vmm()
    vmm.call("jail", directory=JAIL)
    vmm.call("create", name="next", slot="next")
    vmm.call("fd", session="next", slot="fd")
    vmm.call("wrap_outgoing", fd="fd", slot="handed on", manifest=False)
    vmm.call("memory", slot="sparse", size=MIB, populate=False)
    refused = vmm.refused("preserve", session="handed on", file="sparse", token=7)
    assert refused.kind == "MemoryUnknown"
    vmm.call("preserve", session="next", file="sparse", name="sparse")


@pytest.mark.parametrize("socket", [False, True])
def test_h1_the_limit_of_its_cgroup_holds_in_a_jail_too(jailer: Luod, cgroup: tuple[str, str], socket: bool) -> None:
    place, file = cgroup
    vmm = jailer.vmm()
    if socket:
        link_socket(jailer)
        vmm.call("limit", cgroup=place, file=file, most=200 * MIB)
        vmm.call("jail", directory=JAIL)
        vmm.call("retrieve_session", name="vm", slot="vm")
    else:
        vmm.call("limit", cgroup=place, file=file, most=200 * MIB)
        vmm.call("retrieve_session", name="vm", slot="vm")
        vmm.call("jail", directory=JAIL)
    refused = vmm.refused("retrieve", session="vm", file="ram", slot="ram", size=300 * MIB)
    assert refused.kind == "NotEnoughMemory"
    assert os.path.basename(place) in refused.message
    # The limit as it is at the time of the call.
    Path(place, file).write_text("max" if file == "memory.max" else "-1", encoding="ascii")
    vmm.call("retrieve", session="vm", file="ram", slot="ram", size=300 * MIB)


def test_a_process_that_moved_to_another_cgroup_is_not_told_the_old_ones_limit(
    jailer: Luod, cgroup: tuple[str, str]
) -> None:
    place, file = cgroup
    vmm = jailer.vmm()
    vmm.call("retrieve_session", name="vm", slot="vm")
    vmm.call("limit", cgroup=place, file=file, most=200 * MIB)
    vmm.call("jail", directory=JAIL)
    refused = vmm.refused("retrieve", session="vm", file="ram", slot="ram")
    assert refused.kind == "MemoryUnknown"
    assert "moved to another cgroup" in refused.message
