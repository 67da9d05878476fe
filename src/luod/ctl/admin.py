"""`io.luod.Admin` from luoctl's side: what is asked on the admin socket, and the answers as types.

How bytes and fds travel is `luod.ipc.client.connection`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from luod.errors import CallFailed, DaemonUnreachable, LuodError, ProtocolError
from luod.ipc.client.connection import TIMEOUT, Connection
from luod.ipc.framing import Reply, encode_call
from luod.ipc.names import ADMIN, ADMIN_SOCKET, SESSIONS_SOCKET
from luod.linux import Fd

T = TypeVar("T", str, int, bool)

STOP_TIMEOUT = 30.0
_LOOK_SECONDS = 0.05
LOAD_TIMEOUT = 120.0
"""Seconds LoadKernel may take: the kernel copies image and initrd, and checks a signature where it must."""


@dataclass(frozen=True)
class Stuck:
    """A session whose reaper failed, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Problem:
    """What is wrong at `path`, and what to do about it."""

    path: str
    what: str
    remedy: str


@dataclass(frozen=True)
class Status:
    """What luod says of itself. `boot` is the live updates it has seen plus one; `command_line` the loaded kernel's.

    `sessions` counts the outgoing sessions, `waiting`, `retrieved` and `torn` the incoming ones by state; `stuck` are
    those whose reaper failed; `restore_seconds_left` is the time until what nobody claimed is reaped, None where it
    never is; `participants` who follows now; `held_files` were handed over, and an update would lose them;
    `generation` the updates that were begun. `policy_error` says what is wrong with `policy_file`, so that an older one
    is in force; None where all is well. `state_directory` is what is wrong with it; `registry` are the copies of the
    registry that luod did not go by.
    """

    version: str
    state: str
    boot: int
    kernel_loaded: bool
    command_line: str | None
    sessions: int
    waiting: int
    retrieved: int
    torn: int
    participants: int
    held_files: int
    generation: int
    stuck: tuple[Stuck, ...]
    restore_seconds_left: float | None
    policy_file: str | None
    policy_error: str | None
    state_directory: tuple[Problem, ...]
    registry: tuple[Problem, ...]


@dataclass(frozen=True)
class Participant:
    """One that has a part in an update. `standing` is awaited, granted, ready, vetoed or lost, reached after `seconds`
    of the phase; `awaited` it has been for `seconds`. `bytes` are those of all files it declared.
    """

    id: int
    name: str
    uid: int
    pid: int
    sessions: tuple[str, ...]
    bytes: int
    standing: str
    reason: str | None
    seconds: float


@dataclass(frozen=True)
class Finding:
    """What luod found before an update. A refusal that is `ignored` does not refuse."""

    name: str
    severity: str
    what: str
    why: str
    remedy: str
    ignored: bool = False

    @property
    def refuses(self) -> bool:
        return self.severity == "refusal" and not self.ignored


@dataclass(frozen=True)
class Checked:
    """What a check found. `release` is the next kernel's, None where its image cannot be read."""

    refused: bool
    release: str | None
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Progress:
    """What luod says of an update: `participants` are those of whom something is new. `torn` are sessions that will
    not be handed out in the next kernel. `seconds_left` until the deadline of the phase, None where there is none.
    `findings`: in the first, what luod found before it began.
    """

    state: str
    update: str = ""
    generation: int = 0
    seconds_left: float | None = None
    participants: tuple[Participant, ...] = ()
    torn: tuple[str, ...] = ()
    reason: str | None = None
    findings: tuple[Finding, ...] = ()

    @property
    def refused(self) -> bool:
        """Returns whether the update would be refused; only --dry-run gets such an answer."""
        return self.state == "checked" and any(finding.refuses for finding in self.findings)


def status(path: str | None) -> Status:
    """Asks luod at the admin socket `path`, None for the usual one. Errors of `Connection.ask`, as below."""
    with _connect(path, TIMEOUT) as connection:
        reply = connection.ask(encode_call(f"{ADMIN}.Status"))
        try:
            return Status(
                version=_member(reply, "version", str),
                state=_member(reply, "state", str),
                boot=_member(reply, "boot", int),
                kernel_loaded=_member(reply, "kernel_loaded", bool),
                command_line=_optional(reply, "command_line", str),
                sessions=_member(reply, "sessions", int),
                waiting=_member(reply, "waiting", int),
                retrieved=_member(reply, "retrieved", int),
                torn=_member(reply, "torn", int),
                participants=_member(reply, "participants", int),
                held_files=_member(reply, "held_files", int),
                generation=_member(reply, "generation", int),
                stuck=_stuck(reply),
                restore_seconds_left=_seconds(reply, "restore_seconds_left"),
                policy_file=_optional(reply, "policy_file", str),
                policy_error=_optional(reply, "policy_error", str),
                state_directory=_problems(reply, "state_directory"),
                registry=_problems(reply, "registry"),
            )
        finally:
            reply.close()


