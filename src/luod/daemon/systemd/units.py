"""The units that systemd stops before guests are frozen, and starts again when the update is cancelled.

luod-quiesce.target has `AllowIsolate=yes`: isolating it stops every unit without `IgnoreOnIsolate=yes`. The functions
block and are for a thread, except `isolation` and `kexec`, which are command lines.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence

from luod.daemon.systemd.commands import ask, properties
from luod.daemon.systemd.manager import PROPERTIES, Service, services
from luod.errors import Refused
from luod.static import Final

TARGET: Final = "luod-quiesce.target"
_TYPES: Final = ("*.service", "*.socket", "*.timer", "*.path", "*.target")
"""The types of units that isolating stops by default; it leaves slices, scopes, devices, mounts and swap."""
_KEXEC: Final = "kexec.target"
_LOGIND: Final = (
    "busctl",
    "get-property",
    "org.freedesktop.login1",
    "/org/freedesktop/login1",
    "org.freedesktop.login1.Manager",
)
_SECONDS: Final = 30.0
_ANSWER_SECONDS: Final = 10.0
"""The time for an answer while guests are paused."""
_STATE: Final = "Id,ActiveState,Result,Job"
STARTING: Final = "it is being started"


def present() -> tuple[Service, ...]:
    """Returns the units of the types that isolating stops, which are active or being stopped. Raises Refused: systemd
    does not answer.
    """
    shown = ask(["systemctl", "show", f"--property={PROPERTIES}", *_TYPES], _SECONDS)
    if shown.failure:
        raise Refused(f"systemd does not list its units: {shown.failure}", hint="update with --direct")
    return tuple(each for each in services(shown.text) if each.active or each.stopping)


def stoppable(units: Sequence[Service]) -> tuple[str, ...]:
    """Returns the names of those that isolating stops, and that can be started again by name."""
    found = (each for each in units if each.active and each.startable and not each.stays)
    return tuple(each.name for each in found if each.name != TARGET)


def isolation() -> tuple[str, ...]:
    """Returns the command that has systemd stop the units. It does not wait for them."""
    return (_systemctl(), "--no-ask-password", "--quiet", "isolate", TARGET)


def stop(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the command that waits until these units, which are being stopped, are stopped."""
    return (_systemctl(), "--no-ask-password", "--quiet", "stop", "--", *names)


def kexec() -> tuple[str, ...]:
    """Returns the command that has systemd end this kernel. It returns at once, and nothing stops that any more.

    Without `--force`: that would not carry the fd stores.
    """
    return (_systemctl(), "--no-ask-password", "--no-wall", "kexec")


def may_end_kernel() -> bool:
    """Returns whether systemd may be about to end this kernel by a kexec.

    PID 1 has a job for it, or does not tell its jobs; or logind waits for programs that delay a shutdown, before it
    requests that job, or does not answer. Without logind systemctl asks PID 1.
    """
    logind = ask([*_LOGIND, "PreparingForShutdown"], _ANSWER_SECONDS)
    if logind.late or logind.text.strip() == "b true":
        return True
    jobs = ask([_systemctl(), "list-jobs", "--no-legend", "--no-pager", _KEXEC], _ANSWER_SECONDS)
    return bool(jobs.failure) or any(_KEXEC in line.split() for line in jobs.text.splitlines())


def start(names: Sequence[str], *, started: Collection[str] = ()) -> dict[str, str]:
    """Starts units again, without waiting for them. Returns those that do not run yet, and why not.

    Those in `started` are not started a second time: an operator may have stopped one since.
    """
    if not names:
        return {}
    refused = _start([name for name in names if name not in started])
    shown = ask(["systemctl", "show", f"--property={_STATE}", "--", *names], _SECONDS)
    if shown.failure:
        return {**dict.fromkeys(names, shown.failure), **refused}
    return {**not_running(shown.text), **refused}


def _start(names: Sequence[str]) -> dict[str, str]:
    """Returns the units that systemd refuses to start, and why."""
    if not names:
        return {}
    command = ("systemctl", "--no-ask-password", "--no-block")
    refused = {}
    if ask([*command, "start", "--", *names], _SECONDS).failure:
        # systemd takes all or none of a request.
        answers = {name: ask([*command, "start", "--", name], _SECONDS).failure for name in names}
        refused = {name: failure for name, failure in answers.items() if failure}
    ask([*command, "stop", TARGET], _SECONDS)
    return refused


def not_running(shown: str) -> dict[str, str]:
    """Returns the units that have failed, or that systemd has yet to start, from the answer of `systemctl show`. A unit
    that has ended without a failure ran.
    """
    found = {}
    for said in properties(shown):
        if said.get("ActiveState") == "failed":
            found[said["Id"]] = f"it has failed ({said.get('Result') or 'no result'})"
        elif said.get("ActiveState") != "active" and said.get("Job", "0") not in ("", "0"):
            found[said["Id"]] = STARTING
    return found


def _systemctl() -> str:
    return shutil.which("systemctl") or "/usr/bin/systemctl"
