"""Loading an image, reboot(2), and the next kernel of a machine: docs/kernel.md, 6 and 8."""

from __future__ import annotations

import gzip
import struct
from errno import EADDRNOTAVAIL, EBUSY, EFAULT, EINVAL, ENODEV, ENOENT, ENOEXEC, ENOMEM, EPERM

import pytest

from luod.emulator.model.image import read_formats
from luod.emulator.model.ports import Errno
from luod.emulator.model.results import Blocked, Ending, Jump, Panic
from luod.uapi import kexec
from luod.uapi.liveupdate import LIVEUPDATE_SESSION_FINISH
from tests.emulator.model.world import (
    COMMAND_LINE,
    FORMATS,
    IMAGE,
    MEMORY,
    PAGE,
    READ_ONLY,
    KexecArguments,
    Process,
    Segment,
    World,
    bzimage,
    jump,
    land,
    number,
)

# kexec_file_load


def test_load_and_unload(world: World, vmm: Process) -> None:
    seen = [world.kernel.kexec_loaded]
    assert vmm.kexec_file_load(IMAGE, COMMAND_LINE) == 0
    seen.append(world.kernel.kexec_loaded)
    assert vmm.kexec_file_load(b"", b"", kexec.KEXEC_FILE_UNLOAD) == 0
    seen.append(world.kernel.kexec_loaded)
    assert seen == [False, True, False]
    assert vmm.reboot() == -EINVAL


def test_load_needs_cap_sys_boot(world: World, vmm: Process) -> None:
    vmm.capabilities.clear()
    assert vmm.kexec_file_load(IMAGE, COMMAND_LINE, 0x100) == -EPERM
    assert vmm.kexec_load([], 0x40) == -EPERM
    assert vmm.reboot(0x12345, magic1=0) == -EPERM


def test_invalid_flags_come_before_the_image(vmm: Process) -> None:
    assert vmm.kexec_file_load(b"no image", COMMAND_LINE, 0x100) == -EINVAL
    assert vmm.kexec_file_load(b"", COMMAND_LINE, 0x100 | kexec.KEXEC_FILE_UNLOAD) == -EINVAL


def broken(offset: int, value: int) -> bytes:
    image = bytearray(IMAGE)
    image[offset] = value
    return bytes(image)


@pytest.mark.parametrize(
    "image",
    [
        b"x",
        b"\x7fELF" + bytes(4096),
        IMAGE[:1000],
        broken(0x1F1, 200),  # more setup sectors than there are bytes
        broken(0x1FE, 0),  # no boot sector
        broken(0x202, 0),  # no HdrS
        broken(0x206, 0x0B),  # protocol 2.11
        broken(0x211, 0),  # a zImage
        broken(0x236, 2),  # 32 bit
        broken(0x236, 1),  # not above 4 GiB
    ],
    ids=["byte", "elf", "short", "setup", "flag", "HdrS", "2.11", "zImage", "i386", "low"],
)
def test_what_is_no_kernel_image(world: World, vmm: Process, image: bytes) -> None:
    assert vmm.kexec_file_load(image, b"not terminated") == -ENOEXEC
    assert not world.kernel.kexec_loaded


def test_empty_image_or_initrd(world: World, vmm: Process) -> None:
    assert vmm.kexec_file_load(b"", COMMAND_LINE) == -EINVAL
    with pytest.raises(Errno) as refused:
        world.kernel.kexec_file_load(KexecArguments(IMAGE, COMMAND_LINE, initrd_size=0), 0, vmm)
    assert refused.value.code == EINVAL
    assert vmm.kexec_file_load(IMAGE, COMMAND_LINE, 0) == 0


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (b"", 0),
        (b"\0", 0),
        (b"quiet", -EINVAL),
        (b"quiet\0", 0),
        (b"x" * 2046 + b"\0", 0),
        (b"x" * 2047 + b"\0", -EINVAL),
    ],
    ids=["none", "empty", "unterminated", "plain", "longest", "too long"],
)
def test_a_command_line_ends_with_nul_and_has_a_longest_length(vmm: Process, line: bytes, answer: int) -> None:
    assert vmm.kexec_file_load(IMAGE, line) == answer


def test_a_failed_load_keeps_the_image(world: World, vmm: Process) -> None:
    assert vmm.kexec_file_load(IMAGE, b"first\0") == 0
    assert vmm.kexec_file_load(b"x", b"second\0") == -ENOEXEC
    assert vmm.reboot() == Jump()
    land(world, vmm)
    assert world.kernel.command_line == "first"


