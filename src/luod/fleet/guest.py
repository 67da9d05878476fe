"""A VMM of an emulated host: `python3 -m luod.fleet.guest NAME BYTES [FAULT REASON]`. Its guest counts in its memory.

It takes part in updates, and resumes its guest in the next kernel. Standard library and luod only.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

import luod
from luod.linux import Fd
from luod.liveupdate import memory

_NUMBER = 8
_TICK_SECONDS = 0.5
"""Between two counts: a hundred guests that count often take the time of a processor."""


def _restored(client: luod.Client, name: str) -> tuple[Fd, int] | None:
    """Returns the memory of the guest of the previous kernel and its count; None: there is no state to resume."""
    try:
        restored = client.restore(name)
    except (luod.Torn, luod.AlreadyResumed) as error:
        print(f"{name}: lost: {error}", file=sys.stderr, flush=True)
        return None
    if restored is None:
        return None
    ram = restored["ram"]
    with restored["state"] as state:
        count = int.from_bytes(os.pread(state.fileno(), _NUMBER, 0), "little")
    found = int.from_bytes(os.pread(ram.fileno(), _NUMBER, 0), "little")
    if found != count:
        raise SystemExit(f"{name}: its memory says {found}, its state {count}")
    restored.resume()
    restored.finish()
    return ram, count


def main(arguments: Sequence[str]) -> None:
    name, size, *fault = arguments
    with luod.Client(patience=60) as client:
        found = _restored(client, name)
        if found is None:
            client.discard(name)
            found = memory(int(size), "ram"), 0
        _run(client, name, *found, fault)


def _run(client: luod.Client, name: str, ram: Fd, count: int, fault: Sequence[str]) -> None:
    session, running = client.create(name), True
    with luod.Participant(name, [session], client=client) as participant:
        session.preserve(ram, 1, name="ram")
        participant.declare([session])  # with the bytes, for who asks what an update would carry
        while True:
            if running:
                count += 1
                os.pwrite(ram.fileno(), count.to_bytes(_NUMBER, "little"), 0)
            phase = participant.next(timeout=_TICK_SECONDS if running else None)
            if phase is None:
                continue
            with phase:
                if phase.kind == "preparing":
                    if fault[:1] == ["veto"]:
                        phase.veto(fault[1])
                    else:
                        phase.ready()
                elif phase.kind == "freezing":
                    running = False
                    if fault[:1] == ["hang"]:
                        # Until luod's deadline cancels the update; the event for that waits meanwhile.
                        time.sleep((phase.seconds_left or 0.0) + 1)
                        continue
                    with phase.create() as frozen, memory(_NUMBER, "state") as state:
                        os.pwrite(state.fileno(), count.to_bytes(_NUMBER, "little"), 0)
                        frozen.preserve(state, name="state")
                    phase.ready()
                elif phase.kind in ("cancelled", "lost"):
                    running = True


if __name__ == "__main__":
    main(sys.argv[1:])
