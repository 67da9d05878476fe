"""The checks of an ioctl's number and argument, and their order: docs/kernel.md, 2."""

from __future__ import annotations

from errno import E2BIG, EFAULT, EINVAL, ENOENT, ENOTTY

import pytest

from luod.emulator.model.ports import Errno
from luod.uapi.liveupdate import (
    CREATE_SESSION,
    LIVEUPDATE_IOCTL_CREATE_SESSION,
    LIVEUPDATE_IOCTL_RETRIEVE_SESSION,
    LIVEUPDATE_SESSION_FINISH,
    LIVEUPDATE_SESSION_GET_NAME,
    LIVEUPDATE_SESSION_PRESERVE_FD,
    LIVEUPDATE_SESSION_RETRIEVE_FD,
    LIVEUPDATE_SESSION_UNPRESERVE_FD,
    SESSION_PRESERVE_FD,
)
from tests.emulator.model.world import PAGE, READ_ONLY, SCRATCH, Process, World, jump, number

DEVICE_COMMANDS = (LIVEUPDATE_IOCTL_CREATE_SESSION, LIVEUPDATE_IOCTL_RETRIEVE_SESSION)
SESSION_COMMANDS = (
    LIVEUPDATE_SESSION_PRESERVE_FD,
    LIVEUPDATE_SESSION_RETRIEVE_FD,
    LIVEUPDATE_SESSION_FINISH,
    LIVEUPDATE_SESSION_GET_NAME,
)
UNMAPPED = 0x900000
LAST = SCRATCH + 2 * PAGE
"""The first byte behind the memory at SCRATCH."""


@pytest.fixture
def outgoing(vmm: Process, device: int) -> int:
    return number(vmm.create(device, b"out"))


@pytest.fixture
def later(world: World, vmm: Process, device: int) -> tuple[Process, int]:
    """Returns a process of the next kernel and a session that it has retrieved."""
    number(vmm.create(device, b"in"))
    process = jump(world, vmm)
    return process, number(process.retrieve_session(process.open_device(), b"in"))


@pytest.mark.parametrize(
    ("command", "on_device", "on_session"),
    [
        (0xBA00, EINVAL, EINVAL),  # size 0; nr
        (0xBA01, EINVAL, EINVAL),
        *((0xBA00 | nr, EINVAL, EINVAL) for nr in (0x40, 0x41, 0x42, 0x43)),
        *((0xBA00 | nr, EINVAL, EINVAL) for nr in (0x02, 0x3F, 0x44, 0x7E, 0xFF)),
        (0xBB00, ENOTTY, EINVAL),
        (0xBB40, EINVAL, ENOTTY),
        (0xBB43, EINVAL, ENOTTY),
        (0xC048BA00, ENOTTY, EINVAL),  # _IOWR of a valid nr
        (0xC010BA40, EINVAL, ENOTTY),
        (0x5401, ENOTTY, EINVAL),  # TCGETS
        (0x541B, EINVAL, EINVAL),  # FIONREAD
        (0x5413, EINVAL, EINVAL),  # TIOCGWINSZ
    ],
)
def test_numbers_with_size_field_zero(
    vmm: Process, device: int, outgoing: int, command: int, on_device: int, on_session: int
) -> None:
    assert vmm.call(device, command, bytes(72)) == -on_device
    assert vmm.call(outgoing, command, bytes(72)) == -on_session


def test_unknown_number_with_null_argument_is_einval(vmm: Process, device: int, outgoing: int) -> None:
    assert vmm.ioctl(device, 0xBA44, 0) == -EINVAL
    assert vmm.ioctl(outgoing, 0xBA44, 0) == -EINVAL


def test_valid_number_with_null_argument_is_efault(vmm: Process, device: int, outgoing: int) -> None:
    assert {vmm.ioctl(device, command, 0) for command in DEVICE_COMMANDS} == {-EFAULT}
    assert {vmm.ioctl(outgoing, command, 0) for command in SESSION_COMMANDS} == {-EFAULT}


