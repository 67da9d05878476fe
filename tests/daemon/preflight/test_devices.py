"""An unbind of a preserved device, seen in a /proc and a /sys made here, and on a machine (H27)."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest

from luod.daemon.preflight.devices import Device, Devices, judge, observe
from luod.ipc.types.updates import DeclaredFile
from luod.testing import Machine, eventually
from luod.testing.plugin import BootMachine
from tests.daemon.host import Luod
from tests.daemon.participant import Participant, begin, file, prepare
from tests.daemon.preflight.test_check import GOOD, KERNEL, without
from tests.devices import FIRST, SECOND, boot, set_up

DELETE_MODULE = {"x86_64": 176, "aarch64": 106}.get(platform.machine(), 0)


def vfio(device: str | None, *, when: str = "preserved", kind: str = "vfio") -> DeclaredFile:
    return DeclaredFile(1, None, kind, 0, 0, 0, when, device)  # type: ignore[arg-type]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Returns the root of a machine with a device bound to vfio-pci, and a process 7 without files of it."""
    show(tmp_path, FIRST)
    process(tmp_path, 7, "systemd", "/dev/null")
    return tmp_path


def show(root: Path, address: str) -> Path:
    folder = root / "sys/bus/pci/devices" / address
    (folder / "vfio-dev/vfio0").mkdir(parents=True)
    driver = root / "sys/bus/pci/drivers/vfio-pci"
    driver.mkdir(parents=True, exist_ok=True)
    (folder / "driver").symlink_to(driver)
    return folder


def process(root: Path, pid: int, command: str, opened: str, syscall: str = "0 0x0") -> None:
    folder = root / f"proc/{pid}"
    (folder / "fd").mkdir(parents=True)
    (folder / "fd/1").symlink_to(opened)
    (folder / "comm").write_text(command + "\n")
    (folder / "syscall").write_text(syscall + "\n")


def found(root: Path, *files: DeclaredFile) -> list[str]:
    return [each.what for each in judge(observe(files, root))]


def test_a_bound_device_is_no_finding_and_no_process_is_looked_at(root: Path) -> None:
    process(root, 8, "sh", "/sys/bus/pci/drivers/vfio-pci/unbind")
    assert observe([vfio(FIRST)], root) == Devices((Device(FIRST, True),))
    assert found(root, vfio(FIRST)) == []


@pytest.mark.parametrize("gone", ["driver", "vfio-dev/vfio0"])
def test_h27_a_device_without_driver_or_vfio_file_is_a_refusal_with_the_process(root: Path, gone: str) -> None:
    path = root / "sys/bus/pci/devices" / FIRST / gone
    if path.is_symlink():
        path.unlink()
    else:
        path.rmdir()
    process(root, 8, "sh", "/sys/bus/pci/drivers/vfio-pci/unbind")
    process(root, 9, "vi", "/home/root/unbind")
    (what,) = found(root, vfio(FIRST))
    assert FIRST in what
    assert what.endswith("by sh (pid 8)")
    assert found(root, vfio(FIRST, when="preparing"), vfio(FIRST, kind="memfd")) == []
    preserved = observe([vfio(FIRST, when="preparing")], root, preserved=("preserved", "preparing"))
    assert [each.what for each in judge(preserved)] == [what]


def test_h27_a_session_without_a_participant_may_hold_the_device_that_a_driver_is_taken_from(root: Path) -> None:
    assert list(judge(observe([], root, undeclared=True))) == []
    process(root, 8, "sh", "/sys/bus/pci/drivers/vfio-pci/unbind")
    (finding,) = judge(observe([], root, undeclared=True))
    assert "by sh (pid 8)" in finding.what


def test_h27_a_module_that_is_being_unloaded_is_named(root: Path) -> None:
    process(root, 8, "modprobe", "/dev/null", syscall=f"{DELETE_MODULE} 0x1 0x2")
    (what,) = found(root, vfio(SECOND))
    assert what.endswith("by modprobe (pid 8)")


