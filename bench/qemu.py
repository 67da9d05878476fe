"""`python -m bench.qemu [--update] [--runs N] [--sizes MIB …]`: how long an update pauses a guest of QEMU.

`make bench-qemu` runs it, and QEMU's own save and restore for comparison. The guest is that of the tests, which prints
100 numbers a second; its pause is the longest time between two of them, as seen outside the machine. Its RAM is full of
random bytes, since QEMU saves no page of zeros. The kexec is that of the emulated machine, without the start of a
kernel; its RETRIEVE_FD copies the RAM, which a real kernel leaves where it is, so that each GiB adds to the pause here.
QEMU alone writes RAM and state into a file of the host's disk by `migrate file:`, without a limit of bandwidth,
and another QEMU loads it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import report
from demo.qemu.console import Console, longest_gap
from demo.qemu.scenario import Story
from luod.agents.qemu.qmp import Qmp
from luod.linux import Fd
from luod.liveupdate import memory
from luod.testing import EmulatedMachine, Host, eventually
from luod.testing.tools import require_tool
from tests.agents.qemu.guests import CountingGuest

WHERE = "guest of QEMU"
SIZES = (128, 1024, 8192)
"""Of the guest's RAM, in MiB."""
RUNS = 3
BESIDE = 3 << 10
"""MiB that must be free beside two copies of a guest's RAM, the old kernel's and the new one's, for others."""
NUMBERS = 100
"""That a guest prints before it is paused."""
_NEWER = "LUOD_NEWER_QEMU"
_BLOCK = 1 << 20
_LOW = 16
_FULL_LOW, _LOW_LIMIT = 3072, 3584
"""In MiB. The machine type pc has so much of its RAM below 4 GiB, when it has at least the second number of it."""
_SECONDS = 300.0
_WIDTHS = (6, 9, 8, 13, 13, 13, 12, 8)
"""Of the columns of the table."""


@dataclass(frozen=True)
class Guest:
    """The guest of the tests, as the story of the demo wants it."""

    folder: Path
    memory: int

    @property
    def mebibytes(self) -> int:
        return self.memory

    def arguments(self, folder: Path) -> list[str]:
        counting = CountingGuest("vm", self.folder, mebibytes=self.memory, per_second=100)
        counting.make_disk()
        return counting.arguments(console=())


@dataclass(frozen=True)
class Pause:
    """A pause as the guest saw it, and parts that are not luod's, in seconds. `start` ends with QEMU's answer.

    `retrieve` is the time of RETRIEVE_FD for the RAM.
    """

    gap: float
    jump: float = 0.0
    retrieve: float = 0.0
    start: float = 0.0


def fill(path: str, mebibytes: int) -> None:
    """Fills a guest's RAM with random bytes, but for what the guest and its firmware use."""
    top = _FULL_LOW if mebibytes >= _LOW_LIMIT else mebibytes
    block = os.urandom(_BLOCK)
    with Fd(os.open(path, os.O_RDWR | os.O_CLOEXEC)) as file:
        for number in range(_LOW, mebibytes):
            if not top - _LOW <= number < top:
                os.pwrite(file.fileno(), block, number * _BLOCK)


_FILL = """
import sys
from bench.qemu import fill
from luod.testing.frames import memfd_of
fill(memfd_of(int(sys.argv[1]), int(sys.argv[2]) << 20), int(sys.argv[2]))
"""


def with_luod(program: str, mebibytes: int) -> Pause:
    """Carries a guest through an update of the emulated machine. `start` is not measured."""
    with (
        tempfile.TemporaryDirectory(prefix="luod-bench-") as name,
        Console(Path(name, "console")) as console,
        EmulatedMachine() as machine,
    ):
        host = Host(machine, state_directory=name)
        host.forked = False  # the guest waits for luod's start
        story = Story(host, Guest(Path(name), mebibytes), console, Path(name), program, lambda line: None)
        story.start()
        assert story.agent is not None
        python = host.python()
        machine.run(
            [python.executable, "-c", _FILL, str(story.agent.pid), str(mebibytes)],
            env={**python.environment, "PYTHONPATH": f"{report.ROOT}/src:{report.ROOT}"},
            timeout=_SECONDS,
        )
        story.until_counted(len(console.numbers()) + NUMBERS)
        outcome = story.update()
        times = story.timeline()
        retrieved = re.search(r"retrieved in ([\d.]+) s", story.agent.stderr)
        assert retrieved is not None, story.agent.stderr
        return Pause(outcome.gap, times["arrived"] - times["jumping"], float(retrieved[1]))


def alone(program: str, mebibytes: int) -> Pause:
    """Saves and restores a guest by QEMU alone, on the host."""
    with tempfile.TemporaryDirectory(prefix="luod-bench-") as name:
        return asyncio.run(_alone(program, Path(name), mebibytes))


