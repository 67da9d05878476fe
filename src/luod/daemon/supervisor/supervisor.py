"""`luod`: holds every session fd, and the listening sockets, so that serve may die at any moment.

It parses nothing from clients. It is the only process of luod that opens /dev/liveupdate: open, one ioctl, close. It
executes the requests of `serve` (`luod.daemon.supervisor.protocol`), and forks `serve` again, with all it holds,
whenever it ends. It knows neither owners nor the registry. It has no event loop and no threads.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib import import_module
from types import MappingProxyType

from luod.daemon.log import Log
from luod.daemon.options import Options
from luod.daemon.supervisor import open_files, protocol
from luod.daemon.supervisor.children import end, has_been_reaped, is_ending, reap, send
from luod.daemon.supervisor.ending import ended_sessions
from luod.daemon.supervisor.init_store import InitStore
from luod.daemon.supervisor.notify import ServiceManager, watchdog_seconds
from luod.daemon.supervisor.other_luod import claim
from luod.daemon.supervisor.passed_fds import passed
from luod.daemon.supervisor.serve_process import Given, fork
from luod.daemon.supervisor.sockets import Listening
from luod.errors import (
    KernelRefused,
    LiveUpdateBroken,
    LiveUpdateBusy,
    ProtocolError,
    Refused,
)
from luod.frozen import frozen
from luod.ipc import framing
from luod.linux import Fd
from luod.liveupdate.device import LiveUpdate
from luod.static import Final
from luod.version import __version__

_PATIENCE_SECONDS: Final = 10.0
"""The maximum wait of a request while another process has /dev/liveupdate open, such as systemd's PID 1 for a moment.
"""
_TRY_SECONDS: Final = 0.1
"""The part of it between two checks for signals and serve."""
_STEADY_SECONDS: Final = 1.0
"""A serve that lived for less died at once; the next one is started later."""
_PAUSE_FIRST: Final = 0.1
_PAUSE_LAST: Final = 5.0
_STOP_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 5.0
"""Seconds between checks whether serve was killed and does not end. One that exists at the second check is given up."""
_IMPORT_SECONDS: Final = 0.05
"""Between two imports: serve imports the same modules at that time."""
_HEAL_SECONDS: Final = 0.5
"""Between two tries to bring PID 1's store up to date."""
_ALIVE_AGAIN_SECONDS: Final = 1.0
"""After a report to the watchdog for which its socket had no room."""
_SPARE_FDS: Final = 32
"""The fds of the limit that keep and serve need for themselves."""
_SESSIONS: Final = (protocol.OUTGOING, protocol.INCOMING)
_NO_ROOM: Final = "luod has no room for more fds"
_STORE_FULL: Final = "systemd's store for luod's unit has no room for one more file"
_STORE_HINT: Final = "raise FileDescriptorStoreMax= of luod.service in a drop-in, then run `systemctl daemon-reload`"
_SEND_TRIES: Final = 5
_SEND_PAUSE: Final = 0.02


@frozen
class _Serve:
    """The running serve. Owns both fds."""

    pid: int
    pidfd: Fd
    channel: socket.socket
    started: float

    def close(self) -> None:
        _close(self.pidfd)
        _close(self.channel)


class _Asked:
    """A message of serve: the requests in it that are not done, and the answers to the others. Owns the fds that came
    with it.
    """

    def __init__(self, requests: deque[dict[str, str]], fds: deque[Fd], deadline: float) -> None:
        """Until `deadline` a request waits for the device."""
        self.requests = requests
        self.fds = fds
        self.deadline = deadline
        self.answers: list[Mapping[str, object]] = []
        self.opened: Fd | None = None
        """The session of the last of these answers. It is the store's."""
        self.ready = False

    def close(self) -> None:
        while self.fds:
            _close(self.fds.popleft())


