"""`luod keep`: holds every session fd, and the listening sockets, so that `luod serve` may die at any moment.

It parses nothing a client wrote. It is the only process of luod that opens /dev/liveupdate: open, one ioctl, close.
It does what `serve` asks in the words of `luod.daemon.words`, and starts `serve` again, with all it holds, whenever it
ends. It knows neither owners nor the registry. Standard library only, and no asyncio.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from luod.daemon import descriptors, words
from luod.daemon.listening import Listening
from luod.daemon.log import Log
from luod.errors import (
    DeviceBroken,
    DeviceBusy,
    KernelRefused,
    NoSuchSession,
    ProtocolError,
    SessionExists,
    SessionTaken,
)
from luod.ipc import framing
from luod.linux import Fd
from luod.liveupdate.device import LiveUpdate
from luod.version import __version__

_PATIENCE_SECONDS: Final = 10.0
"""For how long a request waits while somebody else has /dev/liveupdate open. systemd's PID 1 has it for a moment."""
_TRY_SECONDS: Final = 0.1
"""Of it at a stretch, between looks at signals and at serve."""
_STEADY_SECONDS: Final = 1.0
"""A serve that lived for less died at once; the next one is started later."""
_PAUSE_FIRST: Final = 0.1
_PAUSE_LAST: Final = 5.0
_STOP_SECONDS: Final = 10.0
_ENDING_LOOKS: Final = 4
_ENDING_SECONDS: Final = 0.05
_LOOK_SECONDS: Final = 5.0
"""Between looks at whether serve was killed and does not end. One that is still there at the second look is left."""
_PF_EXITING: Final = 0x4


@dataclass(frozen=True)
class _Serve:
    """The running serve. Owns both."""

    pid: int
    pidfd: Fd
    channel: socket.socket
    started: float

    def close(self) -> None:
        self.pidfd.close()
        self.channel.close()


@dataclass(frozen=True)
class _DeviceRequest:
    """A CREATE or RETRIEVE that waits for the device until `deadline`."""

    create: bool
    name: str
    deadline: float


