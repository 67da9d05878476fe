"""What luod adds to the bare ioctls: its start in the new boot, and each session that it hands out.

`table` is for `bench.__main__`; the rest runs inside the machine, `python3 -m bench.custody luod|bare SESSIONS FOLDER`,
in both boots, and jumps by itself. What is compared is measured in one run. One client makes all calls, one by one.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import luod
from luod import kexec
from luod.errors import LuodError
from luod.linux import memfd
from luod.liveupdate import IncomingSession, LiveUpdate, OutgoingSession

FILES = 8
STARTS = 5
KEEP = (sys.executable, "-P", "-m", "luod.daemon.main", "keep", "--log-level", "error", "--state-directory")


def table(inside: Callable[..., dict[str, float]], counts: tuple[int, int] = (250, 1000)) -> None:
    print(f"\nluod and the bare ioctls: sessions of {FILES} files, each created, carried, handed out, finished")
    print(f"  {'sessions':>10}{'bare ms each':>14}{'luod ms each':>14}{'luod adds ms':>14}{'MiB of luod':>13}")
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            bare = inside("bare", str(count), folder, module="bench.custody")
            kept = inside("luod", str(count), folder, module="bench.custody")
        each, with_luod = (1000 * figures["seconds"] / count for figures in (bare, kept))
        print(f"  {count:10}{each:14.3f}{with_luod:14.3f}{with_luod - each:14.3f}{kept['mib']:13.1f}")
    print(f"  first session after exec: {kept['first']:.3f} s, {kept['first'] / kept['asyncio']:.2f} times", end=" ")
    print(f"python3 -c 'import asyncio' ({kept['asyncio']:.3f} s)")


def start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*KEEP, str(folder / "state"), "--config", str(folder / "policy.toml")])


def connected() -> luod.Client:
    while True:
        try:
            return luod.connect()
        except LuodError:
            time.sleep(0.001)


def before(client: luod.Client | LiveUpdate, count: int, notes: Path) -> None:
    begun = time.perf_counter()
    held: list[OutgoingSession] = []
    for number in range(count):
        if isinstance(client, LiveUpdate):
            session = OutgoingSession(client.create_session(f"s{number}").detach(), manifest=False)
        else:
            session = client.create(f"s{number}", manifest=False)
        for token in range(FILES):
            with memfd("page", 4096) as page:
                session.preserve(page, token)
        held.append(session)
    notes.write_text(json.dumps({"seconds": time.perf_counter() - begun}))
    if isinstance(client, LiveUpdate):
        client.close()
        with open(os.environ["LUOEMU_KERNEL"], "rb") as image:
            kexec.load(image.fileno(), None, Path("/proc/cmdline").read_text().strip())
        kexec.jump()
    luoctl = (sys.executable, "-P", "-m", "luod.ctl.main")
    subprocess.run(
        [*luoctl, "load", "--kernel", os.environ["LUOEMU_KERNEL"], "--reuse-cmdline"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    subprocess.run([*luoctl, "update", "--force-finding", "contents-undeclared"], check=True, stdout=subprocess.DEVNULL)
    time.sleep(60)  # the jump ends this process


def after(client: luod.Client | LiveUpdate, count: int) -> float:
    begun = time.perf_counter()
    for number in range(count):
        session: Any = (
            client.retrieve_session(f"s{number}") if isinstance(client, LiveUpdate) else client.retrieve(f"s{number}")
        )
        assert isinstance(session, IncomingSession)
        for token in range(FILES):
            session.retrieve(token).close()
        if isinstance(client, LiveUpdate):
            with session:
                session.finish(discard=True)
        else:
            client.finish(session, discard=True)
    return time.perf_counter() - begun


def median_of_starts() -> float:
    taken = []
    for _ in range(STARTS):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import asyncio"], check=True)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def mib(pid: int) -> float:
    """Of luod's two processes."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    pages = sum(int(Path(f"/proc/{number}/statm").read_text().split()[1]) for number in (pid, *map(int, children)))
    return pages * os.sysconf("SC_PAGESIZE") / (1 << 20)


def main(kind: str, count: int, folder: Path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    notes = folder / f"notes-{kind}"
    figures: dict[str, float] = {}
    if kind == "bare":
        device = LiveUpdate()
        if os.environ["LUOEMU_BOOT"] == "1":
            before(device, count, notes)
        taken = after(device, count)
    else:
        policy = folder / "policy.toml"
        policy.write_text("[[rules]]\nuid = 0\nsessions = 1024\n")
        if os.environ["LUOEMU_BOOT"] == "1":
            start(folder)
            before(connected(), count, notes)
        figures["asyncio"] = median_of_starts()
        begun = time.perf_counter()
        keep = start(folder)
        client = connected()
        client.retrieve("s0").close()
        figures["first"] = time.perf_counter() - begun
        taken = after(client, count)
        figures["mib"] = mib(keep.pid)
        keep.terminate()
        keep.wait()
    figures["seconds"] = json.loads(notes.read_text())["seconds"] + taken
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
