"""`python -m bench.fleet [HOSTS…]`: how long a rehearsal takes, by its number of hosts: by default 5 and 50.

`make bench-fleet` runs it with the Ansible of the tests. The playbook is that of the collection, so one host is updated
first, then a tenth of them, then half of them at a time. It prints the time of the whole rehearsal, of the roll-out,
and for each host: of the roll-out, the processor time of this machine, which other programs add to, and the memory that
a host takes: what the machine has less while all run.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.report import ROOT
from luod.fleet.rehearsal import Wishes, rehearse
from luod.fleet.setting import Image

COUNTS = (5, 50)
_PERIOD = 0.5
_SECONDS = 300


def available() -> int:
    """Returns the memory that programs can still take, in MiB."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) // 1024


def processor_seconds() -> float:
    """Returns the time that the processors of this machine have worked since its boot."""
    first, *_rest = Path("/proc/stat").read_text().splitlines()
    user, nice, system, _idle, _waiting, *interrupts = map(int, first.split()[1:9])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


@contextmanager
def least_available() -> Iterator[list[int]]:
    """Yields a list whose last number is the least memory that was available until then."""
    seen, over = [available()], threading.Event()

    def watch() -> None:
        while not over.wait(_PERIOD):
            seen.append(min(seen[-1], available()))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield seen
    finally:
        over.set()
        watching.join()


def measure(hosts: int, programs: str) -> str:
    """Rehearses with so many hosts, of two guests each. Returns a line of the table."""
    with tempfile.TemporaryDirectory() as scratch, least_available() as memory:
        linked = Path(scratch) / "collections/ansible_collections/luod"
        linked.mkdir(parents=True)
        (linked / "host").symlink_to(ROOT / "ansible")
        os.environ["ANSIBLE_COLLECTIONS_PATH"] = f"{scratch}/collections"
        names = {f"h{number}": {"ansible_host": f"192.0.2.{number}"} for number in range(1, hosts + 1)}
        variables = {"live_update_kernel": "/boot/vmlinuz", "live_update_wait_seconds": _SECONDS}
        inventory = Path(scratch) / "hosts.yml"
        inventory.write_text(json.dumps({"all": {"hosts": names, "vars": variables}}))
        began, worked = time.monotonic(), processor_seconds()
        report = rehearse(Wishes(str(inventory), "luod.host.update", Image("/boot/vmlinuz"), programs=programs))
        whole = time.monotonic() - began
        worked = (processor_seconds() - worked) / hosts
        taken = (memory[0] - memory[-1]) / hosts
    updated = len(report.of("updated"))
    each = report.seconds / hosts
    times = f"{whole:>8.0f} s  {report.seconds:>8.0f} s  {each:>8.1f} s  {worked:>8.1f} s"
    return f"{hosts:>5}  {updated:>7}  {times}  {taken:>8.0f} MiB"


def main(counts: Sequence[int]) -> None:
    programs = os.environ["LUOD_ANSIBLE"]
    lines = [measure(hosts, programs) for hosts in counts]
    print("hosts  updated       whole    roll-out    for each   processor        memory")
    print("\n".join(lines))


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or COUNTS)
