"""The built-in reaper: `python -m luod.daemon.cleanup.reaper`, a command like any other that discards a session.

It does not retrieve memory: FINISH frees it without a charge, while a RETRIEVE_FD would charge it to luod
(docs/hazards.md, H1). It does what FINISH waits for: a device is retrieved, bound, and so reset. For a kernel that
requires every file retrieved first (profile `document`) it does that, as far as there is memory.
`luod.daemon.cleanup.reaper_start` starts it, in a process of its own.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack

from luod import pci, vfio
from luod.daemon.cleanup.worker import SESSION_FD
from luod.errors import FinishRefused, LuodError, ManifestError, Refused, RetrieveFailed
from luod.linux import Fd
from luod.liveupdate import IncomingSession
from luod.manifest import Entry

_DEVICE = "vfio"


def reap(session: IncomingSession) -> str:
    """Finishes the session; returns a report. Raises LuodError: it is not finished."""
    try:
        contents = session.contents or ()
    except (ManifestError, Refused, RetrieveFailed):
        contents = ()
    devices = [entry for entry in contents if entry.kind == _DEVICE]
    with ExitStack() as held:
        for entry in devices:
            _revive(session, entry, held)
        try:
            session.finish(discard=True)
        except FinishRefused:
            others = [entry for entry in contents if entry.kind != _DEVICE]
            if not others:
                raise
            for entry in others:
                session.retrieve(entry.token).close()
            session.finish(discard=True)
    return f"finished; files discarded: {len(contents) - len(devices)}, devices reset: {len(devices)}"


def _revive(session: IncomingSession, entry: Entry, held: ExitStack) -> None:
    """Binds a device so that it answers: FINISH requires it, and no other process could use the device before."""
    if entry.device is not None:
        # The manifest is its owner's claim. A user that could name a disk of the host there must not have root unbind
        # it.
        driver = pci.driver_of(pci.check_address(entry.device))
        if driver not in (None, pci.VFIO_PCI):
            raise Refused(
                f"device {entry.device} of token {entry.token} is with the driver {driver}, and is not rebound",
                hint="if the device belongs to the session, unbind it, then discard the session again",
            )
        vfio.bind_driver(entry.device)
    device = held.enter_context(session.retrieve(entry.token))
    vfio.bind(device, held.enter_context(vfio.open_iommufd()))


def main() -> int:
    try:
        with IncomingSession(Fd(int(os.environ[SESSION_FD]))) as session:
            print(reap(session))
    except LuodError as error:
        print(f"{error} ({error.hint})" if error.hint else error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