def load_kernel(
    path: str | None, kernel: Fd, initrd: Fd | None, command_line: str, *, ignore_findings: Sequence[str] = ()
) -> None:
    """Has luod load an image, although `check` would find `ignore_findings`. The files stay the caller's."""
    parameters, fds = _image(kernel, initrd, command_line)
    if ignore_findings:
        parameters["ignore_findings"] = list(ignore_findings)
    with _connect(path, LOAD_TIMEOUT) as connection:
        connection.ask(encode_call(f"{ADMIN}.LoadKernel", parameters), fds).close()


def check(
    path: str | None,
    kernel: Fd | None,
    initrd: Fd | None,
    command_line: str,
    *,
    skip_unready: bool = False,
    ignore_findings: Sequence[str] = (),
) -> Checked:
    """Has luod say what an update into this kernel would lose, with `skip_unready` and
    `ignore_findings`; without a kernel, into the one that is loaded. The files stay the caller's.
    """
    parameters, fds = ({}, []) if kernel is None else _image(kernel, initrd, command_line)
    if skip_unready:
        parameters["skip_unready"] = True
    if ignore_findings:
        parameters["ignore_findings"] = list(ignore_findings)
    with _connect(path, LOAD_TIMEOUT) as connection:
        reply = connection.ask(encode_call(f"{ADMIN}.Check", parameters), fds)
        try:
            return Checked(_member(reply, "refused", bool), _optional(reply, "release", str), _findings(reply))
        finally:
            reply.close()


def _image(kernel: Fd, initrd: Fd | None, command_line: str) -> tuple[dict[str, Any], list[int]]:
    """Parameters, and the fds that go with them."""
    parameters: dict[str, Any] = {"kernel_fd": 0, "command_line": command_line}
    if initrd is None:
        return parameters, [kernel.fileno()]
    return {**parameters, "initrd_fd": 1}, [kernel.fileno(), initrd.fileno()]


def update(
    path: str | None, *, deadline: float | None, skip_unready: bool, dry_run: bool, ignore_findings: Sequence[str] = ()
) -> Iterator[Progress]:
    """Has luod jump, and yields what it says of the update as it goes on. It takes as long as it takes: luod keeps the
    deadlines. Closing the iterator before the jump cancels the update.
    """
    wishes: dict[str, Any] = {}
    if deadline is not None:
        wishes["deadline"] = deadline
    if skip_unready:
        wishes["skip_unready"] = True
    if dry_run:
        wishes["dry_run"] = True
    if ignore_findings:
        wishes["ignore_findings"] = list(ignore_findings)
    with _connect(path, TIMEOUT) as connection:
        for reply in connection.follow(encode_call(f"{ADMIN}.Update", wishes, more=True)):
            yield _progress(reply)


def ask(path: str | None, method: str) -> Mapping[str, Any]:
    """What luod answers to a call without parameters. Errors as of `status`."""
    with _connect(path, TIMEOUT) as connection:
        reply = connection.ask(encode_call(f"{ADMIN}.{method}"))
        reply.close()
        return reply.parameters


def abort(path: str | None) -> None:
    """Cancels the update that is under way, and returns when everybody was told to resume."""
    with _connect(path, TIMEOUT) as connection:
        connection.ask(encode_call(f"{ADMIN}.Abort")).close()


def discard(path: str | None, name: str, *, force: bool) -> str:
    """Has luod reap the incoming session `name`; what the reaper said. It takes as long as the policy lets it."""
    with _connect(path, None) as connection:
        reply = connection.ask(encode_call(f"{ADMIN}.Discard", {"name": name, **({"force": True} if force else {})}))
        reply.close()
        return _member(reply, "report", str)


def carry_over(path: str | None, name: str) -> str:
    """Has luod make the incoming session `name` an outgoing one; what there was to say of it. It takes as long as its
    bytes take.
    """
    with _connect(path, None) as connection:
        reply = connection.ask(encode_call(f"{ADMIN}.CarryOver", {"name": name}))
        reply.close()
        return _member(reply, "report", str)


