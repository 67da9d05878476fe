"""The waiting time of others while one user, or many, load luod: a participant's vote, and root's List.

`table` is for `bench.__main__`; the rest runs inside the machine, `python3 -m bench.fairness FOLDER`. The load and the
participants are forked children with uids of their own, so a machine of root is needed. Each call has a new connection,
as in the library.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from luod.ipc.client.connection import Connection
from luod.ipc.framing import encode_call
from luod.ipc.names import ADMIN_SOCKET, SESSIONS_SOCKET
from luod.testing.waiting import eventually

CALLS = 300
VOTER, AWAITED, ATTACKER = 1000, 1001, 1002
MANY = range(100_000, 100_600)
"""Uids of one user, as subuid(5) assigns them."""
SUPERVISOR = (str(Path(sys.executable).with_name("luod")), "--log-level", "error", "--state-directory")
LOADS: dict[str, tuple[str, dict[str, Any]]] = {
    "60 KiB of text": ("io.luod.Sessions.Create", {"name": "x" * 60_000}),
    "60 KiB of values": ("io.luod.Updates.Resuming", {"names": ["a"] * 15_000}),
    "small calls": ("io.luod.Sessions.List", {}),
}


def table(inside: Callable[..., dict[str, float]]) -> None:
    print(f"\nOthers wait while 128 connections load luod, milliseconds of {CALLS} calls; ratios to no load")
    print(f"  {'':46}{'p50':>8}{'p99':>8}{'ratio of p99':>14}{'serve busy':>12}")
    figures = inside(module="bench.fairness")
    if not figures:
        print("  (only root can have several users in a machine)")
        return
    for state in dict.fromkeys(name.rpartition(",")[0].rpartition(",")[0] for name in figures):
        for call in ("vote of a participant", "List of root"):
            p50, p99 = (figures[f"{state},{call},{percent}"] for percent in ("p50", "p99"))
            ratio, used = p99 / figures[f"no load,{call},p99"], figures[f"{state},serve,busy"]
            print(f"  {call + ', ' + state:46}{p50:8.2f}{p99:8.2f}{ratio:14.1f}{used:11.0f}%")


def timed(method: str, parameters: dict[str, Any]) -> list[float]:
    """Returns the milliseconds of each call. An error counts as an answer."""
    message = encode_call(method, parameters)
    taken = []
    for _ in range(CALLS):
        begun = time.perf_counter()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(SESSIONS_SOCKET)
            connection.sendall(message)
            answer = b""
            while not answer.endswith(b"\0"):
                data = connection.recv(1 << 16)
                if not data:
                    raise ConnectionResetError(answer)
                answer += data
            if b"TooManyConnections" in answer:
                raise ConnectionRefusedError(answer)
        taken.append(1000 * (time.perf_counter() - begun))
    return sorted(taken)


@contextlib.contextmanager
def child(uid: int, work: Callable[[socket.socket], None]) -> Iterator[socket.socket]:
    """Runs `work` in a process of this user, and yields the other end of its socket. Kills it in the end."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            work(theirs)
        except BaseException as error:  # noqa: BLE001 - a fork ends here whatever happens
            print(f"uid {uid}: {error!r}", file=sys.stderr)
        finally:
            os._exit(0)
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def call(method: str, parameters: dict[str, Any]) -> dict[str, Any]:
    with Connection(SESSIONS_SOCKET, timeout=30) as connection:
        reply = connection.ask(encode_call(method, parameters))
        reply.close()
    return dict(reply.parameters)


def take_part(name: str, told: socket.socket) -> None:
    """Takes part. Sends its secret when it is to prepare, and measures votes for each message."""
    with Connection(SESSIONS_SOCKET, timeout=30) as holder:
        holder.ask(encode_call("io.luod.Sessions.Create", {"name": name})).close()
        with Connection(SESSIONS_SOCKET, timeout=30) as connection:
            events = connection.follow(encode_call("io.luod.Updates.Follow", {"name": name}, more=True))
            secret = next(events).parameters["participant"]
            call("io.luod.Updates.Declare", {"participant": secret, "sessions": [{"name": name, "files": []}]})
            told.sendall(b"!")
            assert next(events).parameters["event"] == "preparing"
            ballot = {"participant": secret, "phase": "preparing", "vote": "ready", "reason": None}
            while told.recv(1):
                told.sendall(json.dumps(timed("io.luod.Updates.Vote", ballot)).encode() + b"\n")


