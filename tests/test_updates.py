"""The main job at its full size, on any machine: two VMMs, 128 MiB, three live updates in a row, luod killed between.

And what must not disturb it: a kernel that somebody loads behind luod's back.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.scenario import Guest, Story, can_become
from luod.testing import Machine, require_tool
from luod.testing.plugin import booting_machines
from tests.daemon.host import Luod

pytestmark = pytest.mark.luod_processors(2)  # as hosts have

MEBIBYTES = 64
UPDATES = 3


def begun(machine: Machine, directory: Path) -> tuple[Luod, Story]:
    luod = Luod(machine, directory / "state")
    guests = (Guest("vm-alice", None), Guest("vm-bob", 1000 if can_become(machine, 1000) else None))
    story = Story(luod, guests, MEBIBYTES, print)
    story.start_luod()
    return luod, story


@pytest.fixture(scope="module")
def journey(machine_kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Machine, Story]]:
    with booting_machines(machine_kind, scratch=tmp_path_factory.getbasetemp(), processors=2) as boot:
        machine = boot()
        yield machine, begun(machine, tmp_path_factory.mktemp("journey"))[1]


@pytest.mark.jumps_on
@pytest.mark.parametrize("update", range(1, UPDATES + 1))
def test_three_updates_in_a_row(journey: tuple[Machine, Story], update: int) -> None:
    """Of one machine; each is a test by itself, for the time it may take on emulated processors."""
    machine, story = journey
    assert machine.boot == update, "the update before this one failed"
    digests = story.fill()
    story.update()
    assert machine.boot == update + 1
    story.start_luod()
    story.check(digests)
    assert story.names() == []


def test_an_update_with_luod_killed_on_both_sides_of_it(machine: Machine, tmp_path: Path) -> None:
    luod, story = begun(machine, tmp_path)
    digests = story.fill()
    luod.kill_serve()
    assert story.names() == sorted(digests)
    story.update()
    story.start_luod()
    luod.kill_serve()
    story.check(digests)
    assert story.names() == []


def test_a_kernel_loaded_behind_luods_back_is_not_what_it_jumps_into(machine: Machine, tmp_path: Path) -> None:
    kexec = require_tool("kexec", package="kexec-tools")
    luod = Luod(machine, tmp_path / "state")
    luod.start()
    vmm = luod.vmm()
    vmm.call("create", name="vm", slot="s")
    digest = vmm.memfd("ram", size=1 << 20, seed=1)
    vmm.call("preserve", session="s", file="ram", token=1, name="ram")
    luod.load()
    ours = machine.read("/proc/cmdline")
    # By the older call, which carries nothing, and with a command line that switches LUO off.
    machine.run([kexec, "-c", "-l", machine.kernel, "--command-line", "liveupdate=off kho=off"])
    assert machine.read("/sys/kernel/kexec_loaded") == b"1\n"
    luod.force_update()
    assert machine.read("/proc/cmdline") == ours
    luod.start()
    vmm = luod.vmm()
    vmm.call("retrieve_session", name="vm", slot="s")
    vmm.call("retrieve", session="s", file="ram", slot="ram")
    assert vmm.ask("digest", fd="ram") == digest
    vmm.call("finish", session="s")
