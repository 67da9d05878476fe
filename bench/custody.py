"""The cost of luod over bare ioctls: its start in the new boot, and each session that it hands out.

`table` is for `bench.__main__`. The rest runs inside the machine, `python3 -m bench.custody luod|vmms|bare SESSIONS
FOLDER`, in both boots, and does the kexec itself. Compared figures are of one run. With luod, participants take part
for the sessions, and in the new boot they get them over connections that stay open; all calls are sequential. `vmms`
has a process for each session instead, and all of them restore at the same time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import mmap
import os
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import luod
from luod import kexec
from luod.aio import AsyncParticipant
from luod.ctl import admin
from luod.errors import LuodError
from luod.ipc.client import restore, sessions
from luod.ipc.client.connection import Connection
from luod.ipc.client.handle import IncomingHandle
from luod.ipc.client.participation import Carried
from luod.ipc.names import ADMIN_SOCKET, SESSIONS_SOCKET
from luod.linux import memfd
from luod.liveupdate import LiveUpdate, OutgoingSession

T = TypeVar("T")

FILES = 8
PARTS = ("create", "retrieve", "resuming", "files", "finish")
"""The parts of a session's life, timed by the client."""
VMMS = 200
STARTS = 5
PARTICIPANTS = 100
"""Each has an equal number of sessions. That many connections are open at once."""
SUPERVISOR = (str(Path(sys.executable).with_name("luod")), "--log-level", "error", "--state-directory")


def table(inside: Callable[..., dict[str, float]], counts: tuple[int, ...] = (200, 1000)) -> dict[str, float]:
    """Prints the figures, and returns them by the names of docs/performance.md."""
    print(f"\nluod and the bare ioctls: sessions of {FILES} files, each created, carried, handed out, finished; ms")
    print(f"  {'sessions':>10}{'bare':>8}{'luod adds':>11}{'create':>8}{'blackout':>10}{'finish':>8}", end="")
    print(f"{'processor':>11}{'s to freeze':>13}{'MiB of luod':>13}")
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            bare = inside("bare", str(count), folder, module="bench.custody")
            kept = inside("luod", str(count), folder, module="bench.custody")
        each = {part: 1000 * bare.get(part, 0.0) / count for part in PARTS}
        adds = {part: 1000 * kept[part] / count - each[part] for part in PARTS}
        blackout = adds["retrieve"] + adds["resuming"]
        print(f"  {count:10}{sum(each.values()):8.3f}{sum(adds.values()):11.3f}{adds['create']:8.3f}", end="")
        print(f"{blackout:10.3f}{adds['finish']:8.3f}{1000 * kept['processor'] / count:11.3f}", end="")
        print(f"{kept['freezing']:13.3f}{kept['mib']:13.1f}")
    print("  blackout: Retrieve and Resuming; processor: of luod's two processes, without the client's")
    with tempfile.TemporaryDirectory() as folder:
        vmms = inside("vmms", str(VMMS), folder, module="bench.custody")
    print(f"  {VMMS} VMMs, each a process, restore at the same time: the first has its session after", end=" ")
    print(f"{vmms['first_vmm']:.3f} s, the last {1000 * vmms['spread']:.0f} ms later")
    print(f"  to freeze: {PARTICIPANTS} participants in one process prepare, and are ready, from the call to the jump")
    print(f"  first session after exec: {kept['first']:.3f} s, {kept['first'] / kept['asyncio']:.2f} times", end=" ")
    print(f"python3 -c 'import asyncio' ({kept['asyncio']:.3f} s)")
    return {
        f"luod adds to each of {counts[-1]} sessions": sum(adds.values()),
        f"luod adds to each of {counts[-1]} sessions, in the blackout": blackout,
        f"{VMMS} VMMs restore, from the first to the last": 1000 * vmms["spread"],
        f"memory of luod with {counts[-1]} sessions": kept["mib"],
    }


def start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*SUPERVISOR, str(folder / "state"), "--config", str(folder / "policy.toml")])


def connected() -> luod.Client:
    client = luod.Client()
    while True:
        try:
            with client:
                return client
        except LuodError:
            time.sleep(0.001)


def before(
    client: luod.Client | LiveUpdate, count: int, notes: Path, processor: Callable[[], float] = lambda: 0.0
) -> None:
    begun = time.perf_counter()
    held: list[OutgoingSession | luod.HeldOutgoingSession] = []
    for number in range(count):
        session: OutgoingSession | luod.HeldOutgoingSession
        if isinstance(client, LiveUpdate):
            session = OutgoingSession(client.create(f"s{number}"), manifest=False)
        else:
            session = client.create(f"s{number}", manifest=False)
        for token in range(FILES):
            with memfd("page", 4096) as page:
                session.preserve(page, token)
        held.append(session)
    notes.write_text(json.dumps({"create": time.perf_counter() - begun, "processor": processor()}))
    if isinstance(client, LiveUpdate):
        client.close()
        with open(os.environ["LUOEMU_KERNEL"], "rb") as image:
            kexec.load(image.fileno(), None, Path("/proc/cmdline").read_text().strip())
        kexec.jump()
    asyncio.run(take_part(held))