def test_crash_kernel_has_no_memory_and_leaves_the_other_alone(world: World, vmm: Process) -> None:
    assert vmm.kexec_file_load(IMAGE, COMMAND_LINE) == 0
    crash = kexec.KEXEC_FILE_ON_CRASH | kexec.KEXEC_FILE_NO_INITRAMFS
    assert vmm.kexec_file_load(IMAGE, COMMAND_LINE, crash) == -EADDRNOTAVAIL
    assert vmm.kexec_file_load(b"", b"", crash | kexec.KEXEC_FILE_UNLOAD) == 0
    assert vmm.kexec_load([], kexec.KEXEC_ON_CRASH) == 0
    assert world.kernel.kexec_loaded


def test_initrd_is_read_unless_told_otherwise(world: World, vmm: Process) -> None:
    class NoInitrd(KexecArguments):
        def initrd(self) -> int:
            raise AssertionError("asked for")

    arguments = NoInitrd(IMAGE, COMMAND_LINE)
    assert world.kernel.kexec_file_load(arguments, kexec.KEXEC_FILE_NO_INITRAMFS, vmm) == 0
    with pytest.raises(AssertionError, match="asked for"):
        world.kernel.kexec_file_load(arguments, 0, vmm)


# reboot


@pytest.mark.parametrize(("magic1", "magic2"), [(0, kexec.LINUX_REBOOT_MAGIC2), (kexec.LINUX_REBOOT_MAGIC1, 0)])
def test_a_reboot_without_its_magic_numbers_is_refused(vmm: Process, magic1: int, magic2: int) -> None:
    assert vmm.kexec_file_load(IMAGE, COMMAND_LINE) == 0
    assert vmm.reboot(magic1=magic1, magic2=magic2) == -EINVAL


@pytest.mark.parametrize("magic2", [kexec.LINUX_REBOOT_MAGIC2A, kexec.LINUX_REBOOT_MAGIC2B, kexec.LINUX_REBOOT_MAGIC2C])
def test_other_magics_and_signed_integers(vmm: Process, magic2: int) -> None:
    """A 64-bit register may hold the sign extension of an int."""
    assert vmm.reboot(kexec.LINUX_REBOOT_CMD_CAD_OFF, kexec.LINUX_REBOOT_MAGIC1 - 2**32, magic2) == 0


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (kexec.LINUX_REBOOT_CMD_RESTART, Ending.RESTART),
        (kexec.LINUX_REBOOT_CMD_HALT, Ending.HALT),
        (kexec.LINUX_REBOOT_CMD_POWER_OFF, Ending.POWER_OFF),
        (kexec.LINUX_REBOOT_CMD_CAD_ON, 0),
        (kexec.LINUX_REBOOT_CMD_CAD_OFF, 0),
        (0xD000FCE2, -EINVAL),  # LINUX_REBOOT_CMD_SW_SUSPEND, not configured
        (1, -EINVAL),
    ],
)
def test_other_commands_of_reboot_are_answered(vmm: Process, command: int, answer: object) -> None:
    assert vmm.reboot(command) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (b"", -EFAULT),
        (b"bootloader", -EFAULT),
        (b"x" * 254, -EFAULT),
        (b"\0", Ending.RESTART),
        (b"bootloader\0", Ending.RESTART),
        (b"x" * 255, Ending.RESTART),
        (b"x" * 5000 + b"\0", Ending.RESTART),
    ],
)
def test_the_text_of_a_restart(vmm: Process, text: bytes, answer: object) -> None:
    """255 bytes are read at most: longer text is cut off. `text` is followed by memory that cannot be read."""
    end = READ_ONLY + 2 * PAGE
    vmm.poke(end - len(text), text)
    assert vmm.reboot(kexec.LINUX_REBOOT_CMD_RESTART2, argument=end - len(text)) == answer


def test_nothing_loaded_and_sessions_stay_usable(vmm: Process, device: int) -> None:
    session = number(vmm.create(device, b"vm"))
    assert vmm.reboot() == -EINVAL
    assert vmm.preserve(session, vmm.memfd(), 1) == 0


def test_sessions_held_by_anything_are_carried(world: World, vmm: Process, device: int) -> None:
    held = number(vmm.create(device, b"held"))
    other = Process(world)
    vmm.send(held, other)
    vmm.close(held)
    vmm.close(device)
    late = jump(world, vmm, other)
    assert number(late.retrieve_session(late.open_device(), b"held"))


