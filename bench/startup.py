"""The time from the exec of luod to the first session at a client, in units of `python3 -c 'import asyncio'`.

`table` is for `bench.__main__` and `bench.kernel`. The rest runs inside a machine, emulated or real, `python3 -m
bench.startup SESSIONS FOLDER`, in both boots, and does the kexec itself. The guests of all sessions wait for it.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import luod
from bench.custody import connected, start, take_part
from luod.linux import memfd

COUNTS = (1, 1000)
RUNS = 5
UNITS = 4
"""How often the unit is measured, before and after."""


def table(run: Callable[[int], dict[str, float]], where: str, runs: int = RUNS) -> dict[str, float]:
    """Prints the figures, and returns them by the names of docs/performance.md.

    `run` runs this module inside a machine with a number of sessions, and returns what it prints.
    """
    print(f"\nFrom the exec of luod to the first session at a client ({where}), {runs} updates")
    print(f"  {'sessions':>10}{'least s':>12}{'import asyncio':>16}{'least ratio':>13}{'median ratio':>14}")
    figures = {}
    for count in COUNTS:
        taken = [run(count) for _ in range(runs)]
        least = [min(each[name] for each in taken) for name in ("first", "unit")]
        ratios = [each["first"] / each["unit"] for each in taken]
        middle = statistics.median(ratios)
        print(f"  {count:10}{least[0]:12.3f}{least[1]:16.3f}{min(ratios):13.2f}{middle:14.2f}")
        figures[f"exec to the first session of {count}, {where}"] = middle
    return figures


def unit() -> float:
    """Returns the seconds that the interpreter takes to import asyncio."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import asyncio"], check=True)
    return time.perf_counter() - begun


def create(client: luod.Client, count: int) -> list[luod.HeldOutgoingSession]:
    """Creates sessions with a page of memory each."""
    held = []
    for number in range(count):
        held.append(session := client.create(f"s{number}", manifest=False))
        with memfd("page", 4096) as page:
            session.preserve(page, 1)
    return held


def measure(folder: Path) -> dict[str, float]:
    """Returns the time to the first session, and the median time of the unit before and after it, in seconds."""
    # What a machine that has just booted reads comes from its disk.
    for path in Path(luod.__file__).parent.rglob("*.pyc"):
        path.read_bytes()
    unit()
    units = [unit() for _ in range(UNITS)]
    begun = time.perf_counter()
    supervisor = start(folder)
    connected().retrieve("s0").close()
    first = time.perf_counter() - begun
    units += [unit() for _ in range(UNITS)]
    supervisor.terminate()
    supervisor.wait()
    return {"first": first, "unit": statistics.median(units)}


def main(count: int, folder: Path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    folder.mkdir(exist_ok=True)
    (folder / "policy.toml").write_text("[[rules]]\nuid = 0\nsessions = 1024\nconnections = 512\n")
    if (os.environ.get("LUOEMU_BOOT") or os.environ["LUOD_BOOT"]) == "1":
        start(folder)
        asyncio.run(take_part(create(connected(), count)))
    print(json.dumps(measure(folder)))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