async def take_part(held: Sequence[Carried]) -> None:
    """Votes ready for all of them at once; the kexec ends this process."""
    share = max(1, len(held) // PARTICIPANTS)
    shares = [held[at : at + share] for at in range(0, len(held), share)]
    participants = [AsyncParticipant(f"p{number}", theirs) for number, theirs in enumerate(shares)]
    for participant in participants:
        await participant.__aenter__()
    running = [asyncio.ensure_future(participant.run()) for participant in participants]
    await asyncio.create_subprocess_exec(*update(), stdout=subprocess.DEVNULL)
    await asyncio.gather(*running)


def update() -> tuple[str, ...]:
    """Returns the command for an update into the next kernel of the machine, which is emulated or a real one."""
    emulated = os.environ.get("LUOEMU_KERNEL")
    files = (emulated,) if emulated else (os.environ["LUOD_KERNEL"], "--initrd", os.environ["LUOD_INITRD"])
    return (sys.executable, "-P", "-m", "luod.ctl.main", "update", "--reuse-cmdline", "--kernel", *files)


def after_bare(device: LiveUpdate, count: int) -> dict[str, float]:
    taken = Stopwatch()
    for number in range(count):
        with device.retrieve_session(f"s{number}") as session:
            taken("retrieve")
            for token in range(FILES):
                session.retrieve(token).close()
            taken("files")
            session.finish(discard=True)
        taken("finish")
    return taken.seconds


def after_luod(path: str, count: int) -> dict[str, float]:
    connections = [Connection(path, timeout=30) for _ in range(min(count, PARTICIPANTS))]
    taken = Stopwatch()
    for number in range(count):
        connection = connections[number % len(connections)]
        name = f"s{number}"
        session = IncomingHandle(name, over(connection, sessions.retrieve(name, SESSIONS_SOCKET)))
        taken("retrieve")
        for token in range(FILES):
            session._bare.retrieve(token).close()
        taken("files")
        over(connection, restore.resume(restore.RestoredFiles(name, session, None)))
        taken("resuming")
        over(connection, sessions.finish(session, discard=True, tokens=None))
        taken("finish")
    for connection in connections:
        connection.close()
    return taken.seconds


class Stopwatch:
    """Adds up the time since the last call, by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._then = time.perf_counter()

    def __call__(self, part: str) -> None:
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._then
        self._then = now


def restore_at_once(count: int) -> dict[str, float]:
    """Returns when the first of `count` processes had its session, after all were let go, and the time to the last."""
    begun = [mmap.mmap(-1, 8) for _ in range(count)]
    gate, opens = os.pipe()
    children = []
    for number, shared in enumerate(begun):
        pid = os.fork()
        if pid == 0:
            os.close(opens)
            os.read(gate, 1)
            restored = luod.Client().restore(f"s{number}")
            assert restored is not None
            shared[:] = struct.pack("d", time.monotonic())
            os._exit(0)
        children.append(pid)
    then = time.monotonic()
    os.close(opens)
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
    had = sorted(struct.unpack("d", shared)[0] for shared in begun)
    return {"first_vmm": had[0] - then, "spread": had[-1] - had[0]}


def over(connection: Connection, steps: sessions.Exchange[T]) -> T:
    """Runs an exchange on a connection that stays open."""
    call = next(steps)
    while True:
        with contextlib.closing(connection.ask(call.encode(), [fd.fileno() for fd in call.fds])) as reply:
            try:
                call = steps.send(reply)
            except StopIteration as end:
                result: T = end.value
                return result


def median_of_starts() -> float:
    taken = []
    for _ in range(STARTS):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import asyncio"], check=True)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def luods(supervisor: int) -> tuple[int, ...]:
    """Returns luod's two processes."""
    return (supervisor, *map(int, Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()))


def mib(supervisor: int) -> float:
    """Returns the memory of luod's two processes in MiB. What they share is counted once: the Pss of proc(5)."""
    maps = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in luods(supervisor)]
    return sum(int(text.partition("\nPss:")[2].split()[0]) for text in maps) / 1024


def processor(supervisor: int) -> float:
    """Returns the seconds of processor time that the threads of luod's two processes have used."""
    threads = [thread for pid in luods(supervisor) for thread in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def main(kind: str, count: int, folder: Path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    notes = folder / f"notes-{kind}"
    figures: dict[str, float] = {}
    if kind == "bare":
        device = LiveUpdate()
        if os.environ["LUOEMU_BOOT"] == "1":
            before(device, count, notes)
        figures = after_bare(device, count)
    else:
        policy = folder / "policy.toml"
        policy.write_text("[[rules]]\nuid = 0\nsessions = 1024\nconnections = 512\n")
        if os.environ["LUOEMU_BOOT"] == "1":
            supervisor = start(folder)
            client = connected()
            began = processor(supervisor.pid)
            before(client, count, notes, lambda: processor(supervisor.pid) - began)
        figures["asyncio"] = median_of_starts()
        begun = time.perf_counter()
        supervisor = start(folder)
        client = connected()
        client.retrieve("s0").close()
        figures["first"] = time.perf_counter() - begun
        told = admin.timeline(ADMIN_SOCKET)
        figures["freezing"] = (told and told.jumping) or 0.0
        began = processor(supervisor.pid)
        figures |= restore_at_once(count) if kind == "vmms" else after_luod(client.path, count)
        figures["processor"] = processor(supervisor.pid) - began
        figures["mib"] = mib(supervisor.pid)
        supervisor.terminate()
        supervisor.wait()
    for part, seconds in json.loads(notes.read_text()).items():
        figures[part] = figures.get(part, 0.0) + seconds
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
