"""Finds another luod on this machine, or the rest of one that died, before a supervisor holds anything.

A serve outlives its supervisor for a moment, with the sockets and the sessions, so it is awaited. Standard library
only.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time

from luod.daemon.log import Log
from luod.daemon.supervisor import protocol
from luod.daemon.supervisor.children import is_ending
from luod.daemon.supervisor.serve_process import NAME
from luod.errors import KernelRefused, Refused, SessionExists
from luod.ipc.names import ADMIN_SOCKET, SESSIONS_SOCKET
from luod.linux import Fd
from luod.liveupdate.device import LiveUpdate
from luod.static import Final

_OTHER_SECONDS: Final = 5.0
_TRY_SECONDS: Final = 0.1
_PROBE_SECONDS: Final = 0.25
"""Seconds between probes, each of which takes a place among the clients that wait for the serve."""
_ELSEWHERE: Final = 0
_DEAD: Final = -1
_CREDENTIALS: Final = struct.Struct("=iII")
"""struct ucred: pid, uid, gid."""


def claim(log: Log, *, orphan: bool) -> dict[str, Fd]:
    """Creates luod's own session, and retrieves that of the previous kernel. Returns those that there are, by the names
    of stored fds: for what is missing, serve asks again.

    Raises Refused when luod's own session exists, so another luod runs on this machine, with any directories. The serve
    of a supervisor that died holds it until it ends, so it is awaited. With `orphan`, such a serve is known not to end,
    and the supervisor may continue: its own serve tries again until the session is gone.
    """
    deadline = time.monotonic() + _OTHER_SECONDS
    told = False
    while True:
        try:
            with LiveUpdate(patience=_TRY_SECONDS) as device:
                return _claimed(device)
        except SessionExists:
            if time.monotonic() >= deadline and orphan:
                log.warning(
                    "other-left", session=protocol.REGISTRY_SESSION, reason="the serve of a supervisor that died has it"
                )
                return {}
            if time.monotonic() >= deadline:
                raise Refused(
                    f"another luod runs on this machine: session {protocol.REGISTRY_SESSION!r} exists",
                    hint="stop it (systemctl stop luod, or pgrep -af luod finds it); only one can run on a machine",
                ) from None
            if not told:
                log("other-awaited", session=protocol.REGISTRY_SESSION, reason="a luod that ended may hold it still")
                told = True
            time.sleep(_TRY_SECONDS)
        except KernelRefused as error:
            log.debug("device", error=error)  # serve tries again, and reports more.
            return {}


def _claimed(device: LiveUpdate) -> dict[str, Fd]:
    name = protocol.REGISTRY_SESSION
    # In this order: while the first exists, no other luod gets as far as the second.
    claimed = {protocol.OUTGOING + name: device.create(name)}
    with contextlib.suppress(KernelRefused):
        claimed[protocol.INCOMING + name] = device.retrieve(name)
    return claimed


def wait_for_orphan(path: str, deadline: float, log: Log | None, *, ours: bool) -> bool:
    """Waits until no serve of a dead supervisor listens on `path`. Returns False at the deadline: it does not end.

    `ours`: a dead supervisor made the socket. Without it, raises Refused if the process that began to listen is alive,
    and was not killed. Raises OSError.
    """
    told = False
    while (pid := _listener(path)) is not None:
        if not ours and pid != _DEAD and (pid == _ELSEWHERE or _is_alive(pid)):
            what = "a process of another PID namespace" if pid == _ELSEWHERE else f"process {pid}"
            if pid in _supervisors(path):
                what = f"another luod runs: its supervisor is process {pid}, and"
            raise Refused(f"{what} listens on {path} already", hint="stop it, or use another socket path")
        if time.monotonic() >= deadline:
            if log is not None:
                log.warning("orphan-left", socket=path, reason="the serve of a supervisor that died does not end")
            return False
        if not told and log is not None:
            log("orphan-awaited", socket=path, reason="the serve of a supervisor that died still listens")
            told = True
        time.sleep(_PROBE_SECONDS)
    return True


def _listener(path: str) -> int | None:
    """Returns the process that called listen(2) on the socket at `path`, even if it has ended; _ELSEWHERE, _DEAD.

    Returns None when no process listens. Raises OSError.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return None
        except BlockingIOError:
            # Its queue is full. A serve that cannot end has such a queue soon; a supervisor that is alive can be found.
            return next(iter(_supervisors(path)), _DEAD)
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid: int = _CREDENTIALS.unpack(credentials)[0]
        return pid


def _is_alive(pid: int) -> bool:
    """Returns whether a process runs. One that was killed may still close its sockets, or wait to be reaped."""
    return os.path.exists(f"/proc/{pid}") and not is_ending(pid)


def _supervisors(path: str) -> set[int]:
    """Returns the other processes that run luod with the socket `path`, as far as /proc shows them."""
    found = set()
    with contextlib.suppress(OSError):
        for process in os.listdir("/proc"):
            if process.isdecimal() and int(process) != os.getpid():
                with contextlib.suppress(OSError):
                    words_of_it = _read(process, "cmdline").split(b"\0")
                    named = os.fsencode(path) in words_of_it or path in (ADMIN_SOCKET, SESSIONS_SOCKET)
                    runs_luod = any(
                        word in (b"luod", b"luod.daemon.main") for word in map(os.path.basename, words_of_it)
                    )
                    if named and runs_luod and _read(process, "comm").strip() != NAME.encode():
                        found.add(int(process))
    return found


def _read(process: str, file: str) -> bytes:
    with open(f"/proc/{process}/{file}", "rb") as opened:
        return opened.read()
