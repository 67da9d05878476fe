"""Time that can be compared with the next kernel's, and the duration of a kexec (docs/hazards.md, H23).

CLOCK_MONOTONIC starts at 0 in each kernel, and CLOCK_REALTIME loses up to a second, since it is read from a clock of
whole seconds. The processor's own counter (TSC; CNTVCT on arm64) continues over a kexec, so it is used if the kernel
itself trusts it. Its rate is measured against CLOCK_MONOTONIC before the kexec.

`luod.decode` reads the annotations.
"""

import os
import time
from functools import cache

from luod import linux
from luod.frozen import frozen, replace
from luod.ipc.types.phases import Clock
from luod.static import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_CODE: "Final" = {
    "x86_64": bytes.fromhex("0f31 48c1e220 4809d0 c3"),  # rdtsc; shl rdx, 32; or rax, rdx; ret
    "aarch64": bytes.fromhex("40e03bd5 c0035fd6"),  # mrs x0, cntvct_el0; ret
}
_CLOCKSOURCE: "Final" = {"x86_64": "tsc", "aarch64": "arch_sys_counter"}
_RUNS_EVENLY: "Final" = {"constant_tsc", "nonstop_tsc"}
_READINGS: "Final" = 5
WALL_ERROR_SECONDS: "Final" = 1.0
"""The error of the wall clock over a kexec: it was set from whole seconds."""


@frozen
class Moment:
    """One moment by all clocks. `wall` and `monotonic` in seconds, `ticks` of the counter if it is trusted.

    The ticks were read within `slack` seconds of the others.
    """

    wall: float
    monotonic: float
    ticks: int | None
    slack: float


@frozen
class Pace:
    """Ticks a second, and their relative error."""

    ticks: float
    error: float


@frozen
class Crossing:
    """The duration of the kexec, and its clock. `arrived` is CLOCK_MONOTONIC of the new kernel at its end."""

    clock: Clock
    seconds: float
    error_seconds: float
    arrived: float


def now(*, count: bool = True) -> Moment:
    """Returns the moment; without `count`, not by the counter, the first use of which takes 2 ms."""
    counter = _counter() if count else None
    monotonic, ticks, slack = time.monotonic_ns(), None, 0
    if counter is not None:
        # A process may be preempted between two readings: the closest of several counts.
        readings = [(time.monotonic_ns(), counter(), time.monotonic_ns()) for _ in range(_READINGS)]
        before, ticks, after = min(readings, key=lambda reading: reading[2] - reading[0])
        monotonic, slack = (before + after) // 2, after - before
    wall = time.time_ns() - (time.monotonic_ns() - monotonic)
    return Moment(wall / 1e9, monotonic / 1e9, ticks, slack / 1e9)


def counted(then: Moment, measured: Pace) -> Moment:
    """Returns the moment `then` of this kernel with the ticks that it had, by counting back from now."""
    here = now()
    if here.ticks is None:
        return then
    ago = here.monotonic - then.monotonic
    return replace(then, ticks=here.ticks - round(ago * measured.ticks), slack=here.slack + ago * measured.error)


def pace(first: Moment, last: Moment) -> Pace | None:
    """Returns the counter's rate between two moments of one kernel; None without a counter, or for equal moments."""
    seconds = last.monotonic - first.monotonic
    if first.ticks is None or last.ticks is None or seconds <= 0 or last.ticks <= first.ticks:
        return None
    return Pace((last.ticks - first.ticks) / seconds, (first.slack + last.slack) / seconds)


def crossing(left: Moment, measured: Pace | None, arrived: Moment) -> Crossing:
    """Returns the time between two moments of two kernels: by the counter, unless it was reset or is clearly wrong."""
    by_wall = arrived.wall - left.wall
    by_ticks = None
    if left.ticks is not None and arrived.ticks is not None and measured is not None:
        by_ticks = (arrived.ticks - left.ticks) / measured.ticks
        error = by_ticks * measured.error + left.slack + arrived.slack
        # A machine without a clock of its own starts in 1970: then there is nothing to compare with.
        off = 0.0 if by_wall <= 0 else abs(by_ticks - by_wall) - error - 2 * WALL_ERROR_SECONDS
        if by_ticks > 0 and off <= max(0.0, by_ticks * 0.01):
            return Crossing("tsc", by_ticks, error, arrived.monotonic)
    apart = 0.0 if by_ticks is None or by_ticks <= 0 else abs(by_ticks - by_wall)
    return Crossing("wall", max(0.0, by_wall), max(WALL_ERROR_SECONDS, apart), arrived.monotonic)


@cache
def _counter() -> "Callable[[], int] | None":
    """Returns a function that reads the counter; None if this kernel distrusts it, or forbids executable memory."""
    machine = os.uname().machine
    if machine not in _CODE or not trusted("/", _CLOCKSOURCE[machine]):
        return None
    import ctypes
    import mmap

    try:
        # A file, not anonymous memory: no memory is ever both writable and executable.
        with linux.memfd("luod-counter", 0, executable=False) as file:
            with open(file.fileno(), "wb", closefd=False) as code:
                code.write(_CODE[machine])
            address = linux.syscall(
                "mmap", 0, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_PRIVATE, file.fileno(), 0
            )
    except OSError:
        return None
    return ctypes.CFUNCTYPE(ctypes.c_uint64)(address)


def trusted(root: str, name: str) -> bool:
    """Returns whether the kernel offers the counter as a clock, or the processor declares that its rate is constant.

    The kernel stops offering it once it measured an error.
    """
    try:
        path = "sys/devices/system/clocksource/clocksource0/available_clocksource"
        with open(os.path.join(root, path), encoding="ascii") as offered:
            return name in offered.read().split()
    except OSError:
        pass
    try:
        # The beginning only: with some hundred processors the whole file takes a tenth of a second.
        with open(os.path.join(root, "proc/cpuinfo"), "rb", buffering=0) as file:
            lines = file.read(4096).decode("ascii", "replace").splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith("flags")), "")
    return set(flags.split()) >= _RUNS_EVENLY