def test_fault_comes_before_wrong_type(vmm: Process, device: int, outgoing: int) -> None:
    assert vmm.ioctl(device, 0xBB00, 0) == -EFAULT
    assert vmm.ioctl(outgoing, 0xBB40, 0) == -EFAULT


def test_number_is_the_low_32_bits(vmm: Process, device: int) -> None:
    assert vmm.call(device, (7 << 32) | 0xBA00, CREATE_SESSION.pack(72, 0, b"x")) == 0


def test_wrong_type_comes_before_direction_and_size(vmm: Process, outgoing: int) -> None:
    assert vmm.call(outgoing, 0xBB41, bytes(16)) == -ENOTTY


def test_direction_comes_before_size_and_tail(vmm: Process, outgoing: int, later: tuple[Process, int]) -> None:
    process, incoming = later
    tail = SESSION_PRESERVE_FD.pack(24, 0, 0) + b"\1" * 8
    assert process.call(incoming, LIVEUPDATE_SESSION_PRESERVE_FD, tail) == -EINVAL


@pytest.mark.parametrize("command", [LIVEUPDATE_SESSION_RETRIEVE_FD, LIVEUPDATE_SESSION_FINISH])
def test_incoming_verbs_on_an_outgoing_session(vmm: Process, outgoing: int, command: int) -> None:
    tail = SESSION_PRESERVE_FD.pack(24, 0, 0) + b"\1" * 8
    assert vmm.call(outgoing, command, tail) == -EINVAL


@pytest.mark.parametrize(
    ("command", "size"),
    [
        (LIVEUPDATE_IOCTL_CREATE_SESSION, 72),
        (LIVEUPDATE_IOCTL_RETRIEVE_SESSION, 72),
        (LIVEUPDATE_SESSION_PRESERVE_FD, 16),
        (LIVEUPDATE_SESSION_GET_NAME, 72),
    ],
)
def test_sizes_of_structures(vmm: Process, device: int, outgoing: int, command: int, size: int) -> None:
    fd = device if command in DEVICE_COMMANDS else outgoing

    def answer(claimed: int, tail: bytes = b"") -> object:
        return vmm.call(fd, command, claimed.to_bytes(4, "little") + bytes(size - 4) + tail)

    whole = answer(size)  # whatever the command says to zeros
    assert answer(size - 1) == -EINVAL
    assert answer(0) == -EINVAL
    assert answer(size + 8, b"\0\0\0\0\0\0\0\1") == -E2BIG
    assert answer(size + 8, bytes(8)) == whole
    assert answer(size + 1, b"\1") == -E2BIG


@pytest.mark.parametrize(("command", "size"), [(LIVEUPDATE_SESSION_RETRIEVE_FD, 16), (LIVEUPDATE_SESSION_FINISH, 8)])
def test_sizes_of_incoming_structures(later: tuple[Process, int], command: int, size: int) -> None:
    process, session = later

    def answer(claimed: int, tail: bytes = b"") -> object:
        return process.call(session, command, claimed.to_bytes(4, "little") + bytes(size - 4) + tail)

    whole = answer(size)
    assert whole == (-ENOENT if command == LIVEUPDATE_SESSION_RETRIEVE_FD else 0)
    assert answer(size - 1) == -EINVAL
    assert answer(4) == -EINVAL
    assert answer(size + 8, bytes(7) + b"\1") == -E2BIG
    assert answer(size + 8, bytes(8)) == whole


def test_zero_tail_longer_than_a_page(vmm: Process, device: int) -> None:
    assert vmm.call(device, LIVEUPDATE_IOCTL_CREATE_SESSION, CREATE_SESSION.pack(8192, 0, b"long")) == 0


def test_huge_size_with_nonzero_byte_before_the_fault(vmm: Process, device: int) -> None:
    argument = CREATE_SESSION.pack(0xFFFFFFFF, 0, b"x") + bytes(5000) + b"\1"
    assert vmm.call(device, LIVEUPDATE_IOCTL_CREATE_SESSION, argument) == -E2BIG