class Supervisor:
    def __init__(
        self,
        listening: Listening,
        run_serve: Callable[[Given], int],
        log: Log,
        *,
        manager: ServiceManager | None = None,
        copies: InitStore | None = None,
        device: LiveUpdateBusy | LiveUpdateBroken | None = None,
        limit: int = sys.maxsize,
        modules: Sequence[str] = (),
        stored: Mapping[str, Fd] = MappingProxyType({}),
    ) -> None:
        """`run_serve` is serve, and returns its exit status. The caller owns the listening sockets.

        `copies`: PID 1's store. `device`: its answer to the first try. `limit`: the maximum number of fds of a process
        of luod. `modules`: what serve imports later, for the next serve. `stored`: fds that it owns, for the first
        serve.
        """
        self._manager = manager or ServiceManager("")
        self._copies = copies or InitStore(self._manager, 0, "")
        self._watchdog = watchdog_seconds()
        self._alive_at = 0.0
        self._heal_at = 0.0
        self._copies_told = False
        """Whether the log has that PID 1 may lack copies."""
        self._limit = limit
        self._listening = listening
        self._run_serve = run_serve
        self._log = log
        self._stored = dict(stored)
        self._serve: _Serve | None = None
        self._deaf = False
        self._asked: _Asked | None = None
        self._start_at = 0.0
        self._pause = _PAUSE_FIRST
        self._stop_by: float | None = None
        self._device = device
        self._introduced = False
        self._modules = deque(modules)
        """The modules still to be imported, when serve is ready and there is nothing else to do."""
        self._is_ready = False
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
            # Inherited from the parent: children that the kernel reaps, signals that never arrive.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, lambda *_: None)
            try:
                while not (self._stop_by is not None and self._serve is None):
                    self._survive(awake)
            finally:
                signal.set_wakeup_fd(-1)
        self._let_go()
        return 0

    def _let_go(self) -> None:
        """Closes all held fds, and logs the sessions that ended with that: no other process had them open."""
        if self._stored:
            self._log("stopped", fds=len(self._stored), kept_by_pid_1=self._copies.complete)
        if self._copies.complete:
            return
        sessions = [name for name in self._stored if name.startswith(_SESSIONS)]
        files = [name for name in self._stored if name.startswith(protocol.HELD)]
        for fd in self._stored.values():
            _close(fd)
        self._stored.clear()
        if files:
            self._log.warning(
                "files-closed", files=len(files), reason="luod held them for their owners, and is stopped"
            )
        own = (protocol.OUTGOING + protocol.REGISTRY_SESSION, protocol.INCOMING + protocol.REGISTRY_SESSION)
        ended, error = ended_sessions([name for name in sessions if name not in own])
        for name in ended:
            direction, _, session = name.partition(".")
            reason = "only luod had it open, and luod is stopped"
            if name.startswith(protocol.INCOMING):
                reason += "; unless it was finished, what it held is freed"
            self._log.warning("session-lost", name=session, direction=direction, reason=reason)
        if error is not None:
            self._log.warning("sessions-closed", reason=f"which of them others have open is not known: {error}")

    def _survive(self, awake: socket.socket) -> None:
        """Runs a turn that cannot end this process: every session ends with it."""
        try:
            self._turn(awake)
        except Exception as error:  # noqa: BLE001 - a defect must not end every session; known failures are handled below
            try:
                self._log.error("turn-failed", error=repr(error))
            finally:
                time.sleep(_TRY_SECONDS)

    def _turn(self, awake: socket.socket) -> None:
        now = time.monotonic()
        if self._serve is None and now >= self._start_at:
            self._start()
        if self._watchdog and now >= self._alive_at:
            self._alive_at = now + (_ALIVE_AGAIN_SECONDS if self._manager.alive() else self._watchdog / 2)
        self._heal(now)
        poll = select.poll()
        poll.register(awake, select.POLLIN)
        if self._serve is not None:
            poll.register(self._serve.pidfd, select.POLLIN)
            if self._asked is None and not self._deaf:
                poll.register(self._serve.channel, select.POLLIN)
        ready = {number for number, _ in poll.poll(self._wait(now))}
        if not ready and self._modules and self._is_ready:
            import_module(self._modules.popleft())
        signals = _received(awake) if awake.fileno() in ready else set()
        if signals & {signal.SIGTERM, signal.SIGINT}:
            self._stop()
        serve = self._serve
        if signal.SIGHUP in signals:
            # The next serve reads the policy, and reports READY, if there is no serve now.
            self._manager.reloading()
        if serve is None:
            return
        if signal.SIGHUP in signals:
            send(serve.pid, signal.SIGHUP)
        if self._stop_by is not None and time.monotonic() > self._stop_by:
            self._log.warning("serve-killed", pid=serve.pid, reason="it did not end in time")
            send(serve.pid, signal.SIGKILL)
            self._stop_by = float("inf")
        if serve.pidfd.fileno() not in ready and time.monotonic() >= self._look_at and self._is_stuck(serve):
            self._leave(serve)
        elif self._asked is not None and serve.pidfd.fileno() in ready:
            self._give_up_asked()
        elif self._asked is not None:
            self._work(self._asked)
        elif serve.channel.fileno() in ready:
            self._receive()
        elif serve.pidfd.fileno() in ready:
            # Only once all its requests are done: one may still be in the channel.
            self._ended()

    def _wait(self, now: float) -> float | None:
        """Returns the milliseconds until the next deadline; None without one."""
        if self._asked is not None:
            return 0
        if self._serve is None:
            due = self._start_at
        else:
            due = self._look_at if self._stop_by is None else min(self._stop_by, self._look_at)
            if self._modules and self._is_ready:
                due = min(due, now + _IMPORT_SECONDS)
        if self._copies.fault:
            due = min(due, self._heal_at)
        return max(0.0, (due - now) * 1000 + 1)

    def _is_stuck(self, serve: _Serve) -> bool:
        """Returns whether serve is ending since the last look, such as in an uninterruptible call of the kernel."""
        before, self._ending = self._ending, is_ending(serve.pid)
        self._look_at = time.monotonic() + _LOOK_SECONDS
        self._left = [pid for pid in self._left if not has_been_reaped(pid)]
        return before and self._ending

    def _leave(self, serve: _Serve) -> None:
        """Continues without this serve, which holds its copies of the sessions until it ends."""
        self._log.error("serve-does-not-end", pid=serve.pid, hint="it waits in the kernel; see /proc/PID/stack")
        self._left.append(serve.pid)
        self._give_up_asked()
        self._start_at = time.monotonic()
        serve.close()
        self._serve = None

    def _stop(self) -> None:
        if self._stop_by is None:
            self._log("stopping")
            self._manager.stopping()
            self._stop_by = time.monotonic() + _STOP_SECONDS
            if self._serve is not None:
                send(self._serve.pid, signal.SIGTERM)

    def _start(self) -> None:
        """Starts serve. A failure for lack of resources is repeated: the sessions that only keep holds end with it."""
        try:
            self._serve = self._fork()
        except (OSError, MemoryError) as error:
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
        self._log(
            "started", version=__version__, keep=os.getpid(), serve=serve, fds=len(self._stored), boot_id=_boot_id()
        )
        if isinstance(self._device, LiveUpdateBusy):
            self._log.warning("device-busy", hint="another process has /dev/liveupdate open")
        elif self._device is not None:
            # Clients and the operator must learn the meaning of that (docs/hazards.md, H20).
            self._log.error("device-broken", error=self._device, hint=self._device.hint)

    def _fork(self) -> _Serve:
        """Forks serve. Raises OSError: EMFILE, ENFILE, EAGAIN, ENOMEM; nothing is left behind."""
        with ExitStack() as undoing:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undoing.callback(_close, ours)
            try:
                pid = fork(
                    self._run_serve, Given(theirs, self._listening.sessions, self._listening.admin, self._stored)
                )
            finally:
                _close(theirs)
            undoing.callback(end, pid)
            serve = _Serve(pid, Fd(os.pidfd_open(pid)), ours, time.monotonic())
            undoing.pop_all()
            return serve

    def _ended(self) -> None:
        assert self._serve is not None
        status = reap(self._serve.pid)
        now = time.monotonic()
        lived = now - self._serve.started
        if self._stop_by is None:
            self._pause = _PAUSE_FIRST if lived >= _STEADY_SECONDS else min(self._pause * 2, _PAUSE_LAST)
            self._start_at = now if lived >= _STEADY_SECONDS else now + self._pause
            self._log.warning(
                "serve-ended",
                pid=self._serve.pid,
                status="?" if status is None else status,
                again_in=f"{self._start_at - now:.1f}",
            )
        self._serve.close()
        self._serve = None

    def _receive(self) -> None:
        assert self._serve is not None
        try:
            message, fds = framing.receive(self._serve.channel)
        except OSError as error:  # ECONNRESET: it died with an unread answer; the end of the channel comes next
            self._log.debug("channel", error=error)
            return
        except ProtocolError as error:
            self._log.error("channel", error=error)
            self._answer({"ERRNO": errno.EMFILE, "CALL": "recvmsg", "MEANING": _NO_ROOM, "ALL": 1})
            return
        if not message:
            self._deaf = True  # it is ending; its pidfd reports the end
            return
        requests = protocol.decode(message)
        for request in requests:
            self._log.debug("asked", **{key.lower(): value for key, value in request.items()})
        self._asked = _Asked(deque(requests), deque(fds), time.monotonic() + _PATIENCE_SECONDS)
        self._work(self._asked)

    def _work(self, asked: _Asked) -> None:
        """Executes and answers the requests. Returns before they are done while another has the device open."""
        while asked.requests:
            request = asked.requests.popleft()
            try:
                answer = self._execute(request, asked)
            except LiveUpdateBusy as error:
                if time.monotonic() < asked.deadline and self._stop_by is None:
                    asked.requests.appendleft(request)
                    return
                answer = _refusal(error)
            except KernelRefused as error:
                answer = {**_refusal(error), **self._closing(request, error)}
            except Exception as error:  # noqa: BLE001 - serve waits for an answer to each request, also after a defect
                code = (error.errno if isinstance(error, OSError) else None) or errno.EINVAL
                answer = {"ERRNO": code, "CALL": "luod", "MEANING": str(error) or repr(error)}
            asked.answers.append(answer)
            if asked.opened is not None or not asked.requests:
                self._settle()
                self._answer(*asked.answers, session=asked.opened)
                asked.answers, asked.opened = [], None
        self._asked = None
        asked.close()
        if asked.ready and (reason := self._manager.ready()):
            self._log.warning("not-notified", reason=reason, variable="NOTIFY_SOCKET")

    def _execute(self, request: Mapping[str, str], asked: _Asked) -> Mapping[str, object]:
        """Executes one request, and returns the answer. Raises LuodError, OSError, MemoryError."""
        if "FDSTOREREMOVE" in request:
            self._forget(request["FDNAME"])
        elif "READY" in request:
            self._pause = _PAUSE_FIRST
            self._is_ready = True
            self._log("ready")
            asked.ready = True
        elif "FDSTORE" in request and asked.fds:
            fd = asked.fds.popleft()
            if refused := self._no_room():
                _close(fd)
                return refused
            self._keep(request["FDNAME"], fd)
        elif "COPIES" in request:
            copies = self._copies
            if "STORED" in request:
                copies.counted(int(request["STORED"]), int(request["ROOM"]), int(request["CHANGES"]))
                self._tell_of_copies()
            return {
                "ERRNO": 0,
                "FAULT": copies.problem,
                "MISSING": copies.missing,
                "SIZE": copies.size,
                "ROOM": copies.room,
                "CHANGES": copies.changes,
            }
        elif "CREATE" in request or "RETRIEVE" in request or "PROBE" in request:
            if "PROBE" not in request and (refused := self._no_room()):
                return refused
            self._open_session(request, asked)
        else:
            return {"ERRNO": errno.EINVAL, "CALL": "luod", "MEANING": "not understood"}
        return {"ERRNO": 0}

    def _closing(self, request: Mapping[str, str], error: KernelRefused) -> Mapping[str, object]:
        """Returns a mark if the name may be taken only by the copy of PID 1, which closes it a moment later."""
        name = request.get("CREATE", request.get("PROBE", ""))
        return {"CLOSING": 1} if error.errno == errno.EEXIST and self._copies.may_have(protocol.OUTGOING + name) else {}

    def _open_session(self, request: Mapping[str, str], asked: _Asked) -> None:
        """Opens the device, makes the call, and closes it. The fd is stored before it is passed on; that of a probe is
        closed.
        """
        device = LiveUpdate(patience=_TRY_SECONDS if time.monotonic() < asked.deadline else 0.0)
        try:
            if "PROBE" in request:
                _close(device.create(request["PROBE"]))
                return
            name = request.get("CREATE")
            if name is not None:
                fd, stored = device.create(name), protocol.OUTGOING + name
            else:
                fd, stored = device.retrieve(request["RETRIEVE"]), protocol.INCOMING + request["RETRIEVE"]
        finally:
            _close(device)  # An error of it must not lose the session.
        self._keep(stored, fd)
        asked.opened = fd

    def _give_up_asked(self) -> None:
        """Drops the requests of a serve that has ended: it wrote no row for them."""
        if self._asked is not None:
            self._asked.close()
            self._asked = None

    def _keep(self, name: str, fd: Fd) -> None:
        """Holds an fd under a name, in place of any that has it, and has PID 1 hold a copy, which `_settle` awaits."""
        self._forget(name)
        self._stored[name] = fd
        self._copies.put(name, fd)

    def _forget(self, name: str) -> None:
        if name in self._stored:
            self._copies.remove(name)
            _close(self._stored.pop(name))

    def _settle(self) -> None:
        """Waits for PID 1. A client that is answered finds its session again whatever process of luod ends.

        A PID 1 that does not answer in time delays one message. Until it answers, `_heal` repeats what it may have
        missed, and clients are answered without it: their sessions end only if every process of luod does.
        """
        self._copies.settle()
        self._tell_of_copies()

    def _heal(self, now: float) -> None:
        """Continues to bring PID 1's store up to date, after it failed."""
        if self._copies.fault and now >= self._heal_at:
            self._heal_at = now + _HEAL_SECONDS
            self._copies.heal()
            self._tell_of_copies()

    def _tell_of_copies(self) -> None:
        """Logs that PID 1 may lack copies, or that it has all of them again."""
        if bool(problem := self._copies.problem) == self._copies_told:
            return
        self._copies_told = bool(problem)
        if not problem:
            self._log("pid-1-store-again", fds=len(self._stored))
            return
        self._log.error(
            "pid-1-store",
            reason=problem,
            missing=self._copies.missing,
            meaning="if every process of luod ended now, sessions would be lost",
            hint="luod tries again by itself; see `luoctl status`",
        )

    def _no_room(self) -> Mapping[str, object]:
        """Returns a refusal if one more fd would not leave enough to start serve again, which needs each of them too,
        or does not fit into PID 1's store. {} if it may be stored.
        """
        if len(self._stored) + _SPARE_FDS >= self._limit:
            return {"ERRNO": errno.EMFILE, "CALL": "luod", "MEANING": _NO_ROOM}
        if not self._copies.has_room():
            return {"ERRNO": errno.EMFILE, "CALL": "luod", "MEANING": _STORE_FULL, "HINT": _STORE_HINT}
        return {}

    def _answer(self, *answers: Mapping[str, object], session: Fd | None = None) -> None:
        assert self._serve is not None
        message = protocol.encode(*answers)
        for _ in range(_SEND_TRIES):
            try:
                framing.send(self._serve.channel, message, () if session is None else (session.fileno(),))
            except OSError as error:
                failed = error
                if error.errno in (errno.EPIPE, errno.ECONNRESET):
                    # It died meanwhile. The result is in the store, and the next serve finds it there.
                    self._log.debug("not-answered", error=error)
                    return
                time.sleep(_SEND_PAUSE)
            else:
                return
        # It waits for the answer. After its end, the next one finds the result in the store.
        self._log.error("not-answered", error=failed, meaning="serve is ended, and started again")
        send(self._serve.pid, signal.SIGKILL)