def test_sessions_closed_before_are_gone(world: World, vmm: Process, device: int) -> None:
    session = number(vmm.create(device, b"vm"))
    assert vmm.preserve(session, vmm.memfd(), 1) == 0
    vmm.die()
    late = jump(world)
    assert late.retrieve_session(late.open_device(), b"vm") == -ENOENT
    assert world.held == []


def test_created_and_preserved_after_the_load(world: World, vmm: Process, device: int) -> None:
    assert vmm.kexec_file_load(IMAGE, COMMAND_LINE) == 0
    assert vmm.preserve(number(vmm.create(device, b"vm")), vmm.memfd(b"ram"), 1) == 0
    assert vmm.reboot() == Jump()
    late = land(world, vmm)
    session = number(late.retrieve_session(late.open_device(), b"vm"))
    assert late.inode(number(late.retrieve(session, 1))).data == b"ram"


def test_calls_during_the_jump_block_for_ever(world: World, vmm: Process, device: int) -> None:
    number(vmm.create(device, b"in"))
    late = jump(world, vmm)
    device = late.open_device()
    incoming = number(late.retrieve_session(device, b"in"))
    outgoing = number(late.create(device, b"out"))
    assert late.kexec_file_load(IMAGE, COMMAND_LINE) == 0
    assert late.reboot() == Jump()
    for blocked in (
        late.create(device, b"x"),
        late.retrieve_session(device, b"x"),
        late.preserve(outgoing, late.memfd(), 1),
        late.retrieve(incoming, 1),
        late.finish(incoming),
        late.get_name(outgoing),
        late.reboot(),
        late.reboot(kexec.LINUX_REBOOT_CMD_POWER_OFF),
    ):
        assert blocked == Blocked()
    # What comes before the lock is still answered.
    assert late.create(device, b"") == -EINVAL
    assert late.ioctl(outgoing, LIVEUPDATE_SESSION_FINISH, 0) == -14  # EFAULT
    assert late.kexec_file_load(IMAGE, COMMAND_LINE) == -EBUSY
    assert late.kexec_load([], 0) == -EBUSY


def test_closing_during_the_jump_undoes_nothing(world: World, vmm: Process, device: int) -> None:
    session = number(vmm.create(device, b"vm"))
    assert vmm.preserve(session, vmm.memfd(b"ram"), 1) == 0
    assert vmm.kexec_file_load(IMAGE, COMMAND_LINE) == 0
    assert vmm.reboot() == Jump()
    vmm.close(session)
    late = land(world, vmm)
    incoming = number(late.retrieve_session(late.open_device(), b"vm"))
    assert late.inode(number(late.retrieve(incoming, 1))).data == b"ram"


# What is jumped into


def test_command_line_of_the_next_boot(world: World, vmm: Process) -> None:
    late = jump(world, vmm, command_line=b"liveupdate=on kho=on caf\xe9\0ignored\0")
    assert world.kernel.boot == 2
    assert world.kernel.command_line == "liveupdate=on kho=on caf\udce9"
    assert not world.kernel.kexec_loaded
    assert late.open_device() >= 0


@pytest.mark.parametrize("line", [b"", b"kho=on\0", b"liveupdate=on kho=0\0"])
def test_next_boot_without_device_loses_everything(world: World, vmm: Process, device: int, line: bytes) -> None:
    assert vmm.preserve(number(vmm.create(device, b"vm")), vmm.memfd(), 1) == 0
    late = jump(world, vmm, command_line=line)
    assert late.open_device() == -ENODEV
    assert world.held == []
    third = jump(world, late)
    assert third.retrieve_session(third.open_device(), b"vm") == -ENOENT


def test_next_kernel_without_luo(world: World, vmm: Process, device: int) -> None:
    assert vmm.preserve(number(vmm.create(device, b"vm")), vmm.memfd(), 1) == 0
    late = jump(world, vmm, image=bzimage("kho-v4", "memfd-v2"))
    assert late.open_device() == -ENODEV
    assert world.held == []


def test_next_kernel_with_another_handover_format(world: World, vmm: Process, device: int) -> None:
    """H20: a warning only, and everything is lost."""
    assert vmm.preserve(number(vmm.create(device, b"vm")), vmm.memfd(), 1) == 0
    late = jump(world, vmm, image=bzimage("luo-v5", "kho-v5", "memfd-v2"))
    assert late.retrieve_session(late.open_device(), b"vm") == -ENOENT
    assert world.held == []
    assert world.kernel.liveupdate_number == 0


