"""The time from the last vote to reboot(2), which is a part of the blackout, with many participants, and with bare
calls what FREEZE takes out of reboot(2).

`table` is for `bench.__main__`. The rest runs inside the machine, `python3 -m bench.jump luod|bare FOLDER COUNT`, and
does the kexec itself. The end is the line that the kernel logs in reboot(2), so the same is measured with bare
calls, and subtracted. The participants are plain sockets of one process, which waits while luod works.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.custody import connected, start
from luod import kexec
from luod.ipc.names import SESSIONS_SOCKET
from luod.linux import memfd
from luod.liveupdate import LiveUpdate, OutgoingSession

PARTICIPANTS = 100
RUNS = 5
FILES = 20
"""In a session, where reboot(2) alone is measured."""
STARTING = "Starting new kernel"


def table(luoemu: Sequence[str], environment: dict[str, str]) -> dict[str, float]:
    print(f"\nFrom the last vote until reboot(2) starts the kernel, the medians of {RUNS} updates in ms")
    print(f"  {'':18}{'luod':>10}{'reboot(2) alone':>18}{'difference':>12}{'least':>8}")
    for participants in (1, PARTICIPANTS):
        runs = {
            kind: [1000 * measure(luoemu, environment, kind, participants) for _ in range(RUNS)]
            for kind in ("luod", "bare")
        }
        whole, bare = (statistics.median(taken) for taken in runs.values())
        least = min(runs["luod"]) - bare
        print(f"  {participants:3} participants{whole:13.1f}{bare:18.1f}{whole - bare:12.1f}{least:8.1f}")
    early = _early_freeze(luoemu, environment)
    return {f"last vote to reboot(2), {PARTICIPANTS} participants": whole - bare, **early}


def _early_freeze(luoemu: Sequence[str], environment: dict[str, str]) -> dict[str, float]:
    """Measures reboot(2) alone, with sessions of many files, that were frozen before or were not."""
    program = [*luoemu, "--profile", "next"]
    late, early = (
        statistics.median(1000 * measure(program, environment, kind, PARTICIPANTS) for _ in range(RUNS))
        for kind in ("full", "frozen")
    )
    print(
        f"\nreboot(2) with {PARTICIPANTS} sessions of {FILES} files, profile next, the medians of {RUNS} kexecs in ms"
    )
    print(f"  frozen in reboot(2){late:12.2f}\n  frozen before (FREEZE){early:9.2f}")
    return {f"reboot(2), {PARTICIPANTS} sessions of {FILES} files": late, "… frozen before": early}


def measure(luoemu: Sequence[str], environment: dict[str, str], kind: str, participants: int) -> float:
    """Returns the seconds of one update."""
    with tempfile.TemporaryDirectory() as folder:
        program = [sys.executable, "-m", "bench.jump", kind, folder, str(participants)]
        command = [*luoemu, "--kernel-log", "--", *program]
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as machine:
            assert machine.stderr is not None
            for line in machine.stderr:
                if STARTING in line:
                    return time.monotonic() - float(Path(folder, "voted").read_text())
                print(line, end="", file=sys.stderr)
    raise AssertionError("the machine ended without a kexec")


class Wire:
    """A connection to luod that sends calls, and reads replies one at a time."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(SESSIONS_SOCKET)
        self._begun = b""

    def send(self, method: str, parameters: dict[str, Any], *, more: bool = False) -> None:
        call = {"method": f"io.luod.Updates.{method}", "parameters": parameters, "more": more}
        self._socket.sendall(json.dumps(call).encode() + b"\0")

    def read(self) -> dict[str, Any]:
        while b"\0" not in self._begun:
            self._begun += self._socket.recv(65536)
        message, _, self._begun = self._begun.partition(b"\0")
        reply: dict[str, Any] = json.loads(message)
        assert "error" not in reply, reply
        parameters: dict[str, Any] = reply["parameters"]
        return parameters

    def call(self, method: str, parameters: dict[str, Any]) -> None:
        self.send(method, parameters)
        self.read()


def bare(folder: Path, participants: int) -> None:
    held = []
    with LiveUpdate() as device:
        for number in range(participants):
            held.append(session := OutgoingSession(device.create(f"s{number}"), manifest=False))
            with memfd("page", 4096) as page:
                session.preserve(page, 1)
    with open(os.environ["LUOEMU_KERNEL"], "rb") as image:
        kexec.load(image, None, "liveupdate=on kho=on")
    (folder / "voted").write_text(str(time.monotonic()))
    kexec.jump()


def full(folder: Path, sessions: int, *, early: bool = False) -> None:
    """Does a kexec with sessions of many files. `early` freezes them before."""
    held = []
    with LiveUpdate() as device:
        for number in range(sessions):
            held.append(session := OutgoingSession(device.create(f"s{number}"), manifest=False))
            for token in range(FILES):
                with memfd("page", 4096) as page:
                    session.preserve(page, token)
    with open(os.environ["LUOEMU_KERNEL"], "rb") as image:
        kexec.load(image, None, "liveupdate=on kho=on")
    if early:
        for session in held:
            session.freeze()
    (folder / "voted").write_text(str(time.monotonic()))
    kexec.jump()


def with_luod(folder: Path, participants: int) -> None:
    (folder / "policy.toml").write_text("[[rules]]\nuid = 0\nsessions = 1024\nconnections = 512\n")
    start(folder)
    calls, wires, secrets, held = None, [], [], []
    client = connected()
    for number in range(participants):
        held.append(session := client.create(f"s{number}", manifest=False))
        with memfd("page", 4096) as page:
            session.preserve(page, 1)
        calls = calls or Wire()
        wires.append(wire := Wire())
        wire.send("Follow", {"name": f"p{number}"}, more=True)
        secrets.append(wire.read()["participant"])
        file = {"token": 1, "kind": "memfd", "size": 4096, "allocated": 4096, "seals": 0, "when": "preserved"}
        calls.call("Declare", {"participant": secrets[-1], "sessions": [{"name": f"s{number}", "files": [file]}]})
    assert calls is not None
    luoctl = (sys.executable, "-P", "-m", "luod.ctl.main", "update", "--kernel", os.environ["LUOEMU_KERNEL"])
    update = subprocess.Popen([*luoctl, "--reuse-cmdline"], stdout=subprocess.DEVNULL)
    for phase in ("preparing", "freezing"):
        for wire in wires:
            assert wire.read()["event"] == phase
        ballots = [{"participant": secret, "phase": phase, "vote": "ready"} for secret in secrets]
        for ballot in ballots[:-1]:
            calls.call("Vote", ballot)
        time.sleep(0.5)
        (folder / "voted").write_text(str(time.monotonic()))
        calls.send("Vote", ballots[-1])
    update.wait()


if __name__ == "__main__" and os.environ["LUOEMU_BOOT"] == "1":
    kinds: dict[str, Callable[[Path, int], None]]
    kinds = {"bare": bare, "full": full, "frozen": partial(full, early=True), "luod": with_luod}
    kinds[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
