"""A unit's program in `bench.systemd`: keeps a memfd through an update, and says when it has it in the next kernel.

`python3 unit_guest.py luod NAME` has its session from luod. `python3 unit_guest.py alone FDNAME` has that of
LUOSession= from PID 1, and uses the kernel's calls only. It runs in the virtual machine, with nothing of the benchmark
beside it. Each prints a line of words: `has`, what it has, and the monotonic time in s of its first statement and now.
"""

from __future__ import annotations

import time

BEGAN = time.monotonic()

import errno  # noqa: E402 - what is imported is a part of the time
import fcntl  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402

MARK = b"a memfd of the last kernel"
TOKEN = 1
_FIRST_FD = 3


def tell(what: str) -> None:
    print(f"has {what} {BEGAN:.6f} {time.monotonic():.6f}", flush=True)


def alone(name: str) -> None:
    from luod.uapi import liveupdate

    session = _FIRST_FD + os.environ["LISTEN_FDNAMES"].split(":").index(name)
    retrieve = liveupdate.SESSION_RETRIEVE_FD
    request = bytearray(retrieve.pack(retrieve.size, 0, TOKEN))
    try:
        fcntl.ioctl(session, liveupdate.LIVEUPDATE_SESSION_RETRIEVE_FD, request)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of an outgoing session
            raise
        memory = os.memfd_create(name)
        os.write(memory, MARK)
        preserve = liveupdate.SESSION_PRESERVE_FD
        fcntl.ioctl(
            session, liveupdate.LIVEUPDATE_SESSION_PRESERVE_FD, bytearray(preserve.pack(preserve.size, memory, TOKEN))
        )
        tell("preserved")
    else:
        _size, memory, _token = retrieve.unpack(request)
        tell("retrieved" if os.pread(memory, len(MARK), 0) == MARK else "another")
    signal.pause()


def luod(name: str) -> None:
    from luod.client import Client
    from luod.liveupdate import memory
    from luod.participant import Participant

    with Client(patience=60) as client:
        restored = client.restore(name)
        if restored is not None:
            with restored["ram"] as ram:
                tell("retrieved" if os.pread(ram.fileno(), len(MARK), 0) == MARK else "another")
            restored.resume()
            restored.finish()
        client.discard(name)
        session, ram = client.create(name), memory(4096, "ram")
        os.pwrite(ram.fileno(), MARK, 0)
        with Participant(name, [session], client=client) as participant:
            session.preserve(ram, TOKEN, name="ram")
            if restored is None:
                tell("preserved")
            while True:
                phase = participant.next()
                assert phase is not None, "there is no limit of time"
                with phase:
                    if phase.kind in ("preparing", "freezing"):
                        phase.ready()


if __name__ == "__main__":
    {"luod": luod, "alone": alone}[sys.argv[1]](sys.argv[2])