async def _alone(program: str, folder: Path, mebibytes: int) -> Pause:
    saved = {"uri": f"file:{folder}/saved"}
    guest = Guest(folder, mebibytes)
    with Console(folder / "console") as console:
        arguments = [*guest.arguments(folder), *console.arguments]
        async with _running(program, arguments, mebibytes) as (qmp, ram):
            await asyncio.to_thread(fill, f"/proc/self/fd/{ram.fileno()}", mebibytes)
            await qmp.execute("cont")
            await asyncio.to_thread(_until_counted, console, NUMBERS)
            await qmp.execute("migrate-set-parameters", {"max-bandwidth": 1 << 40})
            await qmp.execute("stop")
            await qmp.execute("migrate", saved)
            await _until(qmp, "query-migrate", lambda status: status == "completed")
        begun = time.monotonic()
        async with _running(program, [*arguments, "-incoming", "defer"], mebibytes) as (qmp, ram):
            start = time.monotonic() - begun
            await qmp.execute("migrate-incoming", saved)
            await _until(qmp, "query-status", lambda status: status != "inmigrate")
            await qmp.execute("cont")
            await asyncio.to_thread(_until_counted, console, len(console.numbers()) + 3)
    return Pause(longest_gap(console.numbers()), start=start)


async def _until(qmp: Qmp, question: str, wanted: Callable[[str], bool]) -> None:
    async with asyncio.timeout(_SECONDS):
        while not wanted(status := (await qmp.execute(question)).get("status", "")):
            if status == "failed":
                raise AssertionError(f"{question}: failed")
            await asyncio.sleep(0.005)


def _until_counted(console: Console, numbers: int) -> None:
    eventually(lambda: len(console.numbers()) >= numbers, within=_SECONDS, describe=f"{numbers} numbers are printed")


@contextlib.asynccontextmanager
async def _running(program: str, arguments: Sequence[str], mebibytes: int) -> AsyncIterator[tuple[Qmp, Fd]]:
    """Runs a QEMU whose guest is paused in the block, and yields its monitor and its RAM."""
    ours, theirs = socket.socketpair()
    with theirs, memory(mebibytes << 20, "bench", populate=False) as ram:
        backend = f"memory-backend-file,id=ram,size={mebibytes}M,mem-path=/proc/self/fd/{ram.fileno()},share=on"
        monitor = ("-chardev", f"socket,id=mon,fd={theirs.fileno()}", "-mon", "chardev=mon,mode=control")
        words = [program, *arguments, "-S", "-object", backend, "-machine", "memory-backend=ram", *monitor]
        process = await asyncio.create_subprocess_exec(*words, pass_fds=(theirs.fileno(), ram.fileno()))
        theirs.close()
        try:
            async with await Qmp.connected(ours, within=_SECONDS) as qmp:
                yield qmp, ram
        finally:
            process.kill()
            await process.wait()


def free() -> int:
    """Returns the MiB of memory that are free or could be."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) >> 10
    raise AssertionError("/proc/meminfo has no MemAvailable")


def table(program: str, runs: int, sizes: Sequence[int] = SIZES) -> dict[str, float]:
    """Prints the figures, and returns them by the names of docs/performance.md."""
    print(f"\nThe pause of a guest of QEMU as it sees it, the medians of {runs}, s; load {os.getloadavg()[0]:.1f}")
    head = ("MiB", "update", "jump", "RETRIEVE_FD", "QEMU starts", "luod, agent", "QEMU alone", "ratio")
    print("  " + "".join(f"{name:>{width}}" for name, width in zip(head, _WIDTHS, strict=True)))
    measured = {}
    for mebibytes in sizes:
        if free() < (needed := 2 * mebibytes + BESIDE):
            print(f"  {mebibytes:6}  not measured: {free()} MiB are free, and it needs {needed}")
            continue
        pairs = [(with_luod(program, mebibytes), alone(program, mebibytes)) for _ in range(runs)]
        parts = ("gap", "jump", "retrieve")
        gap, jump, copied = (statistics.median(getattr(kept, part) for kept, _ in pairs) for part in parts)
        start, other = (statistics.median(getattr(saved, part) for _, saved in pairs) for part in ("start", "gap"))
        share = statistics.median(kept.gap - kept.jump - kept.retrieve - saved.start for kept, saved in pairs)
        ratio = statistics.median(kept.gap / saved.gap for kept, saved in pairs)
        row = (f"{mebibytes}", *(f"{each:.2f}" for each in (gap, jump, copied, start, share, other)), f"{ratio:.3f}")
        print("  " + "".join(f"{cell:>{width}}" for cell, width in zip(row, _WIDTHS, strict=True)), flush=True)
        measured[f"pause with {mebibytes} MiB, {WHERE}"] = ratio
        measured[f"luod and the agent in a pause with {mebibytes} MiB, {WHERE}"] = 1000 * share
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.qemu", description=__doc__)
    parser.add_argument("--update", action="store_true", help="write the figures into docs/performance.md")
    parser.add_argument("--runs", type=int, default=RUNS, metavar="N", help=f"of each size ({RUNS})")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="MIB", help=f"of RAM {SIZES}")
    given = parser.parse_args()
    program = os.environ.get(_NEWER) or require_tool("qemu-system-x86_64", package="qemu-system-x86")
    print(f"{os.uname().release}, {os.cpu_count()} CPUs, Python {sys.version.split()[0]}, {program}")
    measured = table(program, given.runs, given.sizes)
    print(f"load at the end {os.getloadavg()[0]:.1f}")
    report.finish(measured, lambda name: name.endswith(WHERE), update=given.update)


if __name__ == "__main__":
    main()