def stop(path: str | None, *, drop: bool) -> tuple[str, ...]:
    """Has luod end, and returns what is lost with it when nobody listens any more. DaemonUnreachable: nobody did."""
    with _connect(path, LOAD_TIMEOUT) as connection:
        reply = connection.ask(encode_call(f"{ADMIN}.Stop", {"drop": True} if drop else {}))
        reply.close()
    lost = reply.parameters.get("lost")
    if not isinstance(lost, list):
        raise ProtocolError("luod's answer has no list `lost`")
    deadline = time.monotonic() + STOP_TIMEOUT
    while time.monotonic() < deadline:
        try:
            with _connect(path, TIMEOUT):
                time.sleep(_LOOK_SECONDS)
        except DaemonUnreachable:
            return tuple(map(str, lost))
    raise LuodError(f"luod did not end within {STOP_TIMEOUT:.0f} s", hint="see its log")


def _stuck(reply: Reply) -> tuple[Stuck, ...]:
    entries = reply.parameters.get("stuck")
    try:
        if not isinstance(entries, list):
            raise TypeError
        return tuple(Stuck(str(entry["name"]), str(entry["reason"])) for entry in entries)
    except (KeyError, TypeError) as error:
        raise ProtocolError("luod's answer has no list 'stuck'") from error


def _problems(reply: Reply, name: str) -> tuple[Problem, ...]:
    entries = reply.parameters.get(name)
    try:
        if not isinstance(entries, list):
            raise TypeError
        return tuple(Problem(*(str(entry[member]) for member in ("path", "what", "remedy"))) for entry in entries)
    except (KeyError, TypeError) as error:
        raise ProtocolError(f"luod's answer has no list {name!r}") from error


def _seconds(reply: Reply, name: str) -> float | None:
    value = reply.parameters.get(name)
    if value is not None and type(value) not in (int, float):
        raise ProtocolError(f"luod's answer has no number {name!r}")
    return value


def _progress(reply: Reply) -> Progress:
    left = reply.parameters.get("seconds_left")
    participants = reply.parameters.get("participants") or []
    torn = reply.parameters.get("torn") or []
    if not isinstance(participants, list) or not isinstance(torn, list):
        raise ProtocolError("luod's answer has no lists `participants` and `torn`")
    return Progress(
        state=_member(reply, "state", str),
        update=_optional(reply, "update", str) or "",
        generation=_optional(reply, "generation", int) or 0,
        seconds_left=float(left) if isinstance(left, int | float) else None,
        participants=tuple(_participant(entry) for entry in participants),
        torn=tuple(str(name) for name in torn),
        reason=_optional(reply, "reason", str),
        findings=_findings(reply),
    )


def _findings(reply: Reply) -> tuple[Finding, ...]:
    entries = reply.parameters.get("findings") or []
    if not isinstance(entries, list):
        raise ProtocolError("luod's answer has no list `findings`")
    return tuple(_finding(entry) for entry in entries)


def _finding(entry: object) -> Finding:
    try:
        if not isinstance(entry, dict):
            raise TypeError
        name, severity, what, why, remedy = (str(entry[key]) for key in ("name", "severity", "what", "why", "remedy"))
        return Finding(name, severity, what, why, remedy, bool(entry.get("ignored")))
    except (KeyError, TypeError) as error:
        raise ProtocolError(f"luod names a finding that is none: {entry!r:.100}") from error


def _participant(entry: object) -> Participant:
    try:
        if not isinstance(entry, dict):
            raise TypeError
        return Participant(
            id=int(entry["id"]),
            name=str(entry["name"]),
            uid=int(entry["uid"]),
            pid=int(entry["pid"]),
            sessions=tuple(str(name) for name in entry["sessions"]),
            bytes=int(entry["bytes"]),
            standing=str(entry["standing"]),
            reason=None if entry.get("reason") is None else str(entry["reason"]),
            seconds=float(entry["seconds"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"luod names a participant that is none: {entry!r:.100}") from error


@contextmanager
def _connect(path: str | None, timeout: float | None) -> Iterator[Connection]:
    """Who is not root, and may update by luod's policy, is answered on everybody's socket."""
    usual = ADMIN_SOCKET if os.geteuid() == 0 else SESSIONS_SOCKET
    with Connection(usual if path is None else path, timeout=timeout) as connection:
        try:
            yield connection
        except CallFailed as error:
            if error.name != "org.varlink.service.InterfaceNotFound" or os.geteuid() == 0:
                raise
            raise CallFailed(
                "org.varlink.service.PermissionDenied",
                "luod's policy does not let this user do that",
                hint="ask as root; `may-update` in the policy lets others update",
            ) from error


def _member(reply: Reply, name: str, kind: type[T]) -> T:
    value = reply.parameters.get(name)
    if type(value) is not kind:
        raise ProtocolError(f"luod's answer has no {kind.__name__} {name!r}")
    return value


def _optional(reply: Reply, name: str, kind: type[T]) -> T | None:
    return None if reply.parameters.get(name) is None else _member(reply, name, kind)
