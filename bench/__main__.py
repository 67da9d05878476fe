"""`make bench`: the costs of the emulated machine, and of luod. Prints tables; ratios are of figures of one run.

At its end it compares the figures of docs/performance.md. `--update` writes them there.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bench import custody, fairness, initrd, jump, kernel, qemu, report, startup, vfio

RUN = (sys.executable, "-m", "luod.emulator.machine", "run")
LUOEMU = (*RUN, "--")
PAIRS = 7
CALL_PAIRS = 5
WHERE = "emulated"
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{report.ROOT}/src:{report.ROOT}"}


def inside(*arguments: str, module: str = "bench.inside", options: Sequence[str] = ()) -> Any:
    """Returns the figures that `module` prints, run as the init of a machine with such options."""
    command = [*RUN, *options, "--", sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, env=ENVIRONMENT, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


@contextmanager
def compiled_pingpong() -> Iterator[str | None]:
    """Yields the path of the program that measures a round trip between two C processes; None without a compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([compiler, "-O2", "-o", f"{folder}/pingpong", f"{report.ROOT}/bench/pingpong.c"], check=True)
        yield f"{folder}/pingpong"


def round_trip(pingpong: str | None) -> float:
    """Returns the time of one round trip, in microseconds; not a number without the program."""
    if pingpong is None:
        return float("nan")
    return int(subprocess.run([pingpong], stdout=subprocess.PIPE, check=True).stdout) / 1000


def table_of_calls() -> dict[str, float]:
    """Prints the times of single calls, and returns GET_NAME's in round trips, on idle processors and on busy ones.

    The two are measured in turn: how long a round trip takes changes with the processor that the host wakes.
    """
    found = {}
    with compiled_pingpong() as pingpong:
        for state, busy in (("idle", 0), ("busy", os.cpu_count() or 1)):
            with hogs(busy):
                runs = [(round_trip(pingpong), inside("calls")) for _ in range(CALL_PAIRS)]
            print(f"\nOne call on {state} processors, p50")
            print(f"  {'':42}{'us':>9}  {'C ping-pongs':>12}")
            if pingpong is None:
                print("  (no C compiler: apt install gcc libc6-dev brings the ping-pong to compare with)")
            print(f"  {'C ping-pong over two pipes':42}{statistics.median(floor for floor, _ in runs):9.1f}  {1:12.2f}")
            for name in runs[0][1]:
                figure = statistics.median(figures[name] for _, figures in runs)
                ratio = statistics.median(figures[name] / floor for floor, figures in runs)
                print(f"  {name:42}{figure:9.1f}  {ratio:12.2f}")
                if name == "GET_NAME" and pingpong is not None:
                    found[f"emulated GET_NAME, {state} processors"] = ratio
    return found


@contextmanager
def hogs(count: int) -> Iterator[None]:
    """Keeps processors busy with processes that calculate."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for each in started:
            each.kill()
            each.wait()


def table_of_the_untouched() -> dict[str, float]:
    """Prints the times of programs that do not use luod, bare and inside, in turn. Returns the mean of their ratios."""
    ratios = []
    loop = "i=0; while [ $i -lt 40 ]; do {}; i=$((i+1)); done"
    programs = {
        "python3 -c pass, 40 times": loop.format(f"{sys.executable} -S -c pass"),
        "find /usr/lib": "find /usr/lib -type f >/dev/null",
        "grep -r /usr/include": "grep -rq no-such-thing-here /usr/include; true",
    }
    print(f"\nPrograms that do not use luod, {PAIRS} pairs; the loop runs inside, booting is not counted")
    print(f"  {'':28}{'bare s':>9}{'inside s':>10}{'ratio':>8}")
    for name, script in programs.items():
        pairs = [(timed(script, ()), timed(script, LUOEMU)) for _ in range(PAIRS)]
        bare, machine = (statistics.median(side) for side in zip(*pairs, strict=True))
        ratio = statistics.median(b / a for a, b in pairs)
        print(f"  {name:28}{bare:9.3f}{machine:10.3f}{ratio:8.3f}")
        ratios.append(ratio)
    return {"programs that do not use luod, emulated": statistics.mean(ratios)}


def timed(script: str, prefix: tuple[str, ...]) -> float:
    """Returns the seconds that the shell script takes by its own clock, without the machine's boot."""
    clock = "date +%s.%N"
    script = f"{script}; a=$({clock}); {script}; b=$({clock}); echo $a $b"
    done = subprocess.run([*prefix, "sh", "-c", script], stdout=subprocess.PIPE, check=True, text=True)
    begun, ended = map(float, done.stdout.split())
    return ended - begun


def table_of_scale() -> None:
    print("\nSessions and files through a kexec: seconds of each part, and a doubling's factor (2 is linear)")
    small, large = (measure(count) for count in (1, 2))
    print(f"  {'':28}{'1000, 250':>10}{'2000, 500':>10}{'factor':>8}")
    for part in large:
        factor = large[part] / small[part]
        print(f"  {part:28}{small[part]:10.3f}{large[part]:10.3f}{factor:8.2f}")


def measure(count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        figures: dict[str, float] = inside("scale", str(1000 * count), str(250 * count), f"{folder}/notes.json")
        return figures


def start(count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        figures: dict[str, float] = inside(str(count), folder, module="bench.startup")
        return figures


def main() -> None:
    begun = time.monotonic()
    print(f"{os.uname().release}, {os.cpu_count()} CPUs, Python {sys.version.split()[0]}")
    measured = table_of_calls()
    measured |= startup.table(start, WHERE)
    measured |= initrd.table()
    table_of_scale()
    measured |= custody.table(inside)
    measured |= jump.table(RUN, ENVIRONMENT)
    fairness.table(inside)
    vfio.table(inside)
    measured |= table_of_the_untouched()
    print(f"\n{time.monotonic() - begun:.0f} s")
    report.finish(measured, lambda name: not name.endswith((kernel.WHERE, qemu.WHERE)), update="--update" in sys.argv)


if __name__ == "__main__":
    main()
