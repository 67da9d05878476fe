"""The part of the benchmarks inside a machine: `python3 -m bench.inside calls | scale SESSIONS FILES NOTES`.

It makes raw calls of luod.uapi, timed around the system call. It prints one JSON object with medians in microseconds,
or with seconds for `scale`, which does one kexec and continues by LUOEMU_BOOT.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from luod import kexec
from luod.linux import memfd
from luod.liveupdate import LiveUpdate, OutgoingSession
from luod.uapi import liveupdate as uapi

ROUNDS = 3000


def median(call: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Returns the median time of `call`, in microseconds."""
    taken = []
    for _ in range(rounds):
        begun = time.perf_counter_ns()
        call()
        taken.append(time.perf_counter_ns() - begun)
    return statistics.median(taken) / 1000


def calls() -> dict[str, float]:
    """Returns the times of GET_NAME, PRESERVE_FD and CREATE_SESSION, and of a similar ioctl that is not trapped.

    And of ftruncate, which is trapped for the sake of files that are preserved.
    """
    figures = {}
    with LiveUpdate() as device, memfd("bench", 4096) as plain:
        number = 0x5401  # TCGETS: the kernel itself answers ENOTTY

        def untrapped() -> None:
            try:
                fcntl.ioctl(plain.fileno(), number, buffer)
            except OSError:
                return

        buffer = bytearray(72)
        figures["an ioctl that is not trapped"] = median(untrapped)
        figures["ftruncate"] = median(lambda: os.ftruncate(plain.fileno(), 4096))
        with device.create_session("bench") as session:
            argument = bytearray(uapi.SESSION_GET_NAME.pack(uapi.SESSION_GET_NAME.size, 0, b""))
            figures["GET_NAME"] = median(
                lambda: fcntl.ioctl(session.fileno(), uapi.LIVEUPDATE_SESSION_GET_NAME, argument)
            )
            files = [memfd("bench", 0) for _ in range(ROUNDS)]
            numbers = iter(range(ROUNDS))

            def preserve() -> None:
                token = next(numbers)
                argument = uapi.SESSION_PRESERVE_FD.pack(16, files[token].fileno(), token)
                fcntl.ioctl(session.fileno(), uapi.LIVEUPDATE_SESSION_PRESERVE_FD, bytearray(argument))

            figures["PRESERVE_FD"] = median(preserve)
            figures["ftruncate of a file beside preserved ones"] = median(lambda: os.ftruncate(plain.fileno(), 4096))
            for file in files:
                file.close()
        sessions: list[OutgoingSession] = []
        names = iter(range(ROUNDS))
        figures["CREATE_SESSION"] = median(lambda: sessions.append(device.create_session(f"s{next(names)}")))
        for created in sessions:
            created.close()
    return figures


def scale(sessions: int, files: int, notes: Path) -> dict[str, float]:
    """Returns the seconds of each part of a kexec with `sessions` empty sessions and one with `files` memfds of a page.

    `notes` is a file that outlives the kexec.
    """
    begun = time.perf_counter()
    if os.environ["LUOEMU_BOOT"] == "1":
        with LiveUpdate() as device:
            held = [device.create_session(f"s{number}") for number in range(sessions)]
            created = time.perf_counter()
            big = OutgoingSession(device.create_session("files").detach(), manifest=False)
            for token in range(files):
                with memfd("page", 4096) as page:
                    big.preserve(page, token)
        notes.write_text(json.dumps({"create": created - begun, "preserve": time.perf_counter() - created}))
        with open(os.environ["LUOEMU_KERNEL"], "rb") as image:
            kexec.load(image.fileno(), None, Path("/proc/cmdline").read_text().strip())
        held.append(big)
        notes.write_text(
            json.dumps({**json.loads(notes.read_text()), "jump": -time.clock_gettime(time.CLOCK_BOOTTIME)})
        )
        kexec.jump()
    figures: dict[str, float] = json.loads(notes.read_text())
    figures["jump"] += time.clock_gettime(time.CLOCK_BOOTTIME)
    notes.unlink()
    with LiveUpdate() as device:
        for number in range(sessions):
            with device.retrieve_session(f"s{number}") as session:
                session.finish(discard=True)
        retrieved = time.perf_counter()
        with device.retrieve_session("files") as session:
            for token in range(files):
                session.retrieve(token).close()
            session.finish(discard=True)
    return {**figures, "retrieve": retrieved - begun, "retrieve_fd": time.perf_counter() - retrieved}


def main() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if sys.argv[1] == "calls":
        print(json.dumps(calls()))
    else:
        print(json.dumps(scale(int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))))


if __name__ == "__main__":
    main()
