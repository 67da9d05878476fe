"""The calls of `io.luod.Admin` on the admin socket. Replies are the types of `luod.ipc.types.admin`.

`luod.ipc.client.connection` sends and receives, and raises the errors. `path` is the path of the socket, None for the
default one. The caller keeps the fds it passes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from luod.errors import BadInput, CallFailed, DaemonUnreachable, LuodError
from luod.frozen import frozen
from luod.ipc.client.connection import TIMEOUT, Connection
from luod.ipc.decode import decode
from luod.ipc.framing import encode_call
from luod.ipc.names import ADMIN, ADMIN_SOCKET, SESSIONS_SOCKET
from luod.ipc.types.admin import Checked, Progress, Status, UpdateTimes
from luod.ipc.types.phases import Way
from luod.linux import HasFileno

STOP_TIMEOUT = 30.0
_LOOK_SECONDS = 0.05
LOAD_TIMEOUT = 120.0
"""The timeout of LoadKernel in seconds. The kernel copies image and initrd, and may verify a signature."""


@frozen
class NextKernel:
    """An opened kernel. Its maker closes the fds."""

    kernel: HasFileno
    initrd: HasFileno | None
    command_line: str
    unified: bool = False
    """Whether the kernel was taken from a unified kernel image."""


def status(path: str | None, *, timeout: float = TIMEOUT) -> Status:
    """Returns the status of luod."""
    return decode(Status, _ask(path, "Status", timeout=timeout))


def timeline(path: str | None, *, timeout: float = TIMEOUT) -> UpdateTimes | None:
    """Returns the timeline of the last update, None before the first."""
    times = _ask(path, "Timeline", timeout=timeout).get("timeline")
    return None if times is None else decode(UpdateTimes, times, "timeline")


def load_kernel(path: str | None, image: NextKernel, *, ignore_findings: Sequence[str] = ()) -> bool:
    """Loads an image. Refusals of `check` that `ignore_findings` names are ignored. Returns False if it was the loaded
    one already.
    """
    parameters, fds = _image(image)
    parameters["ignore_findings"] = list(ignore_findings)
    reply = _ask(path, "LoadKernel", parameters, fds, timeout=LOAD_TIMEOUT)
    return decode(bool, reply.get("changed", True), "changed")


def unload_kernel(path: str | None) -> bool:
    """Unloads the next kernel. Returns False if none was loaded."""
    return decode(bool, _ask(path, "UnloadKernel", timeout=LOAD_TIMEOUT).get("changed"), "changed")


def check(
    path: str | None,
    image: NextKernel | None,
    *,
    skip_unready: bool = False,
    ignore_findings: Sequence[str] = (),
    way: Way | None = None,
) -> Checked:
    """Returns the findings for an update into `image`, or into the loaded kernel if it is None. The other arguments are
    those of the update.
    """
    parameters, fds = ({}, []) if image is None else _image(image)
    parameters |= {"skip_unready": skip_unready, "ignore_findings": list(ignore_findings), "way": way}
    return decode(Checked, _ask(path, "Check", parameters, fds, timeout=LOAD_TIMEOUT))


def _image(image: NextKernel) -> tuple[dict[str, Any], list[int]]:
    """Returns the parameters of an image, and its fds."""
    parameters: dict[str, Any] = {"kernel_fd": 0, "command_line": image.command_line}
    if image.initrd is None:
        return parameters, [image.kernel.fileno()]
    return {**parameters, "initrd_fd": 1}, [image.kernel.fileno(), image.initrd.fileno()]


def update(
    path: str | None,
    *,
    deadline: float | None,
    skip_unready: bool,
    dry_run: bool,
    ignore_findings: Sequence[str] = (),
    way: Way | None = None,
    detach: bool = False,
) -> Iterator[Progress]:
    """Starts an update and yields its progress. There is no timeout: luod keeps the deadlines. Closing the iterator
    before the kexec cancels the update, unless it is `detach` and "prepared" was yielded.
    """
    wishes = {
        "deadline": deadline,
        "skip_unready": skip_unready,
        "dry_run": dry_run,
        "ignore_findings": list(ignore_findings),
        "way": way,
        "detach": detach,
    }
    with _connect(path, TIMEOUT) as connection:
        for reply in connection.follow(encode_call(f"{ADMIN}.Update", _given(wishes), more=True)):
            yield decode(Progress, reply.parameters)


def abort(path: str | None) -> None:
    """Cancels the running update. Returns when all participants are told to resume."""
    _ask(path, "Abort")


def discard(path: str | None, name: str, *, force: bool) -> str:
    """Discards a workload and returns the reaper's report. The policy limits the time, not this call."""
    return decode(str, _ask(path, "Discard", {"name": name, "force": force}, timeout=None).get("report"), "report")


def carry_over(path: str | None, name: str) -> str:
    """Preserves the incoming sessions of a workload again for the next kexec, without a timeout. Returns the report."""
    return decode(str, _ask(path, "CarryOver", {"name": name}, timeout=None).get("report"), "report")


def stop(path: str | None, *, drop: bool) -> list[str]:
    """Stops luod, waits until its socket is closed, and returns the lost sessions and files."""
    lost = decode(list[str], _ask(path, "Stop", {"drop": drop}, timeout=LOAD_TIMEOUT).get("lost"), "lost")
    deadline = time.monotonic() + STOP_TIMEOUT
    while time.monotonic() < deadline:
        try:
            with _connect(path, TIMEOUT):
                time.sleep(_LOOK_SECONDS)
        except DaemonUnreachable as error:
            if not isinstance(error.__cause__, TimeoutError | BlockingIOError):  # these: it hangs
                return lost
    raise LuodError(f"luod did not end within {STOP_TIMEOUT:.0f} s", hint="see its log")


def _ask(
    path: str | None,
    method: str,
    parameters: Mapping[str, Any] | None = None,
    fds: Sequence[int] = (),
    *,
    timeout: float | None = TIMEOUT,
) -> Mapping[str, Any]:
    with _connect(path, timeout) as connection:
        reply = connection.ask(encode_call(f"{ADMIN}.{method}", _given(parameters or {})), fds)
        reply.close()
        return reply.parameters


def _given(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parameters without those that have their default: None, False or an empty list."""
    return {name: value for name, value in parameters.items() if not (value is None or value is False or value == [])}


@contextmanager
def _connect(path: str | None, timeout: float | None) -> Iterator[Connection]:
    """Connects to `path`. The default for root is the admin socket, for other users the session socket."""
    root = os.geteuid() == 0
    if path is None:
        path = ADMIN_SOCKET if root else SESSIONS_SOCKET
    with Connection(path, timeout=timeout) as connection:
        try:
            yield connection
        except CallFailed as error:
            if error.name != "org.varlink.service.InterfaceNotFound":
                raise
            if root:
                raise BadInput(
                    f"{path} is luod's socket for programs; it takes no commands of root",
                    hint="give luod's admin socket: --admin-socket PATH",
                ) from error
            raise CallFailed(
                "org.varlink.service.PermissionDenied",
                "the policy does not allow this user to do that",
                hint="run it as root, or set `may-update` for this user in the policy",
            ) from error