def test_h27_a_device_of_unknown_address_is_refused_only_while_some_driver_is_being_taken(root: Path) -> None:
    assert found(root, vfio(None)) == found(root, vfio("../../../../etc")) == []
    process(root, 8, "sh", "/sys/devices/pci0000:00/0000:00:01.0/remove")
    for unknown in (None, "../../../../etc"):
        (what,) = found(root, vfio(unknown))
        assert "by sh (pid 8)" in what


def test_a_machine_that_shows_no_devices_is_no_finding(tmp_path: Path) -> None:
    assert found(tmp_path, vfio(FIRST)) == []


@pytest.fixture
def machine(boot_machine: BootMachine) -> Machine:
    return boot(boot_machine, rules="v5", devices=(FIRST, SECOND))


def with_undeclared_device(luod: Luod) -> Participant:
    """Returns a process that follows updates and declares nothing. Its session "one" holds a device."""
    one = Participant(luod, "one", declare=False, program="workload")
    one.vmm.call("bind_driver", address=FIRST)
    one.vmm.call("open_device", address=FIRST, slot="vfio")
    set_up(one.vmm)
    one.vmm.call("preserve", session="one", file="vfio", token=2, name="nic")
    return one


def with_device(luod: Luod, *, when: str = "preserved") -> Participant:
    """Returns a participant whose session "one" holds a device, declared as preserved in the phase `when`."""
    one = with_undeclared_device(luod)
    one.declare(file(1), file(2, size=0, allocated=0, kind="vfio", when=when) | {"name": "nic", "device": FIRST})
    return one


def begin_unbind(luod: Luod) -> None:
    luod.machine.spawn(["sh", "-c", f"echo {FIRST} > /sys/bus/pci/drivers/vfio-pci/unbind"])
    bound = ["test", "-e", f"/sys/bus/pci/devices/{FIRST}/driver"]
    eventually(lambda: luod.machine.run(bound, check=False).returncode == 1, describe="the device has no driver")


def test_h27_an_update_is_refused_while_an_unbind_waits_for_the_session(luod: Luod) -> None:
    with_device(luod)
    luod.load()
    assert "unbind-pending" not in refused(luod)
    begin_unbind(luod)
    findings = refused(luod)
    assert FIRST in findings["unbind-pending"]
    assert "by sh (pid " in findings["unbind-pending"]
    result = luod.luoctl("update", check=False)
    assert (result.returncode, b"unbind-pending" in result.stderr) == (4, True)


@pytest.mark.parametrize("when", ["preserved", "freezing"])
def test_h27_an_unbind_that_begins_while_guests_are_frozen_cancels_the_update(luod: Luod, when: str) -> None:
    one = with_device(luod, when=when)
    operator = begin(luod)
    prepare(one)
    one.expect("freezing")
    begin_unbind(luod)
    one.vote("freezing")
    reason = one.expect("jumping", "cancelled")["reason"]
    assert "unbind-pending" in reason
    assert FIRST in reason
    operator.until("cancelled")


def test_h27_an_update_with_skip_unready_does_not_leave_the_device_of_a_dead_participant_behind(luod: Luod) -> None:
    one = with_device(luod)
    luod.load()
    one.vmm.program.kill()
    begin_unbind(luod)
    result = luod.luoctl("update", "--skip-unready", check=False)
    assert (result.returncode, b"unbind-pending" in result.stderr) == (4, True)


def test_h20_a_device_that_only_a_manifest_names_needs_a_handler_too(luod: Luod) -> None:
    with_undeclared_device(luod)
    luod.machine.write(KERNEL, without("vfio-pci"))
    given = ("--kernel", KERNEL, "--cmdline", GOOD, "--ignore-finding", "contents-undeclared")
    result = luod.luoctl("update", *given, check=False)
    assert (result.returncode, b"handler-missing: the next kernel has no handler for vfio-pci" in result.stderr) == (
        4,
        True,
    )


def test_h27_a_device_that_only_a_manifest_names_is_looked_at_too(luod: Luod) -> None:
    with_undeclared_device(luod)
    luod.load()
    begin_unbind(luod)
    assert FIRST in refused(luod)["unbind-pending"]


def refused(luod: Luod) -> dict[str, str]:
    findings = json.loads(luod.luoctl("--json", "check", check=False).stdout)["findings"]
    return {each["name"]: each["what"] for each in findings if each["severity"] == "refusal"}
