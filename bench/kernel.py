"""`python -m bench.kernel [--update]`: the start of luod on the real kernel, in QEMU (docs/kernel-machine.md).

`make bench-kernel` builds the kernel and runs it. It is apart from `make bench`, since it takes many minutes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from bench import report, startup

WHERE = "Linux in QEMU"
RUNS = 3
FOLDER = "/run/bench"
"""In the machine's memory: it is empty after the kexec, and luod finds its registry in the kernel."""


def run(count: int) -> dict[str, float]:
    inner = [sys.executable, "-m", "bench.startup", str(count), FOLDER]
    environment = ["env", f"PYTHONPATH={report.ROOT}/src:{report.ROOT}"]
    command = [sys.executable, "-m", "luod.testing.kernel", "--", *environment, *inner]
    done = subprocess.run(command, cwd=report.ROOT, stdout=subprocess.PIPE, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    print(f"{os.uname().release}, {os.cpu_count()} CPUs, Python {sys.version.split()[0]}")
    measured = startup.table(run, WHERE, RUNS)
    report.finish(measured, lambda name: name.endswith(WHERE), update="--update" in sys.argv)


if __name__ == "__main__":
    main()
