"""A toy VMM that lives through kernel updates, with luod's library: `python3 vmm.py NAME`, as any user.

Its guest counts in its memory. In a real VMM, `Guest` stops the vCPUs and saves the devices. vmm.c is the same in C,
without the library.
"""

from __future__ import annotations

import contextlib
import mmap
import struct
import sys

import luod
from luod.linux import Fd
from luod.liveupdate import memory

COUNT = struct.Struct("<Q")


class Guest:
    def __init__(self, ram: Fd, state: bytes = b"") -> None:
        """`ram` is its memory, an fd; `state` is the result of `pause`."""
        self.ram = ram
        self.memory = mmap.mmap(ram.fileno(), 0)
        self.runs = True
        if state and COUNT.unpack(state)[0] != self.count:
            raise SystemExit("the guest's memory and its state are not of the same moment")

    @property
    def count(self) -> int:
        (count,) = COUNT.unpack_from(self.memory)
        return int(count)

    def step(self) -> None:
        COUNT.pack_into(self.memory, 0, self.count + 1)

    def pause(self) -> bytes:
        self.runs = False
        return COUNT.pack(self.count)


def restore(client: luod.Client, name: str) -> Guest | None:
    """Returns the guest of the previous kernel; None: there is no state to resume."""
    try:
        restored = client.restore(name)
    except (luod.Torn, luod.AlreadyResumed) as error:
        print(f"{name}: lost: {error}", flush=True)
        return None
    if restored is None:
        return None
    with restored["state"] as file, open(file.fileno(), "rb", closefd=False) as opened:
        state = opened.read(COUNT.size)
    guest = Guest(restored["ram"], state)
    restored.resume()  # before its first instruction: it cannot be resumed a second time
    print(f"{name}: resumes at {guest.count}", flush=True)
    guest.step()
    restored.finish()
    return guest


def freeze(phase: luod.Phase, name: str, guest: Guest) -> None:
    state = guest.pause()
    print(f"{name}: frozen at {guest.count}", flush=True)
    with phase.create() as frozen, memory(COUNT.size, "state") as file:
        with open(file.fileno(), "wb", closefd=False) as opened:
            opened.write(state)
        frozen.preserve(file, name="state")
    phase.ready()


def main(name: str) -> None:
    with luod.Client(patience=60) as client:
        guest = restore(client, name)
        if guest is None:  # a cold start
            client.discard(name)  # releases the sessions of an earlier VMM process, if there are any
            guest = Guest(memory(1 << 20, "ram"))
        session = client.create(name)  # for the next update
        with luod.Participant(name, [session], client=client) as participant:
            session.preserve(guest.ram, 1, name="ram")
            print(f"{name}: takes part", flush=True)
            while True:
                if guest.runs:
                    guest.step()
                try:
                    phase = participant.next(timeout=0.001 if guest.runs else None)
                except luod.NoSuchSession as error:  # luod was started again without its state
                    print(f"{name}: {error}", flush=True)
                    session.close()  # so that its memory can be preserved in another one
                    with contextlib.suppress(luod.Busy):  # in an update; tried again after it
                        session = client.create(name)
                        participant.declare([session])
                        session.preserve(guest.ram, 1, name="ram")
                    continue
                if phase is None:
                    continue
                with phase:  # an exception in it is a veto, and is raised again when the guest was resumed
                    if phase.kind == "preparing":
                        phase.ready()
                    elif phase.kind == "freezing":
                        freeze(phase, name, guest)
                    elif phase.kind in ("cancelled", "lost"):
                        print(f"{name}: goes on at {guest.count}: {phase.reason}", flush=True)
                        guest.runs = True


if __name__ == "__main__":
    main(sys.argv[1])