def test_next_kernel_with_another_luo_format_panics(world: World, vmm: Process, device: int) -> None:
    """H20."""
    assert vmm.preserve(number(vmm.create(device, b"vm")), vmm.memfd(), 1) == 0
    assert vmm.kexec_file_load(bzimage("luo-v6", "kho-v4", "memfd-v2"), COMMAND_LINE) == 0
    assert vmm.reboot() == Jump()
    with pytest.raises(Panic, match="luo-v5"):
        world.kernel.jump()
    assert world.held == []


def test_formats_are_whole_words() -> None:
    assert read_formats(b"luo-v51\0luo-v5_x\0kho-v4\0") == {"luo-v51", "kho-v4"}


def test_formats_in_a_gzip_payload(world: World, vmm: Process, device: int) -> None:
    packed = gzip.compress(b"".join(name.encode() + b"\0" for name in FORMATS))
    image = bytearray(bzimage(payload=packed))
    struct.pack_into("<II", image, 0x248, 1, len(packed))
    assert read_formats(bytes(image)) == set(FORMATS)
    image[-30] ^= 0xFF
    assert read_formats(bytes(image)) <= set(FORMATS)


# kexec_load


def segments(line: bytes = b"liveupdate=on kho=on from=segments\0") -> list[Segment]:
    """Returns segments in the layout of kexec-tools: boot_params with the command line behind it, and the kernel.

    boot_params has other things where the boot sector has its flag.
    """
    setup = bytearray(IMAGE[:1024]) + line
    setup[0x1FE:0x200] = b"\0\0"
    struct.pack_into("<I", setup, 0x228, 0x90000 + 1024)
    return [Segment(0x100000, 4096, IMAGE[1024:]), Segment(0x90000, 4096, bytes(setup))]


def test_kexec_load_loses_everything_silently(world: World, vmm: Process, device: int) -> None:
    assert vmm.preserve(number(vmm.create(device, b"vm")), vmm.memfd(), 1) == 0
    assert vmm.kexec_load(segments()) == 0
    assert world.kernel.kexec_loaded
    assert vmm.reboot() == Jump()
    late = land(world, vmm)
    assert world.kernel.command_line == "liveupdate=on kho=on from=segments"
    assert late.retrieve_session(late.open_device(), b"vm") == -ENOENT
    assert world.held == []
    assert world.lines == ["kexec_core: Starting new kernel"]
    assert world.kernel.liveupdate_number == 0


def test_kexec_load_unloads_what_kexec_file_load_loaded(world: World, vmm: Process) -> None:
    assert vmm.kexec_file_load(IMAGE, COMMAND_LINE) == 0
    assert vmm.kexec_load([]) == 0
    assert not world.kernel.kexec_loaded


def test_kexec_load_without_boot_params_keeps_the_command_line(world: World, vmm: Process) -> None:
    assert vmm.kexec_load([Segment(0x100000, 4096, IMAGE[1024:])]) == 0
    assert vmm.reboot() == Jump()
    land(world, vmm)
    assert world.kernel.command_line == "liveupdate=on kho=on"
    assert world.kernel.has_device