def test_huge_size_with_zeros_up_to_the_fault(vmm: Process, device: int) -> None:
    argument = CREATE_SESSION.pack(0xFFFFFFFF, 0, b"x")
    assert vmm.call(device, LIVEUPDATE_IOCTL_CREATE_SESSION, argument) == -EFAULT


def test_structure_that_ends_in_unmapped_memory(vmm: Process, device: int) -> None:
    argument = CREATE_SESSION.pack(72, 0, b"x")[:40]
    assert vmm.call(device, LIVEUPDATE_IOCTL_CREATE_SESSION, argument, LAST - 40) == -EFAULT
    assert vmm.ioctl(device, LIVEUPDATE_IOCTL_CREATE_SESSION, UNMAPPED) == -EFAULT


def test_response_stays_inside_the_structure(vmm: Process, device: int) -> None:
    argument = CREATE_SESSION.pack(80, -1, b"x") + bytes(8)
    vmm.poke(SCRATCH + 80, b"\xee" * 16)
    assert vmm.call(device, LIVEUPDATE_IOCTL_CREATE_SESSION, argument) == 0
    assert vmm.read(SCRATCH, 4) == (80).to_bytes(4, "little")
    assert vmm.read(SCRATCH + 8, 72) == b"x".ljust(72, b"\0")
    assert vmm.read(SCRATCH + 80, 16) == b"\xee" * 16


def test_read_only_tail_does_not_matter(vmm: Process, device: int) -> None:
    boundary = SCRATCH + PAGE
    vmm.read_only.add(boundary // PAGE)
    argument = CREATE_SESSION.pack(80, -1, b"x") + bytes(8)
    assert vmm.call(device, LIVEUPDATE_IOCTL_CREATE_SESSION, argument, boundary - 72) == 0


def test_input_fd_is_ignored(vmm: Process, device: int) -> None:
    for fd in (-1, 0, 12345):
        assert vmm.call(device, LIVEUPDATE_IOCTL_CREATE_SESSION, CREATE_SESSION.pack(72, fd, b"%d" % fd)) == 0


def test_e2big_comes_before_efault_of_the_answer(vmm: Process, device: int) -> None:
    argument = CREATE_SESSION.pack(73, 0, b"x") + b"\1"
    assert vmm.call(device, LIVEUPDATE_IOCTL_CREATE_SESSION, argument, READ_ONLY) == -E2BIG


def test_mainline_has_no_unpreserve(vmm: Process, outgoing: int) -> None:
    assert vmm.ioctl(outgoing, LIVEUPDATE_SESSION_UNPRESERVE_FD, 0) == -EINVAL


HUGE = 256 << 20


def sparse(vmm: Process, *, limit: int) -> None:
    """Gives the process memory up to `limit`, with zeros. The rest of its memory cannot be read."""
    zero = bytes(1 << 18)

    def read(address: int, length: int) -> bytes:
        if address < SCRATCH + PAGE:
            return Process.read(vmm, address, length)
        if address + length > limit:
            raise Errno(EFAULT)
        return zero[:length]

    vmm.read = read  # type: ignore[method-assign]  # so many pages would not fit the test


@pytest.mark.parametrize(("limit", "answer"), [(SCRATCH + HUGE, 0), (SCRATCH + (200 << 20), -EFAULT)])
def test_a_huge_structure_is_read_in_turns(vmm: Process, device: int, limit: int, answer: int) -> None:
    """The kernel reads all of it, up to 4 GiB, and only its caller waits."""
    sparse(vmm, limit=limit)
    argument = CREATE_SESSION.pack(HUGE, -1, b"vm")
    assert vmm.call(device, LIVEUPDATE_IOCTL_CREATE_SESSION, argument) == answer
    assert vmm.turns >= 50
    assert not vmm.progress


def test_the_first_byte_that_is_not_zero_ends_a_huge_structure(vmm: Process, device: int) -> None:
    argument = CREATE_SESSION.pack(HUGE, -1, b"vm") + b"\0\1"
    assert vmm.call(device, LIVEUPDATE_IOCTL_CREATE_SESSION, argument) == -E2BIG
    assert vmm.turns == 1
