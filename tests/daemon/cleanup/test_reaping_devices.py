"""The built-in reaper where FINISH wants more than memory does: devices, and a kernel as the document has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from luod.testing.plugin import BootMachine
from tests.daemon.host import Luod, states
from tests.daemon.participant import start
from tests.devices import FIRST, RULES, boot, computes, set_up


def leave(luod: Luod) -> None:
    """Leaves "vm", a session with memory and a device that has worked, unclaimed in the next kernel."""
    luod.start()
    vmm = start(luod, program="workload")
    vmm.call("create", name="vm", slot="s")
    vmm.memfd("ram")
    vmm.call("preserve", session="s", file="ram", token=1)
    vmm.call("bind_driver", address=FIRST)
    vmm.call("open_device", address=FIRST, slot="vfio")
    set_up(vmm)
    vmm.ask("scratch", device="vfio", value=5)
    vmm.call("preserve", session="s", file="vfio", token=2, name="nic")
    vmm.call("quiesce", device="vfio")
    luod.jump()


@pytest.mark.parametrize("rules", RULES)
def test_a_device_is_bound_and_reset_and_the_next_guest_has_it(
    boot_machine: BootMachine, tmp_path: Path, rules: str
) -> None:
    luod = Luod(boot(boot_machine, rules=rules), tmp_path / "state")
    leave(luod)
    report = luod.luoctl("discard", "vm").text
    assert report == "vm: finished; files discarded: 1, devices reset: 1"
    vmm = start(luod, program="workload")
    assert states(vmm) == {}
    vmm.call("bind_driver", address=FIRST)
    vmm.call("open_device", address=FIRST, slot="vfio")
    set_up(vmm)
    assert vmm.ask("registers", device="vfio")["scratch"] == 0
    assert computes(vmm)


def test_a_device_that_the_host_has_stays_with_the_host(boot_machine: BootMachine, tmp_path: Path) -> None:
    """The manifest is its owner's word, and may name a disk."""
    luod = Luod(boot(boot_machine, devices=(f"{FIRST},driver=nvme",)), tmp_path / "state")
    leave(luod)
    assert "is with the driver nvme, and is not rebound" in luod.luoctl("discard", "vm", check=False).stderr.decode()
    assert states(luod.vmm()) == {"incoming vm": "stuck"}
    driver = luod.machine.run(["readlink", f"/sys/bus/pci/devices/{FIRST}/driver"]).text
    assert driver.rpartition("/")[2].strip() == "nvme"


def test_a_kernel_that_wants_every_file_retrieved_gets_that(boot_machine: BootMachine, tmp_path: Path) -> None:
    luod = Luod(boot_machine(arguments=("--profile", "document")), tmp_path / "state")
    luod.start()
    vmm = luod.vmm()
    vmm.call("create", name="vm", slot="s")
    for token in (1, 2):
        vmm.memfd(f"ram {token}")
        vmm.call("preserve", session="s", file=f"ram {token}", token=token)
    luod.jump()
    assert luod.luoctl("discard", "vm").text == "vm: finished; files discarded: 2, devices reset: 0"
    assert states(luod.vmm()) == {}