class Keeper:
    def __init__(
        self,
        listening: Listening,
        arguments: list[str],
        log: Log,
        *,
        device: DeviceBusy | DeviceBroken | None = None,
    ) -> None:
        """`arguments` is the command line of serve. The listening sockets stay the caller's. `device`: how it answered
        when it was tried.
        """
        self._listening = listening
        self._arguments = arguments
        self._log = log
        self._stored: dict[str, Fd] = {}
        self._serve: _Serve | None = None
        self._deaf = False
        self._request: _DeviceRequest | None = None
        self._start_at = 0.0
        self._pause = _PAUSE_FIRST
        self._stop_by: float | None = None
        self._device = device
        self._introduced = False
        self._look_at = 0.0
        self._ending = False
        """Whether serve was found to be ending at the last look."""
        self._left: list[int] = []
        """Processes of serve that were killed and do not end."""

    def run(self) -> int:
        """Runs until SIGTERM or SIGINT. SIGHUP is passed on to serve."""
        awake, wake = socket.socketpair()
        with awake, wake:
            awake.setblocking(False)
            wake.setblocking(False)
            signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, lambda *_: None)
            try:
                while not (self._stop_by is not None and self._serve is None):
                    self._turn(awake)
            finally:
                signal.set_wakeup_fd(-1)
        self._let_go()
        return 0

    def _let_go(self) -> None:
        """Closes all that is held, and says which sessions have ended with that: no other process had them open."""
        if self._stored:
            self._log("stopped", fds=len(self._stored))
        sessions = [name for name in self._stored if name.startswith((words.OUTGOING, words.INCOMING))]
        files = [name for name in self._stored if name.startswith(words.HELD)]
        for fd in self._stored.values():
            fd.close()
        self._stored.clear()
        if files:
            self._log.warning(
                "files-closed", files=len(files), reason="luod held them for their owners, and is stopped"
            )
        ended, error = _ended([name for name in sessions if name != words.OUTGOING + words.REGISTRY_SESSION])
        for name in ended:
            direction, _, session = name.partition(".")
            reason = "only luod had it open, and luod is stopped"
            if name.startswith(words.INCOMING):
                reason += "; unless it was finished, what it held is freed"
            self._log.warning("session-lost", name=session, direction=direction, reason=reason)
        if error is not None:
            self._log.warning("sessions-closed", reason=f"which of them others have open is not known: {error}")

    def _turn(self, awake: socket.socket) -> None:
        now = time.monotonic()
        if self._serve is None and now >= self._start_at:
            self._start()
        poll = select.poll()
        poll.register(awake, select.POLLIN)
        if self._serve is not None:
            poll.register(self._serve.pidfd, select.POLLIN)
            if self._request is None and not self._deaf:
                poll.register(self._serve.channel, select.POLLIN)
        ready = {number for number, _ in poll.poll(self._wait(now))}
        signals = set(awake.recv(100)) if awake.fileno() in ready else set()
        if signals & {signal.SIGTERM, signal.SIGINT}:
            self._stop()
        serve = self._serve
        if serve is None:
            return
        if signal.SIGHUP in signals:
            os.kill(serve.pid, signal.SIGHUP)
        if self._stop_by is not None and time.monotonic() > self._stop_by:
            self._log.warning("serve-killed", pid=serve.pid, reason="it did not end in time")
            os.kill(serve.pid, signal.SIGKILL)
            self._stop_by = float("inf")
        if serve.pidfd.fileno() not in ready and time.monotonic() >= self._look_at and self._is_stuck(serve):
            self._leave(serve)
        elif self._request is not None and serve.pidfd.fileno() in ready:
            self._request = None
        elif self._request is not None:
            self._try_device(self._request)
        elif serve.channel.fileno() in ready:
            self._receive()
        elif serve.pidfd.fileno() in ready:
            # Only once everything it asked for is done: a request may be in the channel still.
            self._ended()

    def _wait(self, now: float) -> float | None:
        """Milliseconds until something is due; None: nothing is."""
        if self._request is not None:
            return 0
        if self._serve is None:
            due = self._start_at
        else:
            due = self._look_at if self._stop_by is None else min(self._stop_by, self._look_at)
        return max(0.0, (due - now) * 1000 + 1)

    def _is_stuck(self, serve: _Serve) -> bool:
        """Returns whether serve is ending since the last look, such as in an uninterruptible call of the kernel."""
        before, self._ending = self._ending, _is_ending(serve.pid)
        self._look_at = time.monotonic() + _LOOK_SECONDS
        self._left = [pid for pid in self._left if os.waitpid(pid, os.WNOHANG) == (0, 0)]
        return before and self._ending

    def _leave(self, serve: _Serve) -> None:
        """Goes on without this serve. It holds its copies of the sessions until it ends."""
        self._log.error("serve-does-not-end", pid=serve.pid, hint="it waits in the kernel; see /proc/PID/stack")
        self._left.append(serve.pid)
        self._request = None
        self._start_at = time.monotonic()
        serve.close()
        self._serve = None

    def _stop(self) -> None:
        if self._stop_by is None:
            self._log("stopping")
            self._stop_by = time.monotonic() + _STOP_SECONDS
            if self._serve is not None:
                os.kill(self._serve.pid, signal.SIGTERM)

    def _start(self) -> None:
        """Starts serve. What the host has no room for now is tried again: sessions that only keep holds end with it."""
        try:
            self._serve = self._fork()
        except OSError as error:
            self._pause = min(self._pause * 2, _PAUSE_LAST)
            self._start_at = time.monotonic() + self._pause
            self._log.error("serve-not-started", error=error, again_in=f"{self._pause:.1f}")
            return
        self._deaf = self._ending = False
        self._look_at = time.monotonic() + _LOOK_SECONDS
        if not self._introduced:
            self._introduce(self._serve.pid)
        self._log.debug("serve-started", pid=self._serve.pid)

    def _introduce(self, serve: int) -> None:
        """Writes the first lines of the log."""
        self._introduced = True
        try:
            boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        except OSError as error:
            boot_id = f"unknown: {error.strerror}"
        self._log("started", version=__version__, keep=os.getpid(), serve=serve, boot_id=boot_id)
        if isinstance(self._device, DeviceBusy):
            self._log.warning("device-busy", hint="another process has /dev/liveupdate open")
        elif self._device is not None:
            # Somebody has to tell clients and the operator what that means (H20).
            self._log.error("device-broken", error=self._device, hint=self._device.hint)

    def _fork(self) -> _Serve:
        """OSError: EMFILE, ENFILE, EAGAIN, ENOMEM; nothing is left behind."""
        with ExitStack() as undoing:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undoing.callback(ours.close)
            with theirs:
                fds = {words.KEEPER: theirs.fileno(), **self._listening.filenos()}
                fds |= {name: fd.fileno() for name, fd in self._stored.items()}
                pid = os.fork()
                if pid == 0:
                    self._become_serve(fds)
            undoing.callback(_end, pid)
            serve = _Serve(pid, Fd(os.pidfd_open(pid)), ours, time.monotonic())
            undoing.pop_all()
            return serve

    def _become_serve(self, fds: Mapping[str, int]) -> NoReturn:
        """In the child."""
        try:
            environment = {key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"}
            signal.set_wakeup_fd(-1)
            # Ignored until serve has a handler: it reads the policy after that anyway.
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            descriptors.execute(self._arguments, fds, environment)
        except OSError as error:
            self._log.error("serve-cannot-start", error=error)
        finally:
            os._exit(127)

    def _ended(self) -> None:
        assert self._serve is not None
        _pid, status = os.waitpid(self._serve.pid, 0)
        now = time.monotonic()
        lived = now - self._serve.started
        if self._stop_by is None:
            self._pause = _PAUSE_FIRST if lived >= _STEADY_SECONDS else min(self._pause * 2, _PAUSE_LAST)
            self._start_at = now if lived >= _STEADY_SECONDS else now + self._pause
            self._log.warning(
                "serve-ended",
                pid=self._serve.pid,
                status=os.waitstatus_to_exitcode(status),
                again_in=f"{self._start_at - now:.1f}",
            )
        self._serve.close()
        self._serve = None

    def _receive(self) -> None:
        assert self._serve is not None
        try:
            message, fds = framing.receive(self._serve.channel)
        except OSError as error:  # ECONNRESET: it died with an answer unread; the end of the channel comes next
            self._log.debug("channel", error=error)
            return
        except ProtocolError as error:
            self._log.error("channel", error=error)
            self._answer({"ERRNO": errno.EMFILE, "CALL": "recvmsg", "MEANING": "luod keep has no room for more fds"})
            return
        if not message:
            self._deaf = True  # it is ending; its pidfd says when it has ended
            return
        request = words.decode(message)
        self._log.debug("asked", **{key.lower(): value for key, value in request.items()})
        if "CREATE" in request or "RETRIEVE" in request:
            create = "CREATE" in request
            name = request["CREATE" if create else "RETRIEVE"]
            self._request = _DeviceRequest(create, name, time.monotonic() + _PATIENCE_SECONDS)
        elif "FDSTORE" in request and len(fds) == 1:
            self._forget(request["FDNAME"])
            self._stored[request["FDNAME"]] = Fd(fds[0].detach())
            self._answer({"ERRNO": 0})
        elif "FDSTOREREMOVE" in request:
            self._forget(request["FDNAME"])
            self._answer({"ERRNO": 0})
        elif "READY" in request:
            self._listening.ready()
            self._pause = _PAUSE_FIRST
            self._log("ready")
            self._answer({"ERRNO": 0})
        else:
            self._answer({"ERRNO": errno.EINVAL, "CALL": "luod keep", "MEANING": "not understood"})
        for fd in fds:
            fd.close()

    def _forget(self, name: str) -> None:
        if name in self._stored:
            self._stored.pop(name).close()

    def _try_device(self, request: _DeviceRequest) -> None:
        """One stretch of waiting for the device, and the call when it is free. The fd is stored before it is given."""
        try:
            with LiveUpdate(patience=_TRY_SECONDS) as device:
                fd = (device.create if request.create else device.retrieve)(request.name)
        except DeviceBusy as error:
            if time.monotonic() >= request.deadline or self._stop_by is not None:
                self._request = None
                self._answer({"ERRNO": error.errno, "CALL": error.call, "MEANING": error.meaning})
        except KernelRefused as error:
            self._request = None
            self._answer({"ERRNO": error.errno, "CALL": error.call, "MEANING": error.meaning})
        else:
            self._request = None
            prefix = words.OUTGOING if request.create else words.INCOMING
            self._forget(prefix + request.name)
            self._stored[prefix + request.name] = fd
            self._answer({"ERRNO": 0}, fd)

    def _answer(self, answer: Mapping[str, object], fd: Fd | None = None) -> None:
        assert self._serve is not None
        try:
            framing.send(self._serve.channel, words.encode(answer), () if fd is None else (fd.fileno(),))
        except OSError as error:
            # It died meanwhile; what was done for it is in the store, and the next serve sees it there.
            self._log.debug("not-answered", error=error)


def _ended(sessions: Sequence[str]) -> tuple[list[str], KernelRefused | None]:
    """Returns those sessions, by the names of their fds, that no process has open; and the error that cut it short."""
    left = list(sessions)
    try:
        for look in range(_ENDING_LOOKS if left else 0):
            if look:
                # The last fd of a process that is being killed is closed a moment after its death.
                time.sleep(_ENDING_SECONDS)
            with LiveUpdate(patience=_TRY_SECONDS * 10) as device:
                for name in list(left):
                    if _is_gone(device, name):
                        left.remove(name)
            if not left:
                break
    except KernelRefused as error:
        return [name for name in sessions if name not in left], error
    return [name for name in sessions if name not in left], None


def _is_gone(device: LiveUpdate, name: str) -> bool:
    """Asks the kernel by the name, which is taken as long as the session exists (H9)."""
    direction, _, session = name.partition(".")
    try:
        (device.create if direction + "." == words.OUTGOING else device.retrieve)(session).close()
    except (SessionExists, SessionTaken):
        return False
    except NoSuchSession:
        return True
    return True


def _is_ending(pid: int) -> bool:
    """Returns whether a process was killed, or has begun to end."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            flags = int(stat.read().rpartition(")")[2].split()[6])
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
            pending = [int(line.split()[1], 16) for line in status if line.startswith(("SigPnd:", "ShdPnd:"))]
    except (OSError, ValueError, IndexError):
        return False
    return bool(flags & _PF_EXITING) or any(mask >> (signal.SIGKILL - 1) & 1 for mask in pending)


def _end(pid: int) -> None:
    """Kills a child, and reaps it."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def run(
    sessions_socket: str,
    admin_socket: str,
    state_directory: str,
    log_level: str,
    stuck_seconds: float,
    config: str | None,
) -> int:
    """Runs keep. LuodError, before anything was changed, when there is nothing to keep or another luod runs."""
    log = Log("keep", log_level)
    descriptors.raise_limit()
    device: DeviceBusy | DeviceBroken | None = None
    try:
        LiveUpdate().close()
    except (DeviceBusy, DeviceBroken) as error:
        device = error
    arguments = [sys.executable, "-P", "-m", "luod.daemon.main", "serve"]
    arguments += ["--state-directory", state_directory, "--log-level", log_level]
    arguments += ["--end-stuck-after", str(stuck_seconds)]
    if config is not None:
        arguments += ["--config", os.path.abspath(config)]
    with Listening(sessions_socket, admin_socket, state_directory) as listening:
        status = Keeper(listening, arguments, log, device=device).run()
        listening.withdraw()
        # The sockets stay open until the process has ended: closing them closes what clients sent that nobody accepted,
        # which may be sockets that linger, and a process that ends does not wait for those.
        os._exit(status)
