"""The library with VFIO devices, in emulated machines: `luod.vfio`, and what sessions say of devices."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from luod import vfio
from luod.errors import BadInput
from luod.liveupdate import declared, devices
from luod.pci import check_address
from luod.testing import Machine
from luod.testing.interpreter import Interpreter
from luod.testing.plugin import BootMachine
from luod.uapi import vfio as uapi
from tests.devices import FIRST, SECOND, boot, computes, set_up
from tests.library import Error, Vmm, jump, load, start_vmm


@pytest.fixture
def machine(boot_machine: BootMachine) -> Machine:
    return boot(boot_machine)


@pytest.fixture
def vmm(machine: Machine, machine_python: Interpreter) -> Vmm:
    return start_vmm(machine, machine_python, "devices")


def use(vmm: Vmm, address: str = FIRST, slot: str = "vfio") -> None:
    """Makes a device work with the library, as a VMM does."""
    vmm.call("bind_driver", address=address)
    vmm.call("open_device", address=address, slot=slot)
    set_up(vmm, slot)


def refuses(vmm: Vmm, fd: str) -> Error:
    error = vmm.refused("preserve", session="s", file=fd, token=1, name="nic")
    assert error.kind == "FileNotPreservable"
    assert vmm.call("contents", session="s") == []
    return error


def next_boot(machine: Machine, python: Interpreter, before: Vmm) -> Vmm:
    """Loads the next kernel and jumps; a process of the next boot, with session "vm" retrieved as "s"."""
    load(machine, before)
    jump(machine, before)
    after = start_vmm(machine, python, "devices")
    after.call("retrieve_session", name="vm", slot="s")
    return after


def test_a_device_over_an_update(machine: Machine, machine_python: Interpreter, vmm: Vmm) -> None:
    use(vmm)
    vmm.ask("listen", device="vfio", slot="heard")
    assert computes(vmm)
    vmm.call("create", name="vm", slot="s")
    assert vmm.call("in_order", files=["vfio", "iommufd of vfio", "ram of vfio"]) == [
        "ram of vfio", "iommufd of vfio", "vfio"]  # fmt: skip
    vmm.call("preserve", session="s", file="ram of vfio", token=1, name="ram")
    vmm.call("preserve", session="s", file="vfio", token=2, name="nic")
    entry = vmm.call("contents", session="s")[1]
    assert (entry["kind"], entry["name"], entry["device"]) == ("vfio", "nic", FIRST)
    assert vmm.call("quiesce", device="vfio") == [uapi.VFIO_PCI_MSIX_IRQ_INDEX]
    assert vmm.call("quiesce", device="vfio") == []
    after = next_boot(machine, machine_python, vmm)
    assert [entry["device"] for entry in after.call("contents", session="s")] == [None, FIRST]

    # Without its driver it would be lost for good, so it is not tried.
    error = after.refused("retrieve", session="s", file="nic", slot="vfio")
    assert error.kind == "VfioDeviceNotBound"
    assert FIRST in error.message
    assert after.refused("open_device", address=FIRST, slot="none").errno == "ENODEV"
    assert after.call("bind_driver", address=FIRST) == "/dev/vfio/devices/vfio0"
    assert after.refused("open_device", address=FIRST, slot="none").errno == "EBUSY"
    error = after.refused("finish", session="s", discard=True)
    assert (error.kind, error.errno) == ("FinishRefused", "EBUSY")
    assert f"{FIRST} (token 2) is not retrieved" in error.message
    after.call("retrieve", session="s", file="nic", slot="vfio")
    after.call("retrieve", session="s", file="ram", slot="ram of vfio")
    assert after.call("state", device="vfio") == "UNBOUND"
    error = after.refused("finish", session="s")
    assert f"{FIRST} (token 2) is not bound to an iommufd" in error.message
    after.ask("set_up", device="vfio", memory="ram of vfio", slot="iommufd of vfio")
    assert after.call("state", device="vfio") == "READY"
    after.call("finish", session="s")
    assert computes(after)

    # Into the next update, of a file that does not say which device it is.
    after.call("create", name="vm", slot="again")
    after.call("preserve", session="again", file="vfio", token=2, name="nic", device=FIRST)
    assert after.call("contents", session="again")[0]["device"] == FIRST


def test_tried_without_its_driver_it_is_lost_and_the_error_says_so(
    machine: Machine, machine_python: Interpreter, vmm: Vmm
) -> None:
    use(vmm)
    vmm.call("create", name="vm", slot="s")
    vmm.call("preserve", session="s", file="vfio", token=2, name="nic")
    after = next_boot(machine, machine_python, vmm)
    error = after.refused("retrieve", session="s", file="nic", slot="vfio", check_driver=False)
    assert (error.kind, error.errno) == ("RetrieveFailed", "ENODEV")
    assert "no VFIO driver had the device" in error.message
    after.call("bind_driver", address=FIRST)
    assert after.refused("retrieve", session="s", file="nic", slot="vfio").kind == "RetrieveFailed"


def test_h29_a_session_whose_device_is_lost_gives_its_other_files_and_says_that_it_cannot_be_finished(
    machine: Machine, machine_python: Interpreter, vmm: Vmm
) -> None:
    use(vmm)
    vmm.call("create", name="vm", slot="s")
    vmm.call("preserve", session="s", file="ram of vfio", token=1, name="ram")
    vmm.call("preserve", session="s", file="vfio", token=2, name="nic")
    after = next_boot(machine, machine_python, vmm)
    error = after.refused("retrieve", session="s", file="nic", slot="vfio", check_driver=False)
    assert "cannot be finished" in error.hint
    assert "other files" in error.hint
    after.call("retrieve", session="s", file="ram", slot="ram")
    refused = after.refused("finish", session="s")
    assert (refused.kind, refused.tokens) == ("NotRetrieved", (2,))
    assert "cannot be finished" in refused.hint
    refused = after.refused("finish", session="s", discard=True)
    assert refused.kind == "FinishRefused"
    assert f"{FIRST} (token 2) could not be retrieved (ENODEV)" in refused.message
    assert "Then release the session" in refused.hint


def test_files_of_groups_are_refused_with_what_to_preserve_instead(vmm: Vmm) -> None:
    vmm.call("bind_driver", address=FIRST)
    vmm.ask("open_group", number=1, group="group", container="container")
    vmm.ask("get_device_fd", group="group", address=FIRST, slot="vfio")
    vmm.call("create", name="vm", slot="s")
    assert "VFIO_GROUP_GET_DEVICE_FD" in refuses(vmm, "vfio").hint
    for fd in ("group", "container"):
        assert "groups and containers" in refuses(vmm, fd).hint
    vmm.call("open_iommufd", slot="iommufd")
    assert "iommufd" in refuses(vmm, "iommufd").hint


@pytest.mark.parametrize(
    ("rules", "options", "bound", "words"),
    [
        ("v2", ",driver=mlx5-vfio-pci", False, "has the driver mlx5-vfio-pci"),
        ("v5", "", False, "bind it to an iommufd first"),
        ("v2", ",vendor=0x8086,display", True, "Intel display"),
        ("v5", ",vendor=0x8086,display", True, "Intel display"),
        ("v5", ",acs-quirk", True, "ACS quirk"),
    ],
)
def test_a_device_is_refused_with_the_rule_it_breaks(
    boot_machine: BootMachine, machine_python: Interpreter, rules: str, options: str, bound: bool, words: str
) -> None:
    machine = boot(boot_machine, rules=rules, devices=(FIRST + options,))
    vmm = start_vmm(machine, machine_python, "devices")
    if "driver=" not in options:
        vmm.call("bind_driver", address=FIRST)
    vmm.call("open_device", address=FIRST, slot="vfio")
    if bound:
        vmm.call("open_iommufd", slot="iommufd")
        vmm.call("bind", device="vfio", iommufd="iommufd")
    vmm.call("create", name="vm", slot="s")
    assert words in refuses(vmm, "vfio").hint


def test_a_virtual_function_is_refused_by_name(boot_machine: BootMachine, machine_python: Interpreter) -> None:
    machine = boot(boot_machine, rules="v5", devices=(FIRST, f"{SECOND},vf-of={FIRST}"))
    vmm = start_vmm(machine, machine_python, "devices")
    vmm.call("bind_driver", address=SECOND)
    vmm.call("open_device", address=SECOND, slot="vfio")
    vmm.call("create", name="vm", slot="s")
    hint = refuses(vmm, "vfio").hint
    assert "virtual function" in hint
    # H28
    assert "without virtual functions" in hint


def test_a_wrong_direction_is_not_taken_for_the_devices_fault(
    machine: Machine, machine_python: Interpreter, vmm: Vmm
) -> None:
    vmm.call("create", name="vm", slot="s")
    vmm.memfd("ram")
    vmm.call("preserve", session="s", file="ram", token=1)
    after = next_boot(machine, machine_python, vmm)
    use(after)
    after.call("fd", session="s", slot="incoming")
    after.call("wrap_outgoing", fd="incoming", slot="wrong", manifest=False)
    assert after.refused("preserve", session="wrong", file="vfio", token=9).kind == "WrongDirection"


def test_a_driver_takes_the_place_of_another(boot_machine: BootMachine, machine_python: Interpreter) -> None:
    machine = boot(boot_machine, devices=(f"{FIRST},driver=nvme,class=0x010802",))
    vmm = start_vmm(machine, machine_python, "devices")
    assert vmm.ask("driver", address=FIRST) == "nvme"
    for _ in range(2):
        assert vmm.call("bind_driver", address=FIRST) == "/dev/vfio/devices/vfio0"
        assert vmm.ask("driver", address=FIRST) == "vfio-pci"
    use(vmm)
    assert computes(vmm)


def test_what_is_not_there(vmm: Vmm) -> None:
    assert vmm.refused("bind_driver", address=SECOND).errno == "ENOENT"
    error = vmm.refused("bind_driver", address=FIRST, driver="nosuch")
    assert error.errno == "ENOENT"
    assert "nosuch" in error.message
    vmm.call("bind_driver", address=FIRST)
    vmm.call("open_device", address=FIRST, slot="vfio")
    vmm.ask("open", path="/dev/null", flags=os.O_RDWR, slot="null")
    assert vmm.refused("bind", device="vfio", iommufd="null").errno in ("EBADFD", "EBADF")
    assert vmm.refused("attach", device="vfio", page_table=1).errno == "EINVAL"
    vmm.call("open_iommufd", slot="iommufd")
    vmm.call("bind", device="vfio", iommufd="iommufd")
    assert vmm.refused("attach", device="vfio", page_table=999).errno == "ENOENT"
    space = vmm.call("new_address_space", iommufd="iommufd")
    vmm.call("attach", device="vfio", page_table=space)


def test_an_iommufd_is_named_in_the_manifest(boot_machine: BootMachine, machine_python: Interpreter) -> None:
    vmm = start_vmm(boot(boot_machine, "--iommufd-preservation"), machine_python, "devices")
    vmm.call("bind_driver", address=FIRST)
    vmm.call("open_device", address=FIRST, slot="vfio")
    vmm.ask("memfd", slot="ram of vfio", size=1 << 20)
    vmm.ask("add_seals", fd="ram of vfio", seals=0x7)  # SEAL, SHRINK, GROW
    vmm.ask("share", device="vfio", memory="ram of vfio", slot="iommufd")
    vmm.call("create", name="vm", slot="s")
    for token, file in enumerate(("ram of vfio", "iommufd", "vfio"), start=2):
        vmm.call("preserve", session="s", file=file, token=token)
    assert [file["kind"] for file in vmm.call("contents", session="s")] == ["memfd", "iommufd", "vfio"]


@pytest.mark.parametrize(
    ("symbols", "has"),
    [
        (None, None),
        ("", None),
        ("0 t vfio_pci_core_enable\t[vfio_pci_core]\n", False),
        ("0 t do_one\n0 t vfio_pci_liveupdate_preserve\t[vfio_pci]\n", True),
    ],
)
def test_whether_this_kernel_has_a_handler_for_devices_is_told_by_its_symbols(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, symbols: str | None, has: bool | None
) -> None:
    if symbols is not None:
        (tmp_path / "kallsyms").write_text(symbols)
    monkeypatch.setattr(declared, "_FILE", str(tmp_path / "profile"))
    assert devices.has_handler(tmp_path / "kallsyms") is has
    (tmp_path / "profile").write_text("mainline\n")
    assert devices.has_handler(tmp_path / "kallsyms") is None


def test_h27_a_call_on_a_device_while_its_driver_is_taken_away_says_so() -> None:
    error = vfio.refusal("VFIO_DEVICE_BIND_IOMMUFD", errno.EAGAIN)
    assert "vfio-pci is being taken from the device" in error.message
    assert (error.errno, "never return" in error.hint) == (errno.EAGAIN, True)


@pytest.mark.parametrize("address", ["", "01:00.0", "0000:01:00", "0000:01:00.8", "/etc/passwd", "0000:01:00.0\n"])
def test_no_address(address: str) -> None:
    with pytest.raises(BadInput, match="not a PCI address"):
        check_address(address)


def test_an_address_is_spelled_as_sysfs_does() -> None:
    assert check_address("0000:0A:1F.7") == "0000:0a:1f.7"