@pytest.mark.parametrize(
    ("given", "flags", "answer"),
    [
        (segments(), 62 << 16, 0),
        (segments(), 40 << 16, -EINVAL),  # arm
        (segments(), 0x40, -EINVAL),
        (segments(), kexec.KEXEC_ON_CRASH, -EADDRNOTAVAIL),
        (segments() * 9, 0, -EINVAL),
        (segments() * 2, 0, -EINVAL),
        ([Segment(0x100001, 4096, b"")], 0, -EADDRNOTAVAIL),
        ([Segment(0x100000, 4097, b"")], 0, -EADDRNOTAVAIL),
        ([Segment(0x100000, 4096, bytes(4097))], 0, -EINVAL),
        ([Segment(0x100000, 8192, b""), Segment(0x101000, 4096, b"")], 0, -EINVAL),
        ([Segment(0x100000, 8192, b""), Segment(0x100000, 0, b"")], 0, 0),
        ([Segment(2**64 - PAGE, PAGE, b"")], 0, -EADDRNOTAVAIL),
        ([Segment(2**52 - PAGE, PAGE, b"")], 0, -EADDRNOTAVAIL),
        ([Segment(0x100000, 4096, None, 4096)], 0, -EFAULT),
        ([Segment(0x100000, 4096, None, 2**60)], 0, -EINVAL),
        ([Segment(0x100000, MEMORY // 2, b"")], 0, 0),
        ([Segment(0x100000, MEMORY // 4, b""), Segment(2**40, MEMORY // 4 + PAGE, b"")], 0, -EINVAL),
        ([Segment(0x100000, 1 << 30, None, 1 << 30)], 0, -ENOMEM),
    ],
    ids=[
        *(
            "x86_64",
            "arm",
            "flags",
            "crash",
            "17",
            "twice",
            "address",
            "length",
            "buffer",
            "overlap",
            "empty in another",
        ),
        *("beyond 64 bits", "beyond memory", "unreadable", "larger than its place", "half of memory", "more than half"),
        "more than luoemu reads",
    ],
)
def test_kexec_load_checks(world: World, vmm: Process, given: list[Segment], flags: int, answer: int) -> None:
    assert vmm.kexec_load(given, flags) == answer
    assert world.kernel.kexec_loaded == (answer == 0)


@pytest.mark.parametrize("length", [0x206, 0x210, 0x22C])
def test_a_segment_that_ends_within_a_header_loads(world: World, vmm: Process, length: int) -> None:
    setup = bytearray(length)
    setup[0x202:0x206] = b"HdrS"
    assert vmm.kexec_load([Segment(0x90000, 4096, bytes(setup))]) == 0
    assert world.kernel.kexec_loaded


def test_a_32_bit_program_names_the_architecture(vmm: Process) -> None:
    assert vmm.kexec_load(segments(), 0, narrow=True) == -EINVAL
    assert vmm.kexec_load(segments(), 62 << 16, narrow=True) == 0


# settings that limit loads


def test_a_limit_counts_every_call_with_the_capability(world: World, vmm: Process) -> None:
    sysctls = world.kernel.kexec_sysctls
    sysctls.write(kexec.SYSCTL_LOAD_LIMIT_REBOOT, 10)
    assert vmm.kexec_file_load(IMAGE, COMMAND_LINE) == 0
    assert vmm.kexec_file_load(b"x", COMMAND_LINE, 0x100) == -EINVAL
    assert vmm.kexec_load([], 0x40) == -EINVAL
    assert vmm.kexec_load([], kexec.KEXEC_ON_CRASH) == 0
    vmm.capabilities.clear()
    assert vmm.kexec_load([]) == -EPERM
    assert sysctls.values[kexec.SYSCTL_LOAD_LIMIT_REBOOT] == 7
    assert sysctls.values[kexec.SYSCTL_LOAD_LIMIT_PANIC] == -1


@pytest.mark.parametrize(
    ("name", "value"), [(kexec.SYSCTL_LOAD_LIMIT_REBOOT, 0), (kexec.SYSCTL_LOAD_DISABLED, 1)], ids=["limit", "disabled"]
)
def test_a_kernel_that_is_not_to_load_keeps_its_image(world: World, vmm: Process, name: str, value: int) -> None:
    assert vmm.kexec_file_load(IMAGE, COMMAND_LINE) == 0
    world.kernel.kexec_sysctls.write(name, value)
    assert vmm.kexec_file_load(b"", b"", kexec.KEXEC_FILE_UNLOAD) == -EPERM
    assert vmm.kexec_load([]) == -EPERM
    assert world.kernel.kexec_loaded


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (kexec.SYSCTL_LOAD_LIMIT_REBOOT, [-1]),
        (kexec.SYSCTL_LOAD_LIMIT_PANIC, [5, 5]),
        (kexec.SYSCTL_LOAD_DISABLED, [0]),
    ],
    ids=["negative", "again", "enabled"],
)
def test_loads_are_not_allowed_again(world: World, name: str, values: list[int]) -> None:
    *before, last = values
    for value in before:
        world.kernel.kexec_sysctls.write(name, value)
    with pytest.raises(Errno) as refused:
        world.kernel.kexec_sysctls.write(name, last)
    assert refused.value.code == EINVAL


def test_the_next_kernel_has_no_limit(world: World, vmm: Process) -> None:
    world.kernel.kexec_sysctls.write(kexec.SYSCTL_LOAD_LIMIT_REBOOT, 1)
    assert vmm.kexec_file_load(IMAGE, COMMAND_LINE) == 0
    assert vmm.reboot() == Jump()
    land(world, vmm)
    assert world.kernel.kexec_sysctls.values[kexec.SYSCTL_LOAD_LIMIT_REBOOT] == -1
