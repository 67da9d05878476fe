"""The filter's program, run by an interpreter of classic BPF: which system calls stop, on every architecture."""

from __future__ import annotations

import errno
import struct

import pytest

from luod.emulator.trap.seccomp.bpf import CALLS, NUMBERS, OPENS, SWAPS, SYNC, Call, program
from luod.uapi import seccomp as uapi

X86_64, I386, AARCH64 = uapi.AUDIT_ARCH_X86_64, uapi.AUDIT_ARCH_I386, uapi.AUDIT_ARCH_AARCH64
ARM = 0x40000028
"""AUDIT_ARCH_ARM, of 32 bits."""
X32 = 0x40000000
MADV_REMOVE = 9


def decide(code: bytes, number: int, architecture: int, *arguments: int) -> int:
    """Returns the kernel's verdict on the call."""
    data = struct.pack("=iIQ6Q", number, architecture, 0, *arguments, *([0] * (6 - len(arguments))))
    at, accumulator = 0, 0
    while True:
        operation, if_true, if_false, k = uapi.SOCK_FILTER.unpack_from(code, at * uapi.SOCK_FILTER.size)
        at += 1
        match operation:
            case uapi.BPF_LD_W_ABS:
                (accumulator,) = struct.unpack_from("=I", data, k)
            case uapi.BPF_ALU_AND_K:
                accumulator &= k
            case uapi.BPF_JMP_JEQ_K:
                at += if_true if accumulator == k else if_false
            case uapi.BPF_JMP_JGE_K:
                at += if_true if accumulator >= k else if_false
            case uapi.BPF_RET_K:
                return int(k)
            case _:
                raise AssertionError(f"unexpected instruction {operation:#x}")


def stops(code: bytes, number: int, architecture: int, *arguments: int) -> bool:
    decision = decide(code, number, architecture, *arguments)
    others = (uapi.SECCOMP_RET_ALLOW, uapi.SECCOMP_RET_ERRNO, uapi.SECCOMP_RET_ERRNO | errno.EPERM)
    assert decision in (*others, uapi.SECCOMP_RET_USER_NOTIF)
    return decision == uapi.SECCOMP_RET_USER_NOTIF


@pytest.mark.parametrize("with_devices", [False, True])
@pytest.mark.parametrize("trap_opens", [False, True])
@pytest.mark.parametrize(("machine", "architecture"), [("x86_64", X86_64), ("x86_64", I386), ("aarch64", AARCH64)])
def test_the_filter_stops_only_the_calls_that_are_answered(
    machine: str, architecture: int, trap_opens: bool, with_devices: bool
) -> None:
    code = program(trap_opens=trap_opens, with_devices=with_devices, machine=machine)
    calls = dict(NUMBERS[architecture])
    ioctl, madvise, process_madvise = map(calls.pop, (Call.IOCTL, Call.MADVISE, Call.PROCESS_MADVISE))
    expected = {n for c, n in calls.items() if trap_opens or c not in OPENS}
    assert {number for number in range(600) if number != ioctl and stops(code, number, architecture)} == expected
    assert [advice for advice in range(100) if stops(code, madvise, architecture, 0, 4096, advice)] == [MADV_REMOVE]
    assert [a for a in range(100) if stops(code, process_madvise, architecture, 5, 4096, 1, a)] == [MADV_REMOVE]
    for command in (0xBA00, 0xBA43, 0xBAFF, 0xC048BA00, 0xFFFFFFFF_0000BA00):
        assert stops(code, ioctl, architecture, 3, command), hex(command)
    for command in (0x3B6A, 0xFFFFFFFF_00003B6A, 0x3B8E):
        assert stops(code, ioctl, architecture, 3, command) == with_devices, hex(command)
    for command in (0x5401, 0x3B64, 0x3B6B, 0x4004_3B6A, 0xBB00, 0x00BA, 0, 0xBA0000):
        assert not stops(code, ioctl, architecture, 3, command), hex(command)


@pytest.mark.parametrize(("machine", "architecture"), [("x86_64", X86_64), ("x86_64", I386), ("aarch64", AARCH64)])
def test_sync_succeeds_and_does_nothing(machine: str, architecture: int) -> None:
    """It would have all of the host's disks written at every jump of a machine."""
    code = program(trap_opens=True, with_devices=True, machine=machine)
    answered = [n for n in range(600) if decide(code, n, architecture) == uapi.SECCOMP_RET_ERRNO]
    assert answered == [SYNC[architecture]]


@pytest.mark.parametrize(("machine", "architecture"), [("x86_64", X86_64), ("x86_64", I386), ("aarch64", AARCH64)])
def test_the_hosts_swap_is_out_of_reach(machine: str, architecture: int) -> None:
    """Decided by the filter only, so that no test asks the host."""
    code = program(trap_opens=True, with_devices=True, machine=machine)
    refusal = uapi.SECCOMP_RET_ERRNO | errno.EPERM
    assert tuple(n for n in range(600) if decide(code, n, architecture) == refusal) == SWAPS[architecture]


@pytest.mark.parametrize(("machine", "architecture"), [("x86_64", AARCH64), ("aarch64", ARM), ("aarch64", I386)])
def test_programs_of_another_architecture_reach_nothing(machine: str, architecture: int) -> None:
    """Their numbers of kexec_load(2) and others are not known: on aarch64, those of 32-bit ARM programs."""
    code = program(trap_opens=True, with_devices=True, machine=machine)
    refusal = uapi.SECCOMP_RET_ERRNO | errno.ENOSYS
    assert {decide(code, number, architecture, 3, 0xBA00) for number in range(600)} == {refusal}


def test_calls_of_the_x32_abi_do_not_reach_the_host() -> None:
    """Any program could call the host's kexec_load by them. A call that a tracer skipped has the number -1."""
    code = program(trap_opens=True, machine="x86_64")
    refusal = uapi.SECCOMP_RET_ERRNO | errno.ENOSYS
    assert {decide(code, X32 | number, X86_64, 3, 0xBA00) for number in range(600)} == {refusal}
    assert decide(code, -1, X86_64) == uapi.SECCOMP_RET_ALLOW
    assert decide(code, X32 | 16, I386) == uapi.SECCOMP_RET_ALLOW


def test_a_machine_without_known_numbers_is_an_error() -> None:
    with pytest.raises(OSError, match="sparc"):
        program(trap_opens=False, machine="sparc")


def test_every_trapped_number_is_known_again() -> None:
    assert all(
        CALLS[architecture, number] is call for architecture, by in NUMBERS.items() for call, number in by.items()
    )
