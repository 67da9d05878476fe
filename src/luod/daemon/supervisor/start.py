"""Starts the supervisor: takes over the fds that PID 1 or another luod left, and listens.

`supervisor` is what runs then.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from luod.daemon.log import Log
from luod.daemon.options import Options
from luod.daemon.supervisor import open_files, protocol
from luod.daemon.supervisor.custody import Custody
from luod.daemon.supervisor.init_store import InitStore
from luod.daemon.supervisor.notify import ServiceManager
from luod.daemon.supervisor.other_luod import claim
from luod.daemon.supervisor.passed_fds import passed
from luod.daemon.supervisor.serve_process import Given
from luod.daemon.supervisor.sockets import Listening
from luod.daemon.supervisor.supervisor import Supervisor
from luod.errors import LiveUpdateBroken, LiveUpdateBusy, Refused
from luod.linux import boot_id
from luod.liveupdate.device import LiveUpdate


def run(options: Options, run_serve: Callable[[Given], int], modules: Sequence[str]) -> int:
    """Runs the supervisor; `modules` as of Supervisor.

    Raises LuodError, before any change, when there is no /dev/liveupdate or another luod runs.
    """
    log = Log("supervisor", options.log_level)
    limit = open_files.raise_limit()
    if limit < open_files.LEAST:
        raise Refused(
            f"luod may have {limit} files open (RLIMIT_NOFILE), and needs {open_files.LEAST} or more",
            hint="raise LimitNOFILE= of its unit or `ulimit -Hn`; every session needs one",
        )
    device: LiveUpdateBusy | LiveUpdateBroken | None = None
    try:
        LiveUpdate().close()
    except (LiveUpdateBusy, LiveUpdateBroken) as error:
        device = error
    try:
        boot = boot_id()
    except OSError as error:
        # Without it all that PID 1 has kept would seem to be of another boot, and be closed.
        raise Refused(
            f"the id of this boot cannot be read: {error.strerror}", hint="nothing was changed; start luod again"
        ) from None
    given = passed()
    manager = ServiceManager(os.environ.pop("NOTIFY_SOCKET", ""))
    copies = InitStore(manager, _number("FDSTORE"), boot)
    listening = Listening(
        options.socket,
        options.admin_socket,
        options.state_directory,
        log,
        sessions=given.sessions,
        admin=given.admin,
    )
    with listening:
        custody = Custody(copies, log, copies.recover(given.stored), limit=limit)
        if device is None and protocol.OUTGOING + protocol.REGISTRY_SESSION not in custody.fds:
            for name, session in claim(log, orphan=listening.orphan).items():
                custody.keep(name, session)
        supervisor = Supervisor(
            listening, run_serve, log, manager=manager, custody=custody, device=device, modules=modules
        )
        status = supervisor.run()
        listening.withdraw()
        # The sockets stay open until the process has ended: closing them closes clients' unaccepted messages, which may
        # contain sockets that linger, and a process that ends does not wait for those.
        os._exit(status)


def _number(variable: str) -> int:
    """Returns the number in a variable of the environment, which is removed; 0 without one."""
    text = os.environ.pop(variable, "")
    return int(text) if text.isdecimal() else 0
