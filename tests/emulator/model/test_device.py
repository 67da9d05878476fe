"""/dev/liveupdate: docs/kernel.md, 1."""

from __future__ import annotations

from errno import EBUSY, EIO, ENODEV, ENOENT

import pytest

from luod.emulator.model.kernel import Kernel
from tests.emulator.model.world import FORMATS, Process, World, boot, bzimage, jump, number


@pytest.mark.parametrize(
    "line",
    [
        "liveupdate=off kho=on",
        "liveupdate=0 kho=on",
        "kho=on",
        "liveupdate=on kho=off",
        "liveupdate=on",
        "liveupdate kho=on",
        "liveupdate=on liveupdate=off kho=on",
        "init=x -- liveupdate=on kho=on",
        '"x liveupdate=on kho=on"',
        "",
    ],
)
def test_no_device_unless_the_command_line_asks(line: str) -> None:
    world = boot(lambda host: Kernel(host, command_line=line))
    assert not world.kernel.has_device
    assert Process(world).open_device() == -ENODEV


@pytest.mark.parametrize(
    "line",
    ["liveupdate=on kho=on", "kho=1 liveupdate=1", "ro liveupdate=y quiet kho=Yes", "liveupdate=0 liveupdate=on kho=T"],
)
def test_device_when_the_command_line_asks(line: str) -> None:
    world = boot(lambda host: Kernel(host, command_line=line))
    assert world.kernel.has_device
    assert Process(world).open_device() >= 0


def test_kho_off_is_logged() -> None:
    world = boot(lambda host: Kernel(host, command_line="liveupdate=on kho=off"))
    assert world.lines == ["luo: Disabling liveupdate because KHO is disabled"]


def test_second_open_is_ebusy(world: World, vmm: Process, device: int) -> None:
    assert vmm.open_device() == -EBUSY
    assert Process(world).open_device() == -EBUSY


def test_open_while_only_a_dup_is_open(vmm: Process, device: int) -> None:
    duplicate = vmm.dup(device)
    vmm.close(device)
    assert vmm.open_device() == -EBUSY
    vmm.close(duplicate)
    assert vmm.open_device() >= 0


def test_close_and_reopen_leaves_sessions_alone(world: World, vmm: Process, device: int) -> None:
    number(vmm.create(device, b"waiting"))
    late = jump(world, vmm)
    device = late.open_device()
    kept = number(late.create(device, b"open"))
    late.close(device)
    device = late.open_device()
    assert number(late.retrieve_session(device, b"waiting"))
    assert late.preserve(kept, late.memfd(), 1) == 0


def test_open_without_handler_is_eio_for_good(world: World, vmm: Process, device: int) -> None:
    number(vmm.create(device, b"empty"))
    session = number(vmm.create(device, b"x"))
    assert vmm.preserve(session, vmm.memfd(b"ram"), 1) == 0
    late = jump(world, vmm, image=bzimage("luo-v5", "kho-v4"))
    assert late.open_device() == -EIO
    assert late.open_device() == -EIO
    assert world.lines[-2:] == [
        "luo: No registered handler for compatible 'memfd-v2'",
        f"luo: Failed to deserialize files for session [x] {-ENOENT}",
    ]
    later = jump(world, late)
    device = later.open_device()
    assert later.retrieve_session(device, b"x") == -ENOENT
    assert later.retrieve_session(device, b"empty") == -ENOENT


def test_sessions_without_files_need_no_handler(world: World, vmm: Process, device: int) -> None:
    number(vmm.create(device, b"empty"))
    late = jump(world, vmm, image=bzimage("luo-v5", "kho-v4"))
    device = late.open_device()
    session = number(late.retrieve_session(device, b"empty"))
    assert late.finish(session) == 0
    assert late.preserve(number(late.create(device, b"new")), late.memfd(), 1) == -ENOENT


def test_later_kernels_have_what_their_image_carries(world: World, vmm: Process) -> None:
    late = jump(world, vmm, image=bzimage(*(name for name in FORMATS if name != "luo-v5")))
    assert late.open_device() == -ENODEV
    assert world.kernel.boot == 2