def load(message: bytes, connections: int, told: socket.socket) -> None:
    """Calls without end, the next when the last is answered. Reports as many answers as connections."""
    poll = select.epoll()
    open_: dict[int, tuple[socket.socket, memoryview]] = {}
    for _ in range(connections):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(SESSIONS_SOCKET)
        connection.setblocking(False)
        open_[connection.fileno()] = connection, memoryview(message)
        poll.register(connection, select.EPOLLOUT)
    answered = 0
    while True:
        for number, _events in poll.poll():
            connection, left = open_[number]
            with contextlib.suppress(BlockingIOError):
                if left:
                    left = left[connection.send(left) :]
                elif connection.recv(1 << 16).endswith(b"\0"):
                    left = memoryview(message)
                    answered += 1
                    if answered == connections:
                        told.sendall(b"!")
                open_[number] = connection, left
                poll.modify(connection, select.EPOLLOUT if left else select.EPOLLIN)


def busy(serve: int) -> tuple[float, float]:
    """Returns the time, and the processor seconds that serve has used."""
    fields = Path(f"/proc/{serve}/stat").read_text().rpartition(")")[2].split()
    return time.monotonic(), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def fds(serve: int) -> int:
    return len(os.listdir(f"/proc/{serve}/fd"))


def wait_until_closed(serve: int, before: int) -> None:
    """Waits until serve has closed the connections. It sees a hang-up after it has read the earlier data."""
    eventually(lambda: fds(serve) <= before, describe="serve has closed the attackers' connections")


def percentiles(state: str, voter: socket.socket, serve: int) -> dict[str, float]:
    begun, used = busy(serve)
    voter.sendall(b"!")
    votes: list[float] = json.loads(voter.makefile().readline())
    figures = {}
    for name, taken in (("vote of a participant", votes), ("List of root", timed("io.luod.Sessions.List", {}))):
        figures[f"{state},{name},p50"] = taken[len(taken) // 2]
        figures[f"{state},{name},p99"] = taken[len(taken) * 99 // 100]
    ended, used_then = busy(serve)
    return figures | {f"{state},serve,busy": 100 * (used_then - used) / (ended - begun)}


def measure(serve: int) -> dict[str, float]:
    figures: dict[str, float] = {}
    with contextlib.ExitStack() as all_:
        voter = all_.enter_context(child(VOTER, partial(take_part, "voter")))
        awaited = all_.enter_context(child(AWAITED, partial(take_part, "awaited")))
        for participant in (voter, awaited):
            participant.recv(1)
        operator = all_.enter_context(update())
        figures |= percentiles("no load", voter, serve)
        before = fds(serve)
        for uid, (name, (method, parameters)) in enumerate(LOADS.items(), ATTACKER):
            with child(uid, partial(load, encode_call(method, parameters), 128)) as attacker:
                attacker.recv(1)
                figures |= percentiles(name, voter, serve)
            wait_until_closed(serve, before)
        message = encode_call(*LOADS["60 KiB of values"])
        with contextlib.ExitStack() as attackers:
            for uid in MANY:
                attackers.enter_context(child(uid, partial(load, message, 1)))
            figures |= percentiles(f"{len(MANY)} users, values", voter, serve)
        operator.close()
    return figures


@contextlib.contextmanager
def update() -> Iterator[Connection]:
    """Starts an update that waits for a vote until the block ends."""
    luoctl = (sys.executable, "-P", "-m", "luod.ctl.main", "load", "--kernel", os.environ["LUOEMU_KERNEL"])
    subprocess.run([*luoctl, "--reuse-cmdline"], check=True, stdout=subprocess.DEVNULL)
    with Connection(ADMIN_SOCKET, timeout=600) as operator:
        wishes = {"deadline": 600.0, "ignore_findings": ["contents-undeclared"]}
        operator.begin(encode_call("io.luod.Admin.Update", wishes, more=True))
        replies = iter(partial(operator.next, 60), None)
        next(reply for reply in replies if reply.parameters["participants"])
        yield operator


def answers() -> bool:
    with contextlib.suppress(Exception):  # whatever it says, it is not ready
        call("io.luod.Sessions.List", {})
        return True
    return False


def main(folder: Path) -> None:
    supervisor = subprocess.Popen([*SUPERVISOR, str(folder / "state")])
    eventually(answers, describe="luod answers")
    (serve,) = Path(f"/proc/{supervisor.pid}/task/{supervisor.pid}/children").read_text().split()
    print(json.dumps(measure(int(serve))))
    supervisor.terminate()
    supervisor.wait()


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder)) if os.getuid() == 0 else print("{}")