def _refusal(error: KernelRefused) -> Mapping[str, object]:
    return {"ERRNO": error.errno, "CALL": error.call, "MEANING": error.meaning}


def _close(fd: Fd | socket.socket | LiveUpdate) -> None:
    """Closes an fd, even if the file reports an error: a file system that is full or gone."""
    with contextlib.suppress(OSError):
        fd.close()


def _received(awake: socket.socket) -> set[int]:
    """Returns the signals that arrived."""
    try:
        return set(awake.recv(100))
    except OSError:
        return set()


def run(options: Options, run_serve: Callable[[Given], int], modules: Sequence[str]) -> int:
    """Runs keep; `modules` as of Supervisor.

    Raises LuodError, before any change, when there is nothing to keep or another luod runs.
    """
    log = Log("keep", options.log_level)
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
    given = passed()
    manager = ServiceManager(os.environ.pop("NOTIFY_SOCKET", ""))
    copies = InitStore(manager, _number("FDSTORE"), _boot_id())
    listening = Listening(
        options.socket,
        options.admin_socket,
        options.state_directory,
        log,
        sessions=given.sessions,
        admin=given.admin,
    )
    with listening:
        stored = copies.recover(given.stored)
        if device is None and protocol.OUTGOING + protocol.REGISTRY_SESSION not in stored:
            for name, session in claim(log, orphan=listening.orphan).items():
                copies.put(name, session)
                stored[name] = session
        status = Supervisor(
            listening,
            run_serve,
            log,
            manager=manager,
            copies=copies,
            stored=stored,
            device=device,
            limit=limit,
            modules=modules,
        ).run()
        listening.withdraw()
        # The sockets stay open until the process has ended: closing them closes clients' unaccepted messages, which may
        # contain sockets that linger, and a process that ends does not wait for those.
        os._exit(status)


def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError as error:
        return f"unknown: {error.strerror}"


def _number(variable: str) -> int:
    """Returns the number in a variable of the environment, which is removed; 0 without one."""
    text = os.environ.pop(variable, "")
    return int(text) if text.isdecimal() else 0
